"""The roster: who takes part, as what, with which keys and until when; signed, and numbered by an epoch.

Every change makes a new epoch. The key that signs it is certified by the consortium's authority, so whoever has pinned
the authority's certificate can check a roster, wherever it comes from. Its digest chain tells the history.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from fedmerge.container import canonical, parse
from fedmerge.errors import Refused
from fedmerge.trust import certificates, dates, keys

PURPOSE = "roster"
ROLES = ("source", "target")
LARGEST = 4 * 2**20  # bytes of a signed roster; a thousand sites need about three million


@dataclass(frozen=True)
class Entry:
    """A site of the consortium.

    Attributes:
        name: the site's.
        roles: "source", "target", or both.
        node_key: the SuperNode's public key, OpenSSH's line.
        signing_key: Ed25519, base64; verifies the site's audit log and requests.
        sealing_key: as `keys.public_text` writes it: ML-KEM-768 and X25519, or X25519 alone, base64.
        certificate: the site's, PEM, made by the authority over the signing key.
        since: from when on, seconds since 1970.
        until: up to when, seconds since 1970.
    """

    name: str
    roles: tuple[str, ...]
    node_key: str
    signing_key: str
    sealing_key: str
    certificate: str
    since: int
    until: int

    def holds(self, now: float) -> bool:
        """Whether the entry is in force at `now`, seconds since 1970."""
        return self.since <= now < self.until


@dataclass(frozen=True)
class Past:
    """A site, or the former keys of one, that take part no more.

    Attributes:
        name: the site's.
        node_key: as in `Entry`.
        signing_key: as in `Entry`; verifies what the site wrote before.
        ended: when, seconds since 1970.
        why: "revoked" or "replaced" (by new keys).
    """

    name: str
    node_key: str
    signing_key: str
    ended: int
    why: str


@dataclass(frozen=True)
class Roster:
    """The consortium at one epoch.

    Attributes:
        consortium: its name.
        epoch: 1, 2, 3, ...
        made: when, seconds since 1970.
        previous: digest of the roster of the epoch before; empty in the first.
        audit_key: Ed25519, base64: verifies the server's audit log.
        entries: the sites, by name.
        past: those who take part no more, in order of time.
        policy: what the consortium proposes and has agreed on: the tables of the server's `policy-template.toml`.
    """

    consortium: str
    epoch: int
    made: int
    previous: str
    audit_key: str
    entries: tuple[Entry, ...] = ()
    past: tuple[Past, ...] = ()
    policy: dict[str, Any] = field(default_factory=dict)

    def find(self, name: str) -> Entry | None:
        """The entry of a site, in force or not; None where it has none."""
        return next((entry for entry in self.entries if entry.name == name), None)

    def by_node_key(self, node_key: str) -> Entry | None:
        """The entry of a SuperNode's public key (OpenSSH's line); None where it has none."""
        return next((entry for entry in self.entries if entry.node_key == node_key), None)

    def left(self, name: str) -> Past | None:
        """The last time that keys of a site of this name ended; None where none did."""
        return next((one for one in reversed(self.past) if one.name == name), None)

    @property
    def digest(self) -> str:
        """`sha256:` and the hex digest of the canonical body."""
        return "sha256:" + hashlib.sha256(_body(self)).hexdigest()


def seal(roster: Roster, key: Ed25519PrivateKey, certificate: x509.Certificate) -> bytes:
    """The roster, signed, as the bytes of a JSON file.

    Args:
        roster: what is signed.
        key: the roster's key.
        certificate: the authority's word for that key; travels along.
    """
    body = _body(roster)
    envelope = {
        "fedmerge": PURPOSE,
        "version": 1,
        "body": json.loads(body),
        "certificate": certificate.public_bytes(Encoding.PEM).decode(),
        "signature": keys.sign(key, PURPOSE, body),
    }
    return to_bytes(envelope)


def to_bytes(envelope: object) -> bytes:
    """A signed roster, as it was read from JSON, as the bytes of a file."""
    return (json.dumps(envelope, indent=1, sort_keys=True) + "\n").encode()


def open(data: bytes, authority: x509.Certificate, now: float, *, ended: bool = False) -> Roster:
    """The roster of a signed file, checked.

    Args:
        data: as `seal` made it.
        authority: the consortium's certificate of authority, which the reader has pinned.
        now: seconds since 1970.
        ended: whether the certificate of its key may have ended, for a roster of the past that a newer one follows.

    Raises:
        Refused: it was edited, or signed by another key, or it is no roster.
    """
    if len(data) > LARGEST:
        raise Refused(f"the roster expected at most {LARGEST} bytes, got {len(data)}")
    envelope = _table(parse(data, "the roster"), ("fedmerge", "version", "body", "certificate", "signature"), "roster")
    if envelope["fedmerge"] != PURPOSE or envelope["version"] != 1:
        raise Refused(f"the roster expected version 1, got {envelope['fedmerge']!r:.40} {envelope['version']!r:.40}")
    for name in ("certificate", "signature"):
        if not isinstance(envelope[name], str):
            raise Refused(f"the roster's '{name}' expected a text, got {type(envelope[name]).__name__}")
    signer = certificates.read(envelope["certificate"].encode(), "the roster's certificate")
    at = min(now, certificates.dates_of(signer)[1] - 1) if ended else now
    certificates.check(signer, authority, certificates.ROSTER, at, "the roster's certificate")
    key = signer.public_key()
    if not isinstance(key, Ed25519PublicKey):
        raise Refused("the roster's certificate expected an Ed25519 key")
    body = canonical(envelope["body"]).encode()
    try:
        keys.verify(key, PURPOSE, body, envelope["signature"])
    except Refused:
        raise Refused("the roster was changed after it was signed, or another key signed it") from None
    return _from_table(envelope["body"])


def newer(seen: Roster | None, fresh: Roster) -> Roster:
    """The fresh roster, unless it goes back behind the one seen before.

    Raises:
        Refused: another consortium's, an older epoch, or the same epoch with another content.
    """
    if seen is None:
        return fresh
    if fresh.consortium != seen.consortium:
        raise Refused(f"the roster expected consortium {seen.consortium}, got {fresh.consortium}")
    if fresh.epoch < seen.epoch:
        raise Refused(f"the roster of epoch {fresh.epoch} is older than the one seen, of epoch {seen.epoch}")
    if fresh.epoch == seen.epoch and fresh.digest != seen.digest:
        raise Refused(f"there are two rosters of epoch {fresh.epoch}: another one was seen before")
    return fresh


def _body(roster: Roster) -> bytes:
    """The canonical JSON that is signed; moments as text."""
    table = asdict(roster)
    table["made"] = dates.text(roster.made)
    for one in table["entries"]:
        one |= {"since": dates.text(one["since"]), "until": dates.text(one["until"])}
    for one in table["past"]:
        one["ended"] = dates.text(one["ended"])
    return canonical(table).encode()


def _from_table(raw: object) -> Roster:
    """The record of a body, every value checked; it was signed, but a record must be what its type says."""
    table = _table(raw, [f.name for f in fields(Roster)], "roster")
    _texts(table, ("consortium", "previous", "audit_key"), "roster")
    if type(table["epoch"]) is not int or table["epoch"] < 1:
        raise Refused(f"the roster's epoch expected 1 or more, got {table['epoch']!r:.40}")
    if not isinstance(table["policy"], dict):
        raise Refused("the roster's policy expected a table")
    keys.signing_of(table["audit_key"], "the roster's audit key")
    entries = tuple(_entry(one) for one in _list(table["entries"]))
    for attribute in ("name", "node_key", "signing_key"):
        values = [getattr(entry, attribute) for entry in entries]
        if len(set(values)) != len(values):
            raise Refused(f"the roster has two entries of the same {attribute}")
    return Roster(
        consortium=table["consortium"],
        epoch=table["epoch"],
        made=dates.seconds(table["made"], "the roster's 'made'"),
        previous=table["previous"],
        audit_key=table["audit_key"],
        entries=entries,
        past=tuple(_past(one) for one in _list(table["past"])),
        policy=table["policy"],
    )


def _entry(raw: object) -> Entry:
    table = _table(raw, [f.name for f in fields(Entry)], "roster's entry")
    _texts(table, ("name", "node_key", "signing_key", "sealing_key", "certificate"), "roster's entry")
    who = f"the roster's entry of {table['name']:.80}"
    roles = table["roles"]
    if not isinstance(roles, list) or not roles or any(role not in ROLES for role in roles):
        raise Refused(f"{who}: roles expected some of {', '.join(ROLES)}, got {roles!r:.60}")
    keys.node_of(table["node_key"], who)
    keys.signing_of(table["signing_key"], who)
    keys.sealing_of(table["sealing_key"], who)
    since, until = (dates.seconds(table[key], f"{who}: '{key}'") for key in ("since", "until"))
    return Entry(**{**table, "roles": tuple(roles), "since": since, "until": until})


def _past(raw: object) -> Past:
    table = _table(raw, [f.name for f in fields(Past)], "roster's past")
    _texts(table, ("name", "node_key", "signing_key", "why"), "roster's past")
    return Past(**{**table, "ended": dates.seconds(table["ended"], "the roster's past: 'ended'")})


def _table(raw: object, known: tuple[str, ...] | list[str], what: str) -> dict[str, Any]:
    if not isinstance(raw, dict) or raw.keys() != set(known):
        got = ", ".join(map(str, raw)) if isinstance(raw, dict) else type(raw).__name__
        raise Refused(f"the {what} expected {', '.join(known)}, got {got:.200}")
    return raw


def _list(raw: object) -> list[Any]:
    if not isinstance(raw, list):
        raise Refused(f"the roster expected a list, got {type(raw).__name__}")
    return raw


def _texts(table: Mapping[str, Any], names: tuple[str, ...], what: str) -> None:
    for name in names:
        if not isinstance(table[name], str):
            raise Refused(f"the {what}: '{name}' expected a text, got {type(table[name]).__name__}")
