"""Refusals, counted so that whoever is refused all day does not fill an audit log.

The first of a kind in a minute are written one by one. What follows is counted and becomes one line, "and 1234 more",
when the minute is over. As long as it goes on, a minute is that one line; after a minute without any, a kind begins
anew. Kinds beyond a number share one, so that an intruder cannot make lines by making kinds.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

MINUTE_S = 60.0
OTHERS = "others"
MOST_NAMES = 8  # of what was asked for, in a line that counts


@dataclass
class Counted:
    """One kind in its present minute.

    Attributes:
        began: when the minute did.
        written: how many were written one by one.
        more: what was asked for -> how often it was refused beyond those.
    """

    began: float
    written: int = 0
    more: dict[str, int] = field(default_factory=dict)

    def count(self, what: str, times: int = 1) -> None:
        """Count a refusal that is not written by itself."""
        name = what if what in self.more or len(self.more) < MOST_NAMES else OTHERS
        self.more[name] = self.more.get(name, 0) + times


class Refusals:
    """The refusals of one log; threads may share it.

    Args:
        first: how many of a kind are written one by one in a minute.
        kinds: how many kinds are told apart at the same time.
        clock: seconds of a clock that only goes forward.
    """

    def __init__(self, first: int, kinds: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.first, self.most = first, kinds
        self.total = 0
        self._clock, self._lock = clock, threading.Lock()
        self._kinds: dict[str, Counted] = {}

    def due(self, kind: str, what: str) -> bool:
        """Whether a refusal is to be written by itself; otherwise it is counted.

        Args:
            kind: such as "bundles that are not allowed".
            what: what was asked for.
        """
        with self._lock:
            self.total += 1
            now = self._clock()
            if kind not in self._kinds and len(self._kinds) >= self.most:
                kind = OTHERS
            found = self._kinds.setdefault(kind, Counted(now))
            if now - found.began >= MINUTE_S and not found.more:
                found.began, found.written = now, 0
            if found.written < self.first:
                found.written += 1
                return True
            found.count(what)
            return False

    def settle(self, write: Callable[[str], object], *, end: bool = False) -> None:
        """Write the lines of the minutes that are over; to be called every few seconds.

        Args:
            write: takes a line's sentence. Where it raises, what it could not write stays counted.
            end: the log is closed, so every minute is over.
        """
        for kind in list(self._kinds):
            now = self._clock()
            with self._lock:
                found = self._kinds.get(kind)
                if found is None or (now - found.began < MINUTE_S and not end):
                    continue
                if not found.more:
                    del self._kinds[kind]
                    continue
                self._kinds[kind] = Counted(now, self.first)
            try:
                write(sentence(kind, found.more, now - found.began))
            except BaseException:
                with self._lock:
                    for what, times in self._kinds[kind].more.items():
                        found.count(what, times)
                    self._kinds[kind] = found
                raise


def sentence(kind: str, more: dict[str, int], seconds: float) -> str:
    """The line that stands for many."""
    named = ", ".join(f"{what} {times}" for what, times in more.items())
    return f"{kind}: and {sum(more.values())} more within {seconds:.0f} s ({named})"
