"""One ask as messages: large payloads in parts both ways, and a question again and again while a site works.

    query.have     which of these files are there, and how much of each
    query.put      a part of a file for the site
    the ask        with the small payloads, and the list of the large ones
    query.job      again and again, where the site answers that it is still at it
    query.part     a part of a file of the site's

A site that has lost a file or a job, because it was started anew, says so; then the ask begins again from the top, and
what is on either disk already does not travel twice.
"""

import contextlib
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
AHEAD = 2  # parts under way at a time: the next one waits at the node while one travels
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
        letter = yield from _one(Send(asked, asked.kind, asked.task, small, note, asked.what))
        while "later" in letter.note:
            task = {"job": str(letter.note["later"])[:64]}
            letter = yield from _one(Send(asked, "query.job", task, {}, way.note, "waiting"))
        if "unknown" in letter.note:
            continue
        for name, data in letter.payload.items():
            _check(name, len(data), asked)
        coming = parts.manifest(letter.note.get("parts", {}), asked.site)
        if twice := coming.keys() & letter.payload.keys():
            raise Refused(f"{asked.site}: {min(twice)} came whole and in parts")
        found: dict[str, Path] = {}
        for name, (sha, size) in coming.items():
            _check(name, size, asked)
            if (path := (yield from _pull(asked, name, sha, size, shelf, way))) is None:
                break
            found[name] = path
        else:
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


def _one(send: Send) -> Generator[list[Send], tuple[Send, Letter], Letter]:
    """Send one message and wait for what comes back."""
    _, letter = yield [send]
    return letter


def _push(
    asked: Ask, large: dict[str, bytes | Path], listed: Manifest, way: Way
) -> Generator[list[Send], tuple[Send, Letter], None]:
    """Bring to the site what it does not have yet of each file, `AHEAD` parts at a time."""
    blobs = dict(listed.values())
    letter = yield from _one(Send(asked, "query.have", {"blobs": blobs}, {}, way.note, asked.what))
    answer = letter.task.get("there")
    for name, (sha, size) in listed.items():
        there = _count(answer.get(sha) if isinstance(answer, dict) else None, size, asked)
        tries, most, offset, out = 0, there, there, 0
        while there < size or out:
            new: list[Send] = []
            while out + len(new) < AHEAD and offset < size:
                data = _slice(large[name], offset, way.part_bytes)
                task = {"sha256": sha, "size": size, "offset": offset}
                new.append(Send(asked, "query.put", task, {"part": data}, way.note, asked.what))
                offset += len(data)
            _, letter = yield new
            out += len(new) - 1
            there = _count(letter.task.get("there"), size, asked)
            if out == 0 and there < offset:  # a part was passed over, or all of it was no good and was thrown away
                tries += there <= most
                if tries > MOST_TRIES:
                    raise Refused(f"{asked.site}: {name} expected more than {most} bytes to be there, got {there}")
                offset = there
            most = max(most, there)


def _pull(
    asked: Ask, name: str, sha: str, size: int, shelf: Shelf, way: Way
) -> Generator[list[Send], tuple[Send, Letter], Path | None]:
    """Fetch a file of the site's, `AHEAD` parts at a time; None where the site does not have it any more."""
    tries, offset, out, lost = 0, shelf.there(sha), 0, False
    early: dict[int, bytes] = {}
    while (path := shelf.whole(sha)) is None or out:
        new: list[Send] = []
        while out + len(new) < AHEAD and offset < size and not lost and path is None:
            most = min(way.part_bytes, size - offset)
            task = {"sha256": sha, "offset": offset, "length": most}
            new.append(Send(asked, "query.part", task, {}, way.note, asked.what))
            offset += most
        if not new and not out:
            if lost:
                return None
            early.clear()
            offset, tries = shelf.there(sha), tries + 1
            if tries > MOST_TRIES:
                raise Refused(f"{asked.site}: {name} expected {size} bytes of SHA-256 {sha[:12]}, got others")
            continue
        send, letter = yield new
        out += len(new) - 1
        if "unknown" in letter.note:
            lost = True
            continue
        data, most = letter.payload.get("part", b""), send.task["length"]
        if not 0 < len(data) <= most:
            raise Refused(f"{asked.site}: a part of {name} expected {most} bytes, got {len(data)}")
        early[send.task["offset"]] = data
        with contextlib.suppress(Refused):  # what was there is no good, and was thrown away
            while (there := shelf.there(sha)) in early and shelf.whole(sha) is None:
                shelf.add(sha, size, there, early.pop(there))
    return path


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
