"""The permutation groups of a net, derived from the net: which hidden units may change places.

The hidden units of a layer have no order: permute the kernels of a conv, and alike everything that reads them, and the
net computes the same function. `of` finds out what has to be permuted alike by running the net once on shapes
(`fusion.tracing`); `verify` tries the result with random weights. `docs/alignment.md` explains it with a drawing.

    >>> from fedmerge import nets
    >>> net = nets.build({"name": "isensee2017", "base_filters": 4, "depth": 2}, in_channels=1, out_channels=3, seed=0)
    >>> groups = of(net, (1, 16, 16, 16))
    >>> groups.axes["localise.0.conv.weight"][1].segments  # the concatenation: decoder first, then the skip
    (Segment(offset=0, length=4, group='up.0.conv', width=1), Segment(offset=4, length=4, group='stem', width=1))
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from inspect import ismethod
from typing import Any

import torch
from torch import Tensor, nn

from fedmerge import params
from fedmerge.errors import NetError
from fedmerge.fusion.groups import Axis, Groups, Permutations, Segment, inverse, permute, random
from fedmerge.fusion.operations import OPERATIONS
from fedmerge.fusion.tied import entries, resolve
from fedmerge.fusion.tracing import Trace

__all__ = ["Axis", "Groups", "Permutations", "Segment", "inverse", "of", "permute", "random", "verify"]

CASES = 2  # a batch of two, so that `squeeze` leaves the axis of the cases alone


def of(net: nn.Module, image: Sequence[int]) -> Groups:
    """Derive the groups by following units from layer to layer.

    Logits, image channels and whatever constants touch are never permuted. Units of a group norm change places within
    their group, those of a grouped conv alike in all groups (inputs) or within their group (outputs).

    Args:
        net: any module of one image batch, on any device; it is read in evaluation mode, its numbers are not.
        image: (C, *S), a size that the net accepts.

    Raises:
        NetError: an operation is not known here, or cannot be followed; names it and the layer.
    """
    parameters = {name: torch.empty_like(p, device="meta") for name, p in net.named_parameters()}
    buffers = {name: torch.empty_like(b, device="meta") for name, b in net.named_buffers()}
    trace = Trace(parameters, buffers, OPERATIONS)
    x = torch.empty((CASES, *image), device="meta")
    trace.image(x)
    with _evaluating(net), params.holding(net, {**parameters, **buffers}), _paths(net, trace), torch.no_grad(), trace:
        out = _answer(net, x)
    trace.close(out)
    return _groups(trace)


def verify(net: nn.Module, groups: Groups, image: Sequence[int], *, seed: int = 0) -> None:
    """Try one random permutation of all groups, with random weights, in float64 on the CPU.

    Fresh weights make the check sharper than the net's own: norms begin at 1 and 0, which no permutation changes.

    Args:
        net: only its modules matter; the meta device is enough.
        groups: what `of` found, or somebody wrote.
        image: (C, *S), a size that the net accepts; small ones make it quick.
        seed: of weights, image and permutations.

    Raises:
        NetError: the function changed by more than 1e-9 of the largest logit.
    """
    g = torch.Generator().manual_seed(seed)
    weights = {name: _drawn(p, g) for name, p in [*net.named_parameters(), *net.named_buffers()]}
    x = torch.randn((CASES, *image), dtype=torch.float64, generator=g)
    permuted = permute(weights, groups, random(groups, seed=seed))
    with _evaluating(net), torch.no_grad():
        with params.holding(net, weights):
            before = _flat(_answer(net, x))
        with params.holding(net, permuted):
            after = _flat(_answer(net, x))
    change = float((before - after).abs().max() / before.abs().max())
    if not change <= 1e-9:
        raise NetError(f"a permutation of hidden units changed the net's function by {change:.1e} of its largest value")


def _groups(trace: Trace) -> Groups:
    names: dict[int, str] = {}
    sizes: dict[str, int] = {}
    axes: dict[str, tuple[Axis, ...]] = {}
    for (name, number), spans in trace.axes.items():
        offset, segments = 0, []
        spans = resolve(spans)
        for block, width in spans:
            size = block.length * width
            if block.length > 1 and not block.fixed:
                layer = name.rpartition(".")[0] or name
                called = layer if len(spans) == 1 else f"{layer}[{offset}:{offset + size}]"
                if id(block) not in names:
                    names[id(block)] = called if called not in sizes else f"{name}, axis {number}, from {offset}"
                group = names[id(block)]
                sizes[group] = block.length
                segments.append(Segment(offset, block.length, group, width))
            offset += size
        if segments:
            axes[name] = (*axes.get(name, ()), Axis(number, entries(spans), tuple(segments)))
    return Groups(sizes, {name: tuple(sorted(own, key=lambda axis: axis.axis)) for name, own in axes.items()})


def _answer(net: nn.Module, x: Tensor) -> Any:  # noqa: ANN401 - a net returns what it likes
    """The logits, of all levels where a net has several: its coarser heads read hidden units too."""
    levels = getattr(net, "levels", None)
    return levels(x) if ismethod(levels) else net(x)


def _drawn(like: Tensor, g: torch.Generator) -> Tensor:
    """Random numbers of about the size that weights have, in place of a parameter or buffer."""
    if not like.is_floating_point():  # a counter
        return torch.zeros(like.shape, dtype=like.dtype)
    z = torch.randn(like.shape, dtype=torch.float64, generator=g)
    if like.dim() > 1:
        return z * math.sqrt(2 / max(1, like[0].numel()))
    return 0.5 + z.abs()  # a norm's scale or a variance must not come near 0; the rest may be anything


def _flat(out: Any) -> Tensor:  # noqa: ANN401 - a net returns what it likes
    """All logits of a net in one row."""
    if isinstance(out, Tensor):
        return out.reshape(-1)
    parts: list[Any] = list(out.values() if isinstance(out, Mapping) else out)
    return torch.cat([_flat(part) for part in parts])


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    """Within the block no layer drops anything or counts statistics."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _paths(net: nn.Module, trace: Trace) -> Iterator[None]:
    """Within the block the trace knows which module is running."""
    above: list[str] = []

    def enter(path: str, *_: object) -> None:
        above.append(trace.where)
        trace.where = path

    def leave(*_: object) -> None:
        trace.where = above.pop()

    hooks = [m.register_forward_pre_hook(partial(enter, path)) for path, m in net.named_modules()]
    hooks += [m.register_forward_hook(leave) for m in net.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
