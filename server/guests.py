"""Who may pass the front door: a site whose key is on the current roster, and who signed the moment of its call.

Whoever may not is told nothing; why is in the server's audit log.
"""

import base64
import binascii
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedmerge.errors import FedmergeError
from fedmerge.trust import keys, roster
from fedmerge.trust.roster import Entry

log = logging.getLogger("fedmerge.door")

KEY, SIGNATURE, MOMENT = "flwr-public-key", "flwr-signature", "flwr-timestamp"
BEHIND_S, AHEAD_S = 305.0, 5.0  # Flower's own window around the signed moment

Guest = tuple[Entry, ec.EllipticCurvePublicKey]


class Turned(FedmergeError):
    """A call that does not pass; the text is for the server's own eyes only.

    Args:
        reason: the text.
        site: whose key has signed the call; empty where that is not known.
    """

    def __init__(self, reason: str, site: str = "") -> None:
        super().__init__(reason)
        self.site = site


class Guests:
    """The roster's sites by key, read anew when the file changes.

    Args:
        path: the roster's file.
        authority: the consortium's certificate; a roster that it does not vouch for lets nobody in.
        clock: seconds since 1970.
    """

    def __init__(self, path: Path, authority: x509.Certificate, clock: Callable[[], float] = time.time) -> None:
        self._path, self._authority, self.clock = path, authority, clock
        self._mark: tuple[int, int, int] | None = None
        self._known: dict[bytes, Guest] = {}

    def known(self) -> Mapping[bytes, Guest]:
        """PEM of the key -> site and key; nobody where the roster cannot be read."""
        try:
            facts = self._path.stat()
            mark = (facts.st_mtime_ns, facts.st_ino, facts.st_size)
            if mark != self._mark:
                self._mark, self._known = mark, {}
                current = roster.open(self._path.read_bytes(), self._authority, self.clock())
                keyed = [(entry, keys.node_of(entry.node_key, entry.name)) for entry in current.entries]
                self._known = {pem(key): (entry, key) for entry, key in keyed}
        except (OSError, FedmergeError) as error:
            self._mark, self._known = None, {}  # what cannot be read now may be readable the next time
            log.error("nobody may pass: %s", error)  # noqa: TRY400 - the sentence says it all
        return self._known

    def admit(self, headers: Mapping[str, str]) -> str:
        """The name of the site that makes a call.

        Args:
            headers: of the call, with names in lower case.

        Raises:
            Turned: the key is not on the roster, not valid now, or did not sign this moment.
        """
        try:
            shown = base64.b64decode(headers[KEY], validate=True)
            signature = base64.b64decode(headers[SIGNATURE], validate=True)
            moment = datetime.fromisoformat(headers[MOMENT]).timestamp()
        except (KeyError, ValueError, OverflowError, binascii.Error):
            raise Turned("no key, signature and moment in the headers") from None
        if shown not in self.known():
            raise Turned("the key is not on the roster")
        (entry, key), now = self.known()[shown], self.clock()
        try:
            key.verify(signature, headers[MOMENT].encode(), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise Turned(f"the signature is not {entry.name}'s") from None
        if not entry.holds(now):
            raise Turned(f"the certificate of {entry.name} is not valid now", entry.name)
        if not -AHEAD_S < now - moment < BEHIND_S:
            raise Turned(f"the clock of {entry.name} is {moment - now:+.0f} s off", entry.name)
        return entry.name


def pem(key: ec.EllipticCurvePublicKey) -> bytes:
    """A key as Flower's nodes send it."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def who(headers: Mapping[str, str]) -> str:
    """A short name for the key of a call: the start of its SHA-256, or a dash without a key."""
    given = headers.get(KEY, "")
    return hashlib.sha256(given.encode()).hexdigest()[:16] if given else "-"


@dataclass
class Visits:
    """What passed the door for one site since the door was opened.

    Attributes:
        seen: when it last passed, seconds since 1970.
        activated: when its node last began anew.
        turned: when it was last turned away, and `reason` why.
        address: where it last came from.
        calls: how often it passed.
        bytes_in: what it sent; `bytes_out`: what it got.
    """

    seen: float = 0.0
    activated: float = 0.0
    turned: float = 0.0
    reason: str = ""
    address: str = ""
    calls: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class Book:
    """When each site was last seen, and how much it sent and got; kept in a file that `status` reads."""

    def __init__(self, path: Path) -> None:
        self._path, self._written = path, ""
        self.visits: dict[str, Visits] = {}

    def of(self, name: str) -> Visits:
        """The visits of a site."""
        return self.visits.setdefault(name, Visits())

    def text(self, turned: int) -> str:
        """What the file holds: the visits, and how many calls did not pass."""
        return json.dumps({"turned": turned, "sites": {name: asdict(v) for name, v in self.visits.items()}}, indent=1)

    def keep(self, text: str) -> None:
        """Write the file if anything changed; a full disk is no reason to close the door."""
        if text == self._written:
            return
        partial = self._path.with_name(f".{self._path.name}.part")
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(self._path)
            self._written = text
        except OSError as error:
            log.warning("%s could not be written: %s", self._path, error.strerror)


def read_book(path: Path) -> dict[str, Any]:
    """Site -> what a `Book` kept of it; empty before the door was ever open."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["sites"]
    except (OSError, ValueError, KeyError):
        return {}
    return found
