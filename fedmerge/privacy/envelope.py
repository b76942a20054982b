"""What sites of a campaign seal to each other: the facts of a header, and how large a sealed file may be."""

from typing import TYPE_CHECKING

from fedmerge.container import canonical
from fedmerge.privacy.header import CHUNK, KEY, LONGEST, SIGNATURE, SUITES, TAG, Facts, schema_of

if TYPE_CHECKING:
    from fedmerge.tasks import Net

CONTRIBUTION, BODY = WHATS = ("contribution", "body")


def facts(run: str, key: str, what: str, sender: str, receiver: str, net: "Net") -> Facts:
    """The facts of a sealed contribution, or of its body.

    Args:
        run: of the campaign.
        key: of the task that made it: no other task of any campaign has the same.
        what: one of `WHATS`.
        sender: the site that made it.
        receiver: the site that opens it.
        net: the sender's.
    """
    answered = {"labels": list(net.labels)} | ({"regions": net.regions} if net.regions else {})
    schema = canonical({"what": what, "net": net.settings, **answered, "channels": net.in_channels})
    return Facts(run, key, sender, receiver, schema_of(schema))


def length(plain: int) -> int:
    """The most bytes that a sealed file of so many bytes of plaintext has."""
    encapsulated = max(size for _, size in SUITES.values())
    return plain + TAG * (plain // CHUNK + 1) + LONGEST + encapsulated + KEY + TAG + SIGNATURE + 64
