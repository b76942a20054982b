"""Large payloads in parts: a folder of files named by their SHA-256, which fill up from the front.

A part is appended where the file ends, so whoever was interrupted goes on from there. A file counts as there when its
digest is what its name says; one that is complete and has another digest is thrown away.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmerge.errors import Refused

PART_BYTES = 64 * 2**20
"""The largest payload that travels whole, and the length of a part."""

MOST_NAMES = 16  # payloads of one message
SHA256 = re.compile(r"[0-9a-f]{64}")

Manifest = dict[str, tuple[str, int]]  # name of a payload -> (SHA-256 in hex, bytes)


def digest(data: bytes | Path) -> str:
    """SHA-256 in hex, of bytes or of a file."""
    if isinstance(data, Path):
        with data.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(data).hexdigest()


def length(data: bytes | Path) -> int:
    """Bytes, of bytes or of a file."""
    return data.stat().st_size if isinstance(data, Path) else len(data)


def manifest(table: Any, who: str) -> Manifest:  # noqa: ANN401 - as it came
    """The payloads that travel in parts, as a note tells them.

    Raises:
        Refused: it is not of this form.
    """
    found: Manifest = {}
    for name, entry in table.items() if isinstance(table, dict) and len(table) <= MOST_NAMES else [("", None)]:
        pair = entry if isinstance(entry, list) and len(entry) == 2 else ["", None]
        sha, size = pair
        if not isinstance(sha, str) or not SHA256.fullmatch(sha) or type(size) is not int or size < 1:
            raise Refused(f"{who}: the list of parts expected names with SHA-256 and size, got {table!r:.80}")
        found[name] = (sha, size)
    return found


@dataclass(frozen=True)
class Shelf:
    """The folder."""

    folder: Path

    def whole(self, sha: str) -> Path | None:
        """The file of this digest, where it is complete."""
        path = self.folder / sha
        return path if path.exists() else None

    def there(self, sha: str) -> int:
        """How many of its bytes are there."""
        for path in (self.folder / f"{sha}.part", self.folder / sha):  # in this order: the one becomes the other
            with contextlib.suppress(FileNotFoundError):
                return path.stat().st_size
        return 0

    def add(self, sha: str, size: int, offset: int, data: bytes) -> int:
        """Append a part; one that does not begin where the file ends is passed over.

        Args:
            sha: the digest of the whole.
            size: the length of the whole in bytes.
            offset: where the part begins.
            data: the part.

        Returns:
            how many bytes are there now.

        Raises:
            Refused: there are more bytes than `size`, or they have another digest; the file is thrown away.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{sha}.part"
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if self.whole(sha) is not None:  # it was complete, or another thread has just completed it
                path.unlink(missing_ok=True)
                return size
            if not _same(path, file.fileno()):
                return self.there(sha)  # it was, and somebody has taken it away since
            if file.seek(0, os.SEEK_END) == offset:
                file.write(data)
                file.flush()
            there = file.tell()
            if there < size:
                return there
            os.fsync(file.fileno())
            got = digest(path) if there == size else ""
            if got == sha:
                path.replace(self.folder / sha)
                return size
            path.unlink()
        found = f"{there} bytes" if there > size else f"SHA-256 {got[:12]}"
        raise Refused(f"expected {size} bytes of SHA-256 {sha[:12]}, got {found}")

    def sweep(self, before: float) -> None:
        """Throw away what nobody has added to since `before`, in seconds since 1970."""
        for path in self.folder.glob("*"):
            if path.is_file() and path.stat().st_mtime < before:
                path.unlink(missing_ok=True)

    def held(self) -> int:
        """Bytes of all files."""
        total = 0
        for path in self.folder.glob("*"):
            with contextlib.suppress(FileNotFoundError):  # another thread took it
                total += path.stat().st_size
        return total

    def count(self) -> int:
        """How many files there are."""
        return sum(1 for _ in self.folder.glob("*"))


def _same(path: Path, handle: int) -> bool:
    """Whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def days_ago(days: float, now: float | None = None) -> float:
    """A time for `sweep`."""
    return (time.time() if now is None else now) - days * 86400
