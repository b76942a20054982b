"""The arithmetic of fusing one long tensor: blocks that stay in the processor's cache, written as they are made.

The work waits for memory more than for arithmetic. A block is large enough that Python's share in it is small, and
small enough that what was read for one operation is still in the cache for the next.
"""

import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from fedmerge.errors import Refused

BLOCK = 2**18  # elements: 1 MiB of float32
FLOOR, CAP = 1e-3, 1e4  # as in `fisher.normalise`


@dataclass(frozen=True)
class Job:
    """One tensor of T models, in the order in which sums are taken.

    Attributes:
        name: of the tensor.
        paths: where each model is, as listed.
        means: of each Fisher, as listed; empty for rule mean.
        order: that of the sums.
        shares: ratios, of sum 1.
        theta: flat tensors of one dtype.
        precision: flat raw Fishers; empty for rule mean.
    """

    name: str
    paths: tuple[Path, ...]
    means: tuple[float, ...]
    order: tuple[int, ...]
    shares: tuple[float, ...]
    theta: tuple[Tensor, ...]
    precision: tuple[Tensor, ...]


def prepare(
    name: str, paths: Sequence[Path], shares: Sequence[float], theta: Sequence[Tensor], precision: Sequence[Tensor]
) -> Job:
    """Read the Fishers once, for their means, and settle the order of the sums.

    The order depends on the models alone, so that the result does not depend on how they are listed.

    Raises:
        Refused: a Fisher is negative or not finite; names file and tensor.
    """
    order = sorted(range(len(theta)), key=lambda t: (_look(theta[t]), shares[t]))
    means = [_fisher_mean(values, name, path) for values, path in zip(precision, paths)]
    return Job(name, tuple(paths), tuple(means), tuple(order), tuple(shares), tuple(theta), tuple(precision))


class Blocks:
    """Fuses one tensor after another in three blocks of memory."""

    def __init__(self) -> None:
        self.buffers = {
            dtype: [torch.empty(BLOCK, dtype=dtype) for _ in range(3)]  # never touched: no memory yet
            for dtype in (torch.float32, torch.float64)
        }

    def fuse(self, job: Job) -> Iterator[Tensor]:
        """The fused tensor, flat and in blocks; each holds until the next is asked for.

        Raises:
            Refused: the result is not finite; names the file and the tensor.
        """
        for start in range(0, job.theta[0].numel(), BLOCK):
            part = slice(start, start + BLOCK)
            yield self._block(job, [v[part] for v in job.theta], [p[part] for p in job.precision])

    def _block(self, job: Job, stored: Sequence[Tensor], precision: Sequence[Tensor]) -> Tensor:
        if all(torch.equal(stored[0], other) for other in stored[1:]):  # differs at the first element, mostly
            return _finite(job, stored[0])
        dtype = torch.float64 if stored[0].dtype == torch.float64 else torch.float32
        theta = [value.to(dtype) for value in stored]
        fused, weight, below = (buffer[: len(theta[0])] for buffer in self.buffers[dtype])
        first, *rest = job.order
        if precision:
            # (sum_t a_t F_t)^-1 sum_t a_t F_t theta_t              Geyer 2019, eq. 2
            scale = job.shares[first] * _clip(precision[first], job.means[first], weight)
            torch.mul(weight, scale, out=below)
            torch.mul(below, theta[first], out=fused)
            for t in rest:
                scale = job.shares[t] * _clip(precision[t], job.means[t], weight)
                below.add_(weight, alpha=scale)
                fused.addcmul_(weight, theta[t], value=scale)
            fused.div_(below)
        else:
            torch.mul(theta[first], job.shares[first], out=fused)
            for t in rest:
                fused.add_(theta[t], alpha=job.shares[t])
        return _finite(job, fused).to(stored[0].dtype)


class Output:
    """A file of a known size that is written beside `path`, whose place it takes at the end."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        self.temporary = Path(name)
        if hasattr(os, "posix_fallocate"):  # writing into space already there is twice as fast
            os.posix_fallocate(self.handle, 0, self.size)
        return self

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of `data` at `offset`; several threads may."""
        rest = memoryview(data)
        while rest:
            done = os.pwrite(self.handle, rest, offset)
            rest, offset = rest[done:], offset + done

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        os.close(self.handle)
        if kind is None:
            self.temporary.chmod(0o644)
            self.temporary.replace(self.path)
        else:
            self.temporary.unlink(missing_ok=True)


@contextmanager
def workers() -> Iterator[Executor]:
    """As many workers as torch has threads, each with torch's own threads off.

    A worker takes a tensor at a time. That needs no waiting, which operations split among threads do after
    each of their thousands. `torch.set_num_threads` reaches beyond the thread it is called in: it is put back.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def as_bytes(values: Tensor) -> memoryview:
    """The bytes of a tensor; a view where it is contiguous."""
    array: np.ndarray[Any, np.dtype[np.uint8]] = values.contiguous().view(torch.uint8).numpy()
    return array.data


def _clip(block: Tensor, mean: float, out: Tensor) -> float:
    """The block of a Fisher clipped to [floor, cap] of its mean, in `out`; returns what scales it to mean 1."""
    if mean == 0:  # zero everywhere: flat
        out.fill_(1.0)
        return 1.0
    if block.dtype == out.dtype and 1e-30 < mean < 1e30:
        torch.clamp(block, FLOOR * mean, CAP * mean, out=out)
        return 1 / mean
    out.copy_((block.double() / mean).clamp_(FLOOR, CAP))  # out of reach of float32's exponents, or a half
    return 1.0


def _fisher_mean(values: Tensor, name: str, path: Path) -> float:
    """The mean of a Fisher; refuses what is negative or not finite."""
    total = 0.0
    for start in range(0, values.numel(), BLOCK):
        block = values[start : start + BLOCK]
        part = _sum(block)
        if not math.isfinite(part):
            raise Refused(f"{path}: fisher['{name}'] expected finite values, got NaN or infinity")
        low = float(block.amin())
        if low < 0:
            raise Refused(f"{path}: fisher['{name}'] expected no negative value, got {low:.3g}")
        total += part
    return total / values.numel()


def _finite(job: Job, fused: Tensor) -> Tensor:
    if not math.isfinite(_sum(fused)):
        bad = (path for path, value in zip(job.paths, job.theta) if not torch.isfinite(value).all())
        path = next(bad, job.paths[0])
        raise Refused(f"{path}: '{job.name}' expected finite values, got NaN or infinity")
    return fused


def _look(values: Tensor) -> bytes:
    """Some dozens of values spread over a tensor: what models are told apart by."""
    sample = values[:: max(1, values.numel() // 32)].double().numpy()  # each may be a page that was not yet mapped
    return bytes(sample.tobytes())


def _sum(block: Tensor) -> float:
    """The sum, which is finite if and only if all values are."""
    total = float(block.sum())  # a float32 sum can overflow though all values are finite; it is far faster
    return total if math.isfinite(total) else float(block.sum(dtype=torch.float64))
