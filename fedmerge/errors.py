"""The exceptions that users meet.

    FedmergeError
    ├── ConfigError       a campaign, a site's file or an option of the command says something impossible
    ├── DataError         a file of a site cannot be used as it is
    ├── NetError          a net cannot be merged as it is (buffers, names, shapes)
    ├── DeviceError       one of several devices that train together failed
    ├── Refused           something came from another party and is not what was agreed
    │   └── SealError     a sealed file could not be opened; it never says why
    └── CampaignStopped   a campaign ended before its time; what it had is on disk
        └── Absent        a site is not there, or does not answer any more

Each message is one sentence that names the site, the file or the tensor, what was expected and what came.
The command line prints that sentence and exits with code 2.
"""


class FedmergeError(Exception):
    """Any error that fedmerge raises on purpose."""


class ConfigError(FedmergeError):
    """A setting is unknown, missing or impossible."""


class DataError(FedmergeError):
    """A file of a site cannot be used as it is."""


class NetError(FedmergeError):
    """A net cannot be merged as it is."""


class DeviceError(FedmergeError):
    """One of several devices that train together failed, or does not answer."""


class Refused(FedmergeError):
    """Something that another party sent is not what was agreed."""


class SealError(Refused):
    """A sealed file could not be opened: always the same sentence, whatever the reason."""

    def __init__(self) -> None:
        super().__init__("the sealed file could not be opened")


class CampaignStopped(FedmergeError):
    """The campaign could not go on; its finished phases are on disk, and `--resume` continues."""


class Absent(CampaignStopped):
    """A site is not there, or did not answer in time; a campaign may go on without a source."""
