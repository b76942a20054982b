"""Large payloads at the site: files that the server brings in parts, and files that it fetches in parts.

What leaves is laid out in `WORK/outgoing` under its digest, together with the policy that let it go. Where the policy
has changed since, it is gone: the server asks from the top, and the door out is asked once more.
"""

import contextlib
import hashlib
import shutil
from pathlib import Path
from typing import Any

from fedmerge import parts
from fedmerge.errors import Refused
from fedmerge.parts import Manifest, Shelf
from sites.inbound import Declined
from sites.records import Policy, Site

MOST_FILE = 8 * 2**30  # bytes of one file from the server
MOST_FILES = 32 * 2**30  # bytes of all of them
MOST_WAITING = 256  # files that are begun, or wait for their task
OLD_DAYS = 14.0  # what nobody has added to for so long is thrown away


def incoming(site: Site) -> Shelf:
    """The files that the server brings."""
    return Shelf(site.work / "incoming")


def outgoing(site: Site) -> Shelf:
    """The files that the server may fetch."""
    return Shelf(site.work / "outgoing")


def received(site: Site, name: str) -> Path:
    """Where weights lie that later tasks refer to by their digest."""
    return site.work / "received" / f"{name.removeprefix('sha256:')}.safetensors"


def sweep(site: Site) -> None:
    """Throw away what was never finished, or never fetched."""
    for shelf in (incoming(site), outgoing(site)):
        shelf.sweep(parts.days_ago(OLD_DAYS))


def have(site: Site, task: dict[str, Any]) -> dict[str, Any]:
    """How much of each file is there.

    Raises:
        Declined: the task is not of its form.
    """
    asked = task.get("blobs")
    names = asked if isinstance(asked, dict) and len(asked) <= parts.MOST_NAMES else {"": 0}
    for sha in names:
        if not parts.SHA256.fullmatch(sha):
            raise Declined(f"{site.name}: expected up to {parts.MOST_NAMES} files by their SHA-256")
    return {"there": {sha: incoming(site).there(sha) for sha in names}}


def put(site: Site, task: dict[str, Any], data: bytes) -> dict[str, Any]:
    """Take a part of a file in.

    Returns:
        how much of it is there: nothing, where it was complete and was not what its digest names.

    Raises:
        Declined: the task is not of its form, or the file, or all files together, are too large.
    """
    sha, size, offset = task.get("sha256"), task.get("size"), task.get("offset")
    if not isinstance(sha, str) or not parts.SHA256.fullmatch(sha) or type(size) is not int or type(offset) is not int:
        raise Declined(f"{site.name}: a part expected sha256, size and offset")
    shelf = incoming(site)
    if not 0 < size <= MOST_FILE or len(data) > size:
        raise Declined(f"{site.name}: a file expected 1 to {MOST_FILE} bytes, got {size}")
    if _full(shelf, sha, len(data)):
        shelf.sweep(parts.days_ago(OLD_DAYS))
        if _full(shelf, sha, len(data)):
            raise Declined(
                f"{site.name}: expected at most {MOST_WAITING} files of {MOST_FILES} bytes that wait for their task"
            )
    try:
        return {"there": shelf.add(sha, size, offset, data)}
    except Refused:
        return {"there": 0}


def _full(shelf: Shelf, sha: str, more: int) -> bool:
    """Whether a part finds no room: there are too many bytes, or it would begin one file too many."""
    return shelf.held() + more > MOST_FILES or (shelf.there(sha) == 0 and shelf.count() >= MOST_WAITING)


def find(site: Site, listed: Manifest) -> dict[str, Path] | None:
    """The files that an ask lists; None where one of them is not there, or not whole."""
    found = {name: incoming(site).whole(sha) for name, (sha, _) in listed.items()}
    return {name: path for name, path in found.items() if path} if all(found.values()) else None


def offer(site: Site, data: bytes | Path) -> tuple[str, int]:
    """Lay out what leaves in parts; gives its digest and size."""
    sha, shelf = parts.digest(data), outgoing(site)
    shelf.folder.mkdir(parents=True, exist_ok=True)
    path = shelf.folder / sha
    if isinstance(data, bytes):
        fresh = shelf.folder / f"{sha}.part"
        fresh.write_bytes(data)
        fresh.replace(path)
    elif not path.exists():
        try:
            path.hardlink_to(data)
        except OSError:  # another file system
            with contextlib.suppress(FileExistsError):
                shutil.copyfile(data, path)
    (shelf.folder / f"{sha}.policy").write_text(_tag(site.policy))
    return sha, parts.length(path)


def part(site: Site, task: dict[str, Any]) -> bytes | None:
    """A part of what was offered; None where it is not offered any more. With its last part a file goes.

    Raises:
        Declined: the task is not of its form.
    """
    sha, offset, length = task.get("sha256"), task.get("offset"), task.get("length")
    if (
        not isinstance(sha, str)
        or not parts.SHA256.fullmatch(sha)
        or type(offset) is not int
        or type(length) is not int
    ):
        raise Declined(f"{site.name}: a part expected sha256, offset and length")
    path, tag = outgoing(site).folder / sha, outgoing(site).folder / f"{sha}.policy"
    if not path.exists() or not tag.exists() or tag.read_text() != _tag(site.policy):
        return None
    with path.open("rb") as file:
        file.seek(max(offset, 0))
        data = file.read(min(max(length, 0), parts.PART_BYTES * 4))
    if offset + len(data) >= parts.length(path):
        path.unlink()
        tag.unlink()
    return data


def _tag(policy: Policy) -> str:
    return hashlib.sha256(repr(policy).encode()).hexdigest()
