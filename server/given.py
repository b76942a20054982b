"""A file of the coordinator's that stands in for a source's training."""

from pathlib import Path

from fedmerge import wire
from fedmerge.contribution import Contribution
from fedmerge.errors import ConfigError, Refused


def read(path: Path, site: str) -> Contribution:
    """A stored contribution that stands in for a site's training.

    Raises:
        ConfigError: the file is missing.
        Refused: it is no contribution, or another site's.
    """
    if not path.exists():
        raise ConfigError(f"{site}: there is no contribution {path}")
    found = wire.read(path, site=site)
    if found.site != site:
        raise Refused(f"{site}: expected this site's contribution in {path.name}, got that of '{found.site}'")
    return found
