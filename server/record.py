"""What the server writes down of its traffic: a line of the audit log for all that was sent, came or was refused.

A server with a home has an audit log. A simulation has none, and its witness says nothing.
"""

from fedmerge.trust import audit, keys
from fedmerge.trust.audit import Way
from server.home import Paths


class Witness:
    """The lines of one campaign.

    Args:
        log: where they go; None: nowhere.
        campaign: the campaign's name, which every line carries.
    """

    def __init__(self, log: audit.Log | None = None, campaign: str = "") -> None:
        self._log, self._campaign = log, campaign

    @property
    def writes(self) -> bool:
        """Whether there is a log."""
        return self._log is not None

    @property
    def head(self) -> str:
        """Digest of the log's last line, which travels with every message; an empty text without a log."""
        return self._log.head if self._log is not None else ""

    def sent(self, site: str, what: str, size: int = 0, digest: str = "", purpose: str = "") -> None:
        """Something left for a site."""
        self._line("out", site, what, size=size, digest=digest, purpose=purpose)

    def came(
        self, site: str, what: str, size: int = 0, digest: str = "", purpose: str = "", peer_head: str = ""
    ) -> None:
        """Something came from a site, whose own log then ended with `peer_head`."""
        self._line("in", site, what, size=size, digest=digest, purpose=purpose, peer_head=peer_head)

    def refused(self, site: str, what: str, reason: str, size: int = 0, digest: str = "") -> None:
        """What a site sent was not what was agreed."""
        self._line("refused", site, what, size=size, digest=digest, reason=reason)

    def note(self, site: str, what: str, reason: str = "", digest: str = "") -> None:
        """Something was decided about a site, such as going on without it."""
        self._line("note", site, what, digest=digest, reason=reason)

    def _line(
        self,
        way: Way,
        site: str,
        what: str,
        *,
        purpose: str = "",
        size: int = 0,
        digest: str = "",
        peer_head: str = "",
        reason: str = "",
    ) -> None:
        if self._log is not None:
            self._log.append(
                way=way,
                what=what,
                purpose=purpose,
                size=size,
                digest=digest,
                peer=site,
                peer_head=peer_head,
                reason=reason,
                campaign=self._campaign,
            )


def of(home: Paths, campaign: str = "") -> Witness:
    """The witness of a server's home, for one campaign or for a command.

    Raises:
        OSError: the key of its audit log cannot be read.
    """
    return Witness(audit.Log(home.audit, keys.read_signing(home.audit_key), audit.SERVER), campaign)
