"""Dropout that draws from a generator of its own instead of torch's global one.

A run that draws its masks from (seed, step) can be resumed in the middle, leaves the caller's random numbers
alone, and does not notice other runs in other threads, which share the global generator.

Where several devices share a batch, each draws the masks of all its images and takes those of its own: they are the
masks that one device would have drawn.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from fedmerge.errors import NetError

WHOLE_CHANNELS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@dataclass
class Share:
    """Which images of a batch a pass is about: `count` of `whole`, the first of them at `begin`; all if whole is 0."""

    begin: int = 0
    count: int = 0
    whole: int = 0

    def rows(self, length: int) -> tuple[int, int]:
        """Where a tensor of so many rows begins in that of the whole batch, and how many rows that one has.

        Rows are images, or as many for each image, one image after the other. Otherwise they count as a whole batch.
        """
        if not self.whole or length % self.count:
            return 0, length
        each = length // self.count
        return self.begin * each, self.whole * each


ALL = Share()


def active(net: nn.Module) -> list[nn.Module]:
    """The dropout layers that would drop something in training.

    Raises:
        NetError: a kind of dropout that is not known here (alpha dropout).
    """
    found: list[nn.Module] = []
    for name, module in net.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            if not isinstance(module, (nn.Dropout, *WHOLE_CHANNELS)):
                raise NetError(f"'{name}' is a {type(module).__name__}, whose random numbers cannot be given")
            found.append(module)
    return found


def number(seed: int, step: int) -> int:
    """A generator's seed for one step; those of neighbouring seeds and steps have nothing in common."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {step}".encode(), digest_size=7).digest(), "big")


@contextmanager
def drawn_from(layers: Iterable[nn.Module], generator: torch.Generator, share: Share = ALL) -> Iterator[None]:
    """Within the block the layers draw from `generator`, which lives on the device of their input, for this share."""
    layers = list(layers)
    for layer in layers:
        layer.forward = partial(_forward, layer, generator, share)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own shows again


def _forward(layer: nn.Module, generator: torch.Generator, share: Share, x: Tensor) -> Tensor:
    if not layer.training:
        return x
    keep = 1.0 - float(layer.p)  # type: ignore[arg-type]
    begin, whole = share.rows(len(x))
    # (B, C, 1, ...) for whole channels, else one draw per element
    shape = (x.shape[1], *[1] * (x.ndim - 2)) if isinstance(layer, WHOLE_CHANNELS) else x.shape[1:]
    mask = torch.empty((whole, *shape), dtype=x.dtype, device=x.device).bernoulli_(keep, generator=generator)
    return x * mask[begin : begin + len(x)].div_(keep)
