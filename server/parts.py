"""One ask as messages: large payloads in parts both ways, and a question again and again while a site works.

    query.have     which of these files are there, and how much of each
    query.put      a part of a file for the site
    the ask        with the small payloads, and the list of the large ones
    query.job      again and again, where the site answers that it is still at it
    query.part     a part of a file of the site's

A site that has lost a file or a job, because it was started anew, says so; then the ask begins again from the top, and
what is on either disk already does not travel twice.
"""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmerge import parts
from fedmerge.errors import CampaignStopped, Refused
from fedmerge.parts import PART_BYTES, Manifest, Shelf
from fedmerge.transport import Letter
from server.asks import Answer, Ask, Flow, Payload, Send

HOLD_S = 15.0  # how long a real site may keep a message before it answers that it is still at it
MOST_TRIES = 2  # of a file whose bytes are not what its digest names
MOST_TIMES = 100  # an ask begins so often at most: a site that forgets each time is broken


@dataclass(frozen=True)
class Way:
    """How large payloads and long work travel.

    Attributes:
        incoming: where files of the sites are collected, a folder a site.
        campaign: its name, which a site's policy may ask for.
        part_bytes: the largest payload that travels whole, and the length of a part.
        hold_s: how long a site may keep a message before it answers that it is still at it; None: until it is done.
    """

    incoming: Path
    campaign: str = ""
    part_bytes: int = PART_BYTES
    hold_s: float | None = None

    @property
    def note(self) -> dict[str, Any]:
        """What every message tells the site."""
        return {"campaign": self.campaign, "part_bytes": self.part_bytes} | (
            {} if self.hold_s is None else {"hold_s": self.hold_s}
        )


def ask(asked: Ask, way: Way) -> Flow:
    """The messages of one ask.

    Raises:
        Refused: what the site answers is not of this form, or larger than `asked.most`.
        CampaignStopped: it forgets the ask each time.
    """
    small, large = divide(asked.payload, way.part_bytes)
    listed = {name: (parts.digest(data), parts.length(data)) for name, data in large.items()}
    shelf = Shelf(way.incoming / asked.site)
    for _ in range(MOST_TIMES):
        if listed:
            yield from _push(asked, large, listed, way)
        note = way.note | ({"parts": listed} if listed else {})
        letter = yield Send(asked, asked.kind, asked.task, small, note, asked.what)
        while "later" in letter.note:
            task = {"job": str(letter.note["later"])[:64]}
            letter = yield Send(asked, "query.job", task, {}, way.note, "waiting")
        if "unknown" in letter.note:
            continue
        for name, data in letter.payload.items():
            _check(name, len(data), asked)
        coming = parts.manifest(letter.note.get("parts", {}), asked.site)
        if twice := coming.keys() & letter.payload.keys():
            raise Refused(f"{asked.site}: {min(twice)} came whole and in parts")
        if (found := (yield from _pull(asked, coming, shelf, way))) is not None:
            return Answer(letter.task, {**letter.payload, **found})
    raise CampaignStopped(f"{asked.site} lost {asked.kind} {MOST_TIMES} times; its log may have the reason")


def divide(payload: Payload, most: int) -> tuple[dict[str, bytes], dict[str, bytes | Path]]:
    """What travels whole, of at most `most` bytes together, and what travels in parts."""
    small: dict[str, bytes] = {}
    large: dict[str, bytes | Path] = {}
    room = most
    for name, data in sorted(payload.items(), key=lambda item: parts.length(item[1])):
        if (size := parts.length(data)) <= room:
            small[name] = data.read_bytes() if isinstance(data, Path) else data
            room -= size
        else:
            large[name] = data
    return {name: small[name] for name in payload if name in small}, large


def _push(asked: Ask, large: dict[str, bytes | Path], listed: Manifest, way: Way) -> Generator[Send, Letter, None]:
    """Bring to the site what it does not have yet of each file."""
    letter = yield Send(asked, "query.have", {"blobs": dict(listed.values())}, {}, way.note, asked.what)
    answer = letter.task.get("there")
    for name, (sha, size) in listed.items():
        there = _count(answer.get(sha) if isinstance(answer, dict) else None, size, asked)
        before, tries = -1, 0
        while there < size:
            tries += there <= before  # what was there is no good, and was thrown away
            if tries > MOST_TRIES:
                raise Refused(f"{asked.site}: {name} expected more than {before} bytes to be there, got {there}")
            data = _slice(large[name], there, way.part_bytes)
            task = {"sha256": sha, "size": size, "offset": there}
            letter = yield Send(asked, "query.put", task, {"part": data}, way.note, asked.what)
            before, there = there, _count(letter.task.get("there"), size, asked)


def _pull(asked: Ask, coming: Manifest, shelf: Shelf, way: Way) -> Generator[Send, Letter, dict[str, Path] | None]:
    """Fetch the site's files; None where the site does not have them any more."""
    found = {}
    for name, (sha, size) in coming.items():
        _check(name, size, asked)
        tries = 0
        while (path := shelf.whole(sha)) is None:
            there = shelf.there(sha)
            most = min(way.part_bytes, size - there)
            task = {"sha256": sha, "offset": there, "length": most}
            letter = yield Send(asked, "query.part", task, {}, way.note, asked.what)
            if "unknown" in letter.note:
                return None
            data = letter.payload.get("part", b"")
            if not 0 < len(data) <= most:
                raise Refused(f"{asked.site}: a part of {name} expected {most} bytes, got {len(data)}")
            try:
                shelf.add(sha, size, there, data)
            except Refused as error:  # what was there is no good, and was thrown away
                tries += 1
                if tries > MOST_TRIES:
                    raise Refused(f"{asked.site}: {name} {error}") from None
        found[name] = path
    return found


def _check(name: str, size: int, asked: Ask) -> None:
    if size > asked.most:
        raise Refused(f"{asked.site}: a {name} expected at most {asked.most} bytes, got {size}")


def _count(there: Any, size: int, asked: Ask) -> int:  # noqa: ANN401 - as it came
    if type(there) is not int or not 0 <= there <= size:
        raise Refused(f"{asked.site}: expected a number of bytes up to {size} to be there, got {there!r:.40}")
    return there


def _slice(data: bytes | Path, offset: int, length: int) -> bytes:
    if isinstance(data, bytes):
        return data[offset : offset + length]
    with data.open("rb") as file:
        file.seek(offset)
        return file.read(length)
