"""What grows or changes on a disk while it is looked at: read anew only where it has changed, and never written."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FIRST_BYTES = 512 * 2**10  # of a log: what is read of its end when it is opened
AT_ONCE = 8 * 2**20  # bytes of new lines that are read at one look
LONGEST = 64 * 2**10  # bytes of a line


class Table:
    """A JSON file that others replace; one that is half written counts as it was before.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mark: tuple[int, int, int] | None = None
        self._held: dict[str, Any] = {}

    def now(self) -> Mapping[str, Any]:
        """What is in it; empty while it is not there."""
        try:
            facts = self.path.stat()
            mark = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
            if mark == self._mark:
                return self._held
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            self._mark, self._held = None, {}
        except (OSError, ValueError):
            return self._held
        else:
            self._mark, self._held = mark, found if isinstance(found, dict) else {}
        return self._held


class Lines:
    """A file that others append to, as the lines that came since the last look.

    A file that became shorter or another one (a log that was begun anew) is read from its beginning.

    Args:
        path: the file.
        first: bytes before its end where the first look begins; None: at its beginning.
    """

    def __init__(self, path: Path, first: int | None = FIRST_BYTES) -> None:
        self.path, self._first = path, first
        self._inode, self._at = 0, 0
        self._rest = b""

    def more(self) -> tuple[list[str], bool]:
        """(the new lines, whether they follow the earlier ones); a line without its end waits for it."""
        try:
            with self.path.open("rb") as file:
                facts = os.fstat(file.fileno())
                follows = facts.st_ino == self._inode and facts.st_size >= self._at
                if not follows:
                    self._inode, self._at, self._rest = facts.st_ino, 0, b""
                    if self._first is not None and facts.st_size > self._first:
                        self._at = facts.st_size - self._first
                        file.seek(self._at)
                        self._at += len(file.readline(self._first))  # the middle of a line
                file.seek(self._at)
                data = self._rest + file.read(AT_ONCE)
                self._at = file.tell()
        except OSError:
            follows, data = not self._inode, b""
            self._inode, self._at, self._rest = 0, 0, b""
        *whole, self._rest = data.split(b"\n")
        self._rest = self._rest[:LONGEST]
        return [line[:LONGEST].decode("utf-8", errors="replace") for line in whole], follows


def tables(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Lines of JSON as tables; what is none, as a line of which a machine that stopped wrote a half, is left out."""
    found = []
    for line in lines:
        try:
            table = json.loads(line)
        except ValueError:
            continue
        found += [table] if isinstance(table, dict) else []
    return found
