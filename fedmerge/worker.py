"""A process that computes on a further device for the process that started it, and ends with it."""

import pickle
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fedmerge.errors import FedmergeError
from fedmerge.link import Link, apart, group, together


class Place(NamedTuple):
    """Where a worker stands.

    Attributes:
        path: where modules are looked for, as in the process that starts it.
        folder: as for `link.group`.
        rank: its own; the process that starts it has 0.
        size: how many there are.
        device: its own.
        patience_s: as for `link.group`.
    """

    path: list[str]
    folder: Path
    rank: int
    size: int
    device: torch.device
    patience_s: float


class Hold(NamedTuple):
    """Makes what the worker then answers with, in so many threads."""

    make: Callable[[torch.device], Callable[..., Any]]
    threads: int


class Failure(NamedTuple):
    """What went wrong, in place of an answer."""

    kind: type[FedmergeError] | None
    sentence: str


def serve(pipe: Connection) -> None:
    """Answer until the other end of the pipe is closed."""
    place: Place = pickle.loads(pipe.recv_bytes())  # noqa: S301 - from the process that started this one
    sys.path += [folder for folder in place.path if folder not in sys.path]
    if place.device.type == "cuda":
        torch.cuda.set_device(place.device)
    pipe.send_bytes(b"here")
    link = Link(pipe, group(place.folder, place.rank, place.size, place.device, place.patience_s), 0, place.device)
    held: Callable[..., Any] | None = None
    while True:
        sent = link.receive()
        try:
            asked = together(sent)
            if isinstance(asked, Hold):
                torch.set_num_threads(asked.threads)
                held = asked.make(place.device)
                answer = apart(None, place.device)
            else:
                answer = apart(held(*asked), place.device)  # type: ignore[misc]  # whoever asks has told what to hold
        except FedmergeError as error:
            answer = apart(Failure(type(error), str(error)), place.device)
        except Exception as error:  # whatever it is, the process that asked has to hear of it
            answer = apart(Failure(None, f"{type(error).__name__}: {error}"), place.device)
        link.send(answer)


def main(number: int) -> None:
    """Serve the pipe of this file descriptor."""
    try:
        serve(Connection(number))
    except EOFError:  # nothing is wanted any more
        return
    except (OSError, RuntimeError):  # torch's RuntimeError: the group is gone, and so is whoever would read of it
        sys.exit(1)


if __name__ == "__main__":
    from fedmerge import worker  # by its own name: what `__main__` calls Failure nobody else knows

    worker.main(int(sys.argv[1]))
