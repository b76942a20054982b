"""Whose the seconds, the bytes and the memory are: the sources', the server's or the target's.

All of them are this one process, one after the other; a party's clocks run while it is at work.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fedmerge import parts, whole
from fedmerge.parts import PART_BYTES, Shelf


@dataclass
class Party:
    """What one party spent.

    Attributes:
        processor_s: seconds of the processor.
        clock_s: seconds by the clock.
        sent: bytes.
        received: bytes.
        peak: the largest resident size while it was at work, in bytes.
    """

    processor_s: float = 0.0
    clock_s: float = 0.0
    sent: float = 0
    received: float = 0
    peak: int = 0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """What happens in the block is this party's."""
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins at what is resident now
        clock, processor = time.perf_counter(), time.process_time()
        yield
        self.processor_s += time.process_time() - processor
        self.clock_s += time.perf_counter() - clock
        self.peak = max(self.peak, resident("VmHWM"))

    def __add__(self, other: "Party") -> "Party":
        return Party(
            self.processor_s + other.processor_s,
            self.clock_s + other.clock_s,
            self.sent + other.sent,
            self.received + other.received,
            max(self.peak, other.peak),
        )

    def __mul__(self, times: float) -> "Party":
        return Party(
            self.processor_s * times, self.clock_s * times, self.sent * times, self.received * times, self.peak
        )


@dataclass
class Parties:
    """The sources together, the server and the target."""

    source: Party = field(default_factory=Party)
    server: Party = field(default_factory=Party)
    target: Party = field(default_factory=Party)

    @property
    def all(self) -> tuple[Party, Party, Party]:
        """The three."""
        return self.source, self.server, self.target

    @property
    def processor_s(self) -> float:
        """Seconds of the processor, of all three."""
        return sum(party.processor_s for party in self.all)

    @property
    def clock_s(self) -> float:
        """Seconds by the clock, of all three, one after the other."""
        return sum(party.clock_s for party in self.all)

    def __add__(self, other: "Parties") -> "Parties":
        return Parties(*(one + two for one, two in zip(self.all, other.all)))

    def __mul__(self, times: float) -> "Parties":
        return Parties(*(one * times for one in self.all))


@dataclass
class Spent:
    """What a campaign takes beside its training.

    Attributes:
        once: whatever the length of the fit.
        step: of the fit, in addition; nothing where there is nothing to fit.
    """

    once: Parties = field(default_factory=Parties)
    step: Parties = field(default_factory=Parties)

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.once + other.once, self.step + other.step)


def resident(line: str) -> int:
    """A line of this process's status, `VmRSS` or `VmHWM`, in bytes."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split(f"{line}:")[1].split()[0])


def carry(data: bytes | Path, sender: Party, receiver: Party, shelf: Path) -> bytes | Path:
    """Bring bytes over as a campaign does, but without Flower: whole, or in parts into a file that its digest names.

    Args:
        data: bytes, or a file of the sender's.
        sender: reads, and makes the digest.
        receiver: writes the parts, and checks the digest.
        shelf: the receiver's folder.

    Returns:
        what arrived: bytes if they came whole, else a file.
    """
    size = parts.length(data)
    sender.sent += size
    receiver.received += size
    if size <= PART_BYTES:
        with sender.at_work():
            return data.read_bytes() if isinstance(data, Path) else data
    with sender.at_work():
        digest = parts.digest(data)
    for offset in range(0, size, PART_BYTES):
        with sender.at_work():
            part = piece(data, offset)
        with receiver.at_work():
            Shelf(shelf).add(digest, size, offset, part)
    return shelf / digest


def piece(data: bytes | Path, offset: int) -> bytes:
    """A part."""
    if isinstance(data, bytes):
        return data[offset : offset + PART_BYTES]
    with data.open("rb") as file:
        file.seek(offset)
        return file.read(PART_BYTES)


def keep(data: bytes | Path, path: Path) -> Path:
    """Put what arrived into its place."""
    if isinstance(data, Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        data.replace(path)
    else:
        whole.write(path, data)
    return path
