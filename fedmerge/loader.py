"""Batches on the device where the net is.

A batch is a pure function of the step: `batches(step)` gives images (B, C, *S) float32 and labels (B, 1, *S)
int64 on the CPU. On the CPU that is the whole story. On CUDA a thread makes the next batch while this one is
computed on, in pinned memory, from which the copy to the device runs beside the computation.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from fedmerge.devices import layout

Batch = tuple[Tensor, Tensor]
Batches = Callable[[int], Batch]


class Ahead:
    """Batch `step` on the device, with the one after it already under way."""

    def __init__(self, batches: Batches, device: torch.device, steps: int) -> None:
        self.batches, self.device, self.steps = batches, device, steps
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fedmerge-batches")
        self._next: tuple[int, Future[Batch]] | None = None

    def __call__(self, step: int) -> Batch:
        """The batch; an exception of `batches` is raised here."""
        if self._next is not None and self._next[0] == step:
            x, y = self._next[1].result()
        else:  # the first one, or after a jump to another step
            x, y = self._make(step)
        self._next = None
        if step + 1 < self.steps:
            self._next = (step + 1, self._thread.submit(self._make, step + 1))
        # the copies are queued on the current stream, in front of the kernels that read them
        return x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)

    def _make(self, step: int) -> Batch:
        x, y = self.batches(step)
        if self.device.type == "cuda":
            x, y = x.contiguous(memory_format=layout(x)).pin_memory(), y.pin_memory()
        return x, y

    def close(self) -> None:
        """End the thread; what it was making is thrown away."""
        self._next = None
        self._thread.shutdown(wait=False, cancel_futures=True)
