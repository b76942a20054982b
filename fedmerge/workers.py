"""Several devices for one training: this process has the first, and a worker process each of the others.

Whoever trains stays one process with one optimiser and one stream of batches. What is shared out are gradients: `ask`
each worker for its part, compute the first part here, take the `answer`s in the order of the devices. So the result is
a function of the number of devices, and of nothing that depends on who was faster.

The workers live for the block of `devices.using` in which they were first wanted. They end when it does, however that
is, and when this process does.
"""

import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from itertools import islice
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import torch

from fedmerge import devices, surroundings
from fedmerge.errors import DeviceError, FedmergeError, NetError
from fedmerge.link import Link, Parcel, apart, group, together
from fedmerge.worker import Failure, Hold, Place

START_S = 300.0  # to import PyTorch and MONAI, from a slow disk if need be
PATIENCE_S = 1800.0  # for an answer; a compiler takes minutes for a first pass
END_S = 5.0  # from a closed pipe to SIGKILL

_OPEN: ContextVar["Workers | None"] = ContextVar("workers", default=None)


def here(device: torch.device) -> "Workers | None":
    """The workers of this block, for a net on `device`; None where there is one device, or the net is elsewhere.

    Raises:
        ConfigError: as `devices.together`.
        DeviceError: a worker does not start.
    """
    wanted = devices.together()
    if len(wanted) == 1 or device.type != wanted[0].type or (device.index or 0) != (wanted[0].index or 0):
        return None
    found = _OPEN.get()
    if found is None or found.closed or found.devices != wanted:
        found = Workers(wanted)
        token = _OPEN.set(found)
        devices.at_end(partial(_OPEN.reset, token))
        devices.at_end(found.close)
    return found


class Workers:
    """A process for each device but the first.

    Args:
        places: the devices, this process's own at the front.

    Raises:
        DeviceError: a worker does not start.
    """

    def __init__(self, places: Sequence[torch.device]) -> None:
        self.devices, self.count, self.closed = tuple(places), len(places), False
        self.holder: object = None
        self._folder = Path(tempfile.mkdtemp(prefix="fedmerge-"))
        self._started: list[tuple[subprocess.Popen[bytes], Connection]] = []
        self._links: list[Link] = []
        self._waiting: set[int] = set()
        try:
            for rank in range(1, self.count):
                self._started.append(self._start(rank))
            for rank, (_, pipe) in enumerate(self._started, 1):
                self._wait(rank, pipe, START_S)
                try:
                    pipe.recv_bytes()
                except (EOFError, OSError) as error:
                    self._gone(rank, error)
            own = group(self._folder, 0, self.count, self.devices[0], PATIENCE_S)
            self._links = [
                Link(pipe, own, rank, self.devices[0]) for rank, (_, pipe) in enumerate(self._started, 1)
            ]  # fmt: skip
        except BaseException:
            self.close(at_once=True)
            raise

    def _start(self, rank: int) -> tuple[subprocess.Popen[bytes], Connection]:
        here, there = Pipe()
        with there:
            process = subprocess.Popen(  # noqa: S603 - ourselves
                surroundings.module("fedmerge.worker", str(there.fileno())),
                pass_fds=(there.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is for this process, which ends the workers; the session stays the same
            )
        place = Place(sys.path, self._folder, rank, self.count, self.devices[rank], PATIENCE_S)
        here.send_bytes(pickle.dumps(place))
        return process, here

    def hold(self, holder: object, make: Callable[[torch.device], Callable[..., Any]]) -> None:
        """Let each worker make, on its device, what it answers with from now on.

        Args:
            holder: whose it is; `holder` tells, so that nothing is made twice.
            make: device -> function of the arguments of `ask`. With all that it is made of it travels to the workers.

        Raises:
            NetError: it cannot travel.
            DeviceError: a worker ended, or does not answer.
            FedmergeError: what a worker raises.
        """
        self.holder = None
        try:
            parcel = apart(Hold(make, torch.get_num_threads()), self.devices[0])
        except Exception as error:  # whoever wrote the net or the loss decides what it raises
            raise NetError(
                f"with {self.count} devices a net and its loss expected to be something that can be pickled, got "
                f"{type(error).__name__}: {error}"
            ) from error
        for rank in range(1, self.count):
            self._send(rank, parcel)
        for rank in range(1, self.count):
            self.answer(rank)
        self.holder = holder

    def ask(self, rank: int, *arguments: Any) -> None:  # noqa: ANN401 - what the held function takes
        """Begin with `arguments` on a device; there is one question at a time."""
        self._send(rank, apart(arguments, self.devices[0]))

    def answer(self, rank: int) -> Any:  # noqa: ANN401 - what the held function gives
        """What came of the question, its tensors on this process's device.

        Raises:
            DeviceError: the worker ended, or does not answer.
            FedmergeError: what the worker raised, with its device in front.
        """
        link = self._links[rank - 1]
        try:
            self._wait(rank, link.pipe, PATIENCE_S)
            got = together(link.receive())
        except (EOFError, OSError, RuntimeError) as error:
            self._gone(rank, error)
        except BaseException:
            self.close(at_once=True)
            raise
        self._waiting.discard(rank)
        if isinstance(got, Failure):
            raise (got.kind or DeviceError)(f"{self.name(rank)}: {got.sentence}")
        return got

    def in_turn(self, own: Callable[..., Any], items: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """`own(*item)` for each item, in the order of the items, as many at a time as there are devices.

        Args:
            own: what is done with the first of so many items; with the others the workers do what they hold.
            items: the arguments.
        """
        waiting = iter(items)
        while some := list(islice(waiting, self.count)):
            for rank, item in enumerate(some[1:], 1):
                self.ask(rank, *item)
            yield own(*some[0])
            for rank in range(1, len(some)):
                yield self.answer(rank)

    def name(self, rank: int) -> str:
        """A device in words."""
        return f"device {rank + 1} of {self.count} ({self.devices[rank]})"

    def close(self, *, at_once: bool = False) -> None:
        """End the workers and wait until they have ended; at once: without letting them finish what they do."""
        self.closed, self.holder, self._links = True, None, []
        for _, pipe in self._started:
            pipe.close()
        for process, _ in self._started:
            if not (at_once or self._waiting):
                with suppress(subprocess.TimeoutExpired):
                    process.wait(END_S)
            process.kill()
            process.wait()
        self._started = []
        self._waiting.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _send(self, rank: int, parcel: Parcel) -> None:
        if rank in self._waiting:  # somebody gave up between question and answer
            with suppress(FedmergeError):
                self.answer(rank)
        if self.closed:  # perhaps just now
            raise DeviceError(f"{self.name(rank)}: the block for which it was there is over")
        try:
            self._waiting.add(rank)
            self._links[rank - 1].send(parcel)
        except (OSError, RuntimeError) as error:
            self._gone(rank, error)
        except BaseException:
            self.close(at_once=True)
            raise

    def _wait(self, rank: int, pipe: Connection, seconds: float) -> None:
        if pipe.poll(seconds):
            return
        self.close(at_once=True)
        raise DeviceError(f"{self.name(rank)} expected an answer within {seconds:g} s, got none")

    def _gone(self, rank: int, error: Exception) -> NoReturn:
        """Say how a worker ended; the others are ended too."""
        process = self._started[rank - 1][0]
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
        code = process.returncode
        self.close(at_once=True)
        how = f"{error}" if code is None else f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
        raise DeviceError(f"{self.name(rank)}: its process is gone, {how}") from error
