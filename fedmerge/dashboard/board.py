"""What a page shows, in pieces that know when they changed: whoever has seen a version gets what is newer."""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

from fedmerge.dashboard.messages import Message

EVERY_S = 0.5  # between two looks at the disk, however many pages ask
MOST_MESSAGES = 2000
MOST_BOARDS = 8  # runs whose pieces are kept
MOST_VERSIONS = 10**9  # of a board: thirty years of a change a second
BOARDS = itertools.count(1)


class Watched(Protocol):
    """What is looked at: a run, or a hospital."""

    def look(self, now: float) -> dict[str, Any]:
        """All pieces as they are now, as JSON has them; what has not changed costs little."""

    def said(self) -> list[Message]:
        """The messages since the last call."""


class Board:
    """The pieces of one thing that is watched.

    Args:
        watched: it.
        clock: seconds since 1970.
    """

    def __init__(self, watched: Watched, clock: Callable[[], float] = time.time) -> None:
        self._watched, self._clock = watched, clock
        self._pieces: dict[str, tuple[int, Any]] = {}
        self._messages: deque[tuple[int, Message]] = deque(maxlen=MOST_MESSAGES)
        self._first = self._version = next(BOARDS) * MOST_VERSIONS  # no version is another board's
        self._looked, self._said = 0.0, 0
        self._lock = threading.Lock()

    def since(self, version: int) -> dict[str, Any]:
        """What has changed since a version of this board; since any other number, everything.

        Looks at the disk first, when it is time.

        Returns:
            `version`, to be asked with the next time; `now`; `pieces`, null for one that is gone; `messages`, and how
            many there were in all; `whole`, whether this is everything.
        """
        with self._lock:
            now = self._clock()
            if not 0 <= now - self._looked < EVERY_S:
                self._looked = now
                self._take(now)
            if not self._first <= version <= self._version:
                version = 0
            pieces = {name: value for name, (changed, value) in self._pieces.items() if changed > version}
            messages = [asdict(message) for changed, message in self._messages if changed > version]
            return {
                "version": self._version, "now": now, "pieces": pieces, "messages": messages, "said": self._said,
                "whole": version == 0,
            }  # fmt: skip

    def _take(self, now: float) -> None:
        found, new = self._watched.look(now), self._watched.said()
        gone = {name: None for name, (_, value) in self._pieces.items() if name not in found and value is not None}
        changed = {
            name: value
            for name, value in {**found, **gone}.items()
            if name not in self._pieces or self._pieces[name][1] != value
        }
        if not changed and not new:
            return
        self._version += 1
        self._pieces |= {name: (self._version, value) for name, value in changed.items()}
        self._messages.extend((self._version, message) for message in new)
        self._said += len(new)


class Boards:
    """The boards of all runs that a home has.

    Args:
        runs: name -> state of each, the oldest first; one thing without a name: {"": ""}.
        watch: gives what is watched under a name.
        first: which one is shown at first; else the newest.
    """

    def __init__(self, runs: Callable[[], dict[str, str]], watch: Callable[[str], Watched], first: str = "") -> None:
        self.runs, self._watch, self._first = runs, watch, first
        self._boards: dict[str, Board] = {}
        self._lock = threading.Lock()

    def of(self, name: str) -> tuple[str, Board] | None:
        """The board of a run, and its name; an empty name: the first to show; None: there is no such run."""
        with self._lock:
            known = self.runs()
            if not name:
                name = self._first if self._first in known else next(reversed(known), "")
            if name and name not in known:
                return None
            board = self._boards.pop(name, None) or Board(self._watch(name))
            self._boards[name] = board
            for old in list(self._boards)[:-MOST_BOARDS]:
                del self._boards[old]
            return name, board
