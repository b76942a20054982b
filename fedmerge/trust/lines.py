"""One line of an audit log: its fields, its one canonical form, and what its head and its signature are made of."""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from fedmerge.container import canonical, parse
from fedmerge.errors import Refused
from fedmerge.trust import dates

Way = Literal["in", "out", "refused", "note"]
WAYS: tuple[str, ...] = get_args(Way)
SERVER = "server"  # owner of the server's log, and its name as a peer in those of the sites
PURPOSE = "audit line"
NOTHING = "0" * 64  # the head of an empty log
LONGEST = 500  # characters of a text; what others send is cut, so that a line stays a line
TAIL = 64 * 2**10  # bytes; no line is longer


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        n: its number, from 1.
        at: when it was written, as `dates.text` writes it, by the owner's clock.
        owner: whose log it is: a site's name, or `SERVER`.
        way: "in", "out", "refused" (nothing was done), or "note" (an event at home).
        what: what came or went, in words that a reader of the log knows ("contribution", "ask train.contribute").
        purpose: why: the phase, say.
        size: bytes of the payload; 0: none.
        digest: `sha256:` and the hex digest of the payload; empty: none.
        peer: the other side: a site's name, or `SERVER`.
        peer_head: the head of the other side's log, as its message told; empty: none was told.
        reason: of a refusal, or more about a note.
        campaign: the campaign it belongs to; empty: none.
        previous: the head before this line.
        signature: by the owner's key, over all the others.
    """

    n: int
    at: str
    owner: str
    way: str
    what: str
    purpose: str
    size: int
    digest: str
    peer: str
    peer_head: str
    reason: str
    campaign: str
    previous: str
    signature: str

    @property
    def head(self) -> str:
        """The head of the log that ends with this line: SHA-256 of its bytes, in hex."""
        return hashlib.sha256(self.encode()).hexdigest()

    def encode(self) -> bytes:
        """The line's bytes, without its end."""
        return canonical(asdict(self)).encode()

    def signed(self) -> bytes:
        """What the signature is over."""
        return canonical({key: value for key, value in asdict(self).items() if key != "signature"}).encode()


def raw_lines(path: Path) -> Iterator[tuple[bytes, bool]]:
    """(bytes without the end, whether there was an end) of each line; overlong ones are cut."""
    with path.open("rb") as file:
        while raw := file.readline(TAIL + 1):
            yield raw.removesuffix(b"\n"), raw.endswith(b"\n")


def read_line(raw: bytes) -> Line:
    """The line of these bytes, which must be its one canonical form; a Refused where they are not."""
    try:
        table = parse(raw, "it")
    except Refused:
        table = None
    kinds = {field.name: field.type for field in fields(Line)}
    if not isinstance(table, dict) or table.keys() != kinds.keys():
        raise Refused("it is no line of an audit log")
    for name, kind in kinds.items():
        if type(table[name]) is not kind:
            raise Refused(f"its '{name}' is of another kind")
    line = Line(**table)
    if line.encode() != raw:
        raise Refused("it is not in canonical form")
    if line.way not in WAYS:
        raise Refused(f"its 'way' expected one of {', '.join(WAYS)}, got {line.way!r:.40}")
    dates.seconds(line.at, "its 'at'")
    return line


def short(text: str) -> str:
    """A text that others sent, cut so that a line stays a line."""
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
