"""What passes between the processes of one training: anything at all, its tensors through `torch.distributed`.

A thing is taken apart into a skeleton and its tensors. The skeleton, pickled, goes through a pipe between parent and
child, to which nobody else has an end; the tensors go as one row of bytes from device to device. Nothing that came from
another party is ever unpickled, and no port is opened but on the loopback interface.
"""

import io
import os
import pickle
from collections.abc import Sequence
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from fedmerge.devices import layout

START_S = 300.0  # to find each other, once all have imported what they need
ALIGNED = 16  # bytes: where each tensor begins is a multiple, so that any type can be read there


Parcel = tuple[bytes, Tensor]  # a pickled skeleton, and the bytes of its tensors


class Kind(NamedTuple):
    """What a tensor is, beside its numbers, and where its bytes begin."""

    shape: torch.Size
    dtype: torch.dtype
    channels_last: bool
    parameter: bool
    wants_gradient: bool
    begin: int


class _Taking(cloudpickle.Pickler):  # type: ignore[misc]  # a package without types
    """Pickles a skeleton, also of functions made inside functions, and keeps the tensors in the order they came."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.tensors: list[Tensor] = []
        self._place: dict[int, int] = {}

    def persistent_id(self, thing: object) -> int | None:
        """The tensor's number, which is all that the skeleton has of it; one that is met twice has one number."""
        if type(thing) not in (Tensor, nn.Parameter) or thing.layout != torch.strided:  # type: ignore[attr-defined]
            return None
        if id(thing) not in self._place:
            self._place[id(thing)] = len(self.tensors)
            self.tensors.append(thing)  # type: ignore[arg-type]  # a tensor, see above
        return self._place[id(thing)]


class _Giving(pickle.Unpickler):
    """Puts the tensors back where their numbers are."""

    def __init__(self, skeleton: bytes, tensors: Sequence[Tensor]) -> None:
        super().__init__(io.BytesIO(skeleton))
        self._tensors = tensors

    def persistent_load(self, number: int) -> Tensor:
        """The tensor of a number."""
        return self._tensors[number]


def apart(thing: object, device: torch.device) -> Parcel:
    """The skeleton, and the bytes of all tensors in one row on the device; `together` undoes it.

    Shared tensors stay shared, parameters stay parameters, and gradients are left behind.

    Raises:
        Exception: something in it cannot be pickled; what comes then is up to whoever wrote it.
    """
    file = io.BytesIO()
    taking = _Taking(file)
    taking.dump(thing)
    kinds, size = [], 0
    for t in taking.tensors:
        wants = t.requires_grad and t.is_leaf
        kinds.append(Kind(t.shape, t.dtype, _channels_last(t), isinstance(t, nn.Parameter), wants, size))
        size += -(-t.numel() * t.element_size() // ALIGNED) * ALIGNED
    row = torch.empty(size, dtype=torch.uint8, device=device)
    with torch.no_grad():
        for kind, t in zip(kinds, taking.tensors, strict=True):
            _seen(row, kind).copy_(t)
    return pickle.dumps((file.getvalue(), kinds, size)), row


def together(parcel: Parcel) -> Any:  # noqa: ANN401 - whatever was taken apart
    """The thing, its tensors on the row's device, contiguous or channels last as they were."""
    head, row = parcel
    skeleton, kinds, _ = pickle.loads(head)  # noqa: S301 - from our own parent or child
    tensors = []
    for kind in kinds:
        seen = _seen(row, kind)
        value = seen.clone(memory_format=layout(seen) if kind.channels_last else torch.contiguous_format)
        tensors.append(nn.Parameter(value, kind.wants_gradient) if kind.parameter else value)
        tensors[-1].requires_grad_(kind.wants_gradient)
    return _Giving(skeleton, tensors).load()


def _channels_last(t: Tensor) -> bool:
    return not t.is_contiguous() and t.is_contiguous(memory_format=layout(t))


def _seen(row: Tensor, kind: Kind) -> Tensor:
    size = kind.shape.numel() * kind.dtype.itemsize
    return row[kind.begin : kind.begin + size].view(kind.dtype).view(kind.shape)


class Link:
    """One end between two processes.

    Args:
        pipe: for skeletons.
        group: for tensors.
        peer: the other end's rank in the group.
        device: where tensors are taken up.
    """

    def __init__(self, pipe: Connection, group: ProcessGroup, peer: int, device: torch.device) -> None:
        self.pipe, self._group, self._peer, self._device = pipe, group, peer, device

    def send(self, parcel: Parcel) -> None:
        """Send what was taken apart.

        Raises:
            OSError, RuntimeError: the other end is gone.
        """
        head, row = parcel
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # what fails on a device fails here, and not in the transfer
        self.pipe.send_bytes(head)
        if len(row):
            self._group.send([row], self._peer, 0).wait()

    def receive(self) -> Parcel:
        """What was sent, for `together`.

        Raises:
            EOFError, OSError, RuntimeError: the other end is gone.
        """
        head = self.pipe.recv_bytes()
        row = torch.empty(pickle.loads(head)[2], dtype=torch.uint8, device=self._device)  # noqa: S301 - as above
        if len(row):
            self._group.recv([row], self._peer, 0).wait()
        return head, row


def group(folder: Path, rank: int, size: int, device: torch.device, patience_s: float) -> ProcessGroup:
    """The group of the processes of one training, NCCL between CUDA devices and gloo between processors.

    It is an object of its own and not torch's default group, of which a process has one only: in a simulation sites are
    threads of one process.

    Args:
        folder: where the processes find each other; closed to other users.
        rank: this process.
        size: how many there are.
        device: this process's.
        patience_s: how long a transfer may take.
    """
    store = dist.FileStore(str(folder / "store"), size)  # type: ignore[attr-defined]  # it is there, and documented
    store.set_timeout(timedelta(seconds=START_S))
    wait = timedelta(seconds=patience_s)
    if device.type == "cuda":
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = wait
        return dist.ProcessGroupNCCL(store, rank, size, options)  # type: ignore[return-value]  # it has all that we call
    local = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # torch's only way to name an interface
    local._devices = [dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    local._timeout = wait
    return dist.ProcessGroupGloo(store, rank, size, local)  # type: ignore[return-value]  # likewise
