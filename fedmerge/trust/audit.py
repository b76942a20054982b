"""The audit log: what came, what left and what was refused, a line each, chained by hashes and signed.

A line is JSON in its one canonical form. Its `previous` is the head before it, its own SHA-256 is the head after it,
and its owner signs it. An edited, a missing or a moved line breaks the chain. What is cut off at the end breaks no
chain: the other side finds it, because every message carries its sender's head, and the receiver writes that down
(`peer_head`).
"""

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedmerge.errors import DataError, Refused
from fedmerge.trust import dates, keys
from fedmerge.trust.lines import NOTHING, PURPOSE, SERVER, TAIL, WAYS, Line, Way, raw_lines, read_line, short

__all__ = [
    "NOTHING",
    "PURPOSE",
    "SERVER",
    "TAIL",
    "WAYS",
    "Line",
    "Log",
    "Report",
    "Way",
    "Witnessed",
    "read",
    "verify",
    "witnessed",
]


@dataclass(frozen=True)
class Report:
    """What a look at a whole log found.

    Attributes:
        path: the log.
        owner: whose log it says to be; empty where there is no good line.
        lines: the good ones, up to the first bad one.
        head: after the last good line.
        bad: number of the first bad line, from 1; 0: none.
        reason: what is wrong with it.
    """

    path: Path
    owner: str
    lines: tuple[Line, ...]
    head: str
    bad: int = 0
    reason: str = ""

    @property
    def sound(self) -> bool:
        """Whether every line is good."""
        return self.bad == 0


@dataclass(frozen=True)
class Witnessed:
    """What one log knows of another one.

    Attributes:
        heads: how many of its heads were witnessed.
        missing: the witness's lines with a head that is not in the other log: something was cut off or written anew.
    """

    heads: int
    missing: tuple[Line, ...]


class Log:
    """A log that is written; threads and processes may share the file.

    Args:
        path: the file; it is made (0600) with the first line.
        key: the owner's signing key.
        clock: seconds since 1970.
    """

    def __init__(
        self, path: Path, key: Ed25519PrivateKey, owner: str, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.path, self.owner = path, owner
        self._key, self._clock = key, clock
        self._lock = threading.Lock()
        self._known: tuple[int, int, str] = (0, 0, NOTHING)  # bytes, lines, head

    def append(
        self,
        way: Way,
        what: str,
        purpose: str = "",
        size: int = 0,
        digest: str = "",
        peer: str = "",
        *,
        peer_head: str = "",
        reason: str = "",
        campaign: str = "",
    ) -> Line:
        """Write one line; when this returns, it is on the disk.

        Args:
            way: "in", "out", "refused" or "note".
            what: what came or went.
            purpose: why.
            size: bytes of the payload.
            digest: `sha256:` and the hex digest of the payload.
            peer: the other side.
            peer_head: the head of the other side's log, as its message told.
            reason: of a refusal.
            campaign: the campaign it belongs to.

        Raises:
            DataError: what is there does not end with a line of a log.
            OSError: it could not be written (a full disk); the log is as it was.
        """
        if way not in WAYS:
            raise ValueError(f"way expected one of {', '.join(WAYS)}, got {way!r}")
        texts = {"what": what, "purpose": purpose, "digest": digest, "peer": peer}
        texts |= {"peer_head": peer_head, "reason": reason, "campaign": campaign}
        texts = {key: short(value) for key, value in texts.items()}
        with self._lock, _opened(self.path) as handle:
            size_now, n, head = self._end(handle)
            line = Line(
                n=n + 1, at=dates.text(self._clock()), owner=self.owner, way=way, size=int(size), previous=head,
                signature="", **texts,
            )  # fmt: skip
            line = Line(**{**asdict(line), "signature": keys.sign(self._key, PURPOSE, line.signed())})
            data = line.encode() + b"\n"
            _write(handle, data, size_now)
            self._known = (size_now + len(data), line.n, line.head)
        return line

    @property
    def head(self) -> str:
        """The head of the log as it is now; 64 zeros while it is empty."""
        if not self.path.exists():
            return NOTHING
        with self._lock, _opened(self.path) as handle:
            self._known = self._end(handle)
            return self._known[2]

    def _end(self, handle: int) -> tuple[int, int, str]:
        """(bytes, lines, head); a line that was cut off while it was written was never told to anybody, and goes."""
        size = os.fstat(handle).st_size
        if size == self._known[0]:
            return self._known
        start = max(0, size - 2 * TAIL)
        data = os.pread(handle, size - start, start)
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            size = start + len(whole)
            os.ftruncate(handle, size)
        if not whole:
            if start:
                raise DataError(f"{self.path} does not end with a line of an audit log")
            return (0, 0, NOTHING)
        try:
            line = read_line(whole[:-1].rpartition(b"\n")[2])
        except Refused as error:
            raise DataError(f"{self.path} does not end with a line of an audit log: {error}") from None
        return (size, line.n, line.head)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The file, open and locked against other processes while the block runs."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)  # and with it the lock goes


def _write(handle: int, data: bytes, at: int) -> None:
    """Write and flush all of `data`; what is only half written is taken back."""
    try:
        done = 0
        while done < len(data):  # a full disk takes a part, and then raises
            done += os.pwrite(handle, data[done:], at + done)
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, at)
        raise


def verify(path: Path, *known: Ed25519PublicKey) -> Report:
    """Look at every line of a log.

    Args:
        path: the log.
        *known: the owner's public keys, oldest first; once a later one has signed, an earlier one does not any more.

    Raises:
        OSError: it cannot be read.
    """
    good: list[Line] = []
    head, owner, key = NOTHING, "", 0

    def report(reason: str = "") -> Report:
        return Report(path, owner, tuple(good), head, len(good) + 1 if reason else 0, reason)

    for raw, whole in raw_lines(path):
        if not whole:
            return report("it is cut off")
        try:
            line = read_line(raw)
        except Refused as error:
            return report(str(error))
        if line.n != len(good) + 1:
            return report(f"it has the number {line.n}, expected {len(good) + 1}")
        if line.previous != head:
            return report("it does not follow the line before it: that one was changed, or this one was")
        if owner and line.owner != owner:
            return report(f"its owner expected {owner}, got {line.owner}")
        for later in range(key, len(known)):
            try:
                keys.verify(known[later], PURPOSE, line.signed(), line.signature)
            except Refused:
                continue
            key = later
            break
        else:
            return report("its signature does not hold")
        good.append(line)
        head, owner = line.head, line.owner
    return report()


def read(path: Path) -> tuple[Line, ...]:
    """The lines of a log, unchecked but for their form, up to the first that is none."""
    lines = []
    for raw, whole in raw_lines(path):
        try:
            if whole:
                lines.append(read_line(raw))
                continue
        except Refused:
            pass
        break
    return tuple(lines)


def witnessed(path: Path, witness: Path, owner: str) -> Witnessed:
    """Look for the heads of one log that another one saw.

    Args:
        path: the log in question; one that is not there is empty.
        witness: the other side's log.
        owner: whose log is in question: a site's name, or `SERVER`.
    """
    heads = {NOTHING} | {line.head for line in (read(path) if path.exists() else ())}
    told = [line for line in read(witness) if line.peer_head and line.peer == owner]
    return Witnessed(len(told), tuple(line for line in told if line.peer_head not in heads))
