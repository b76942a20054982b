"""Groups of hidden units as a record, and permuting parameters by it.

`fusion.symmetry` derives the groups of a net and offers all of this too.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmerge.errors import NetError
from fedmerge.params import Params

Permutations = dict[str, Tensor]
"""group -> int64 (n,): the unit that comes to place i is the old unit `permutation[i]`. What it lacks stays."""


@dataclass(frozen=True)
class Segment:
    """A part of an axis whose units one permutation moves.

    Attributes:
        offset: its first entry.
        length: units.
        group: the permutation's name.
        width: consecutive entries that a unit takes; 1 but where a linear layer reads a flattened image.
    """

    offset: int
    length: int
    group: str
    width: int = 1


@dataclass(frozen=True)
class Axis:
    """An axis of a parameter that carries hidden units; what no segment covers keeps its place.

    Attributes:
        axis: which.
        size: its entries.
        segments: in the order of their offsets; a concatenation has several.
    """

    axis: int
    size: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Groups:
    """The permutations that leave a net's function as it is.

    Attributes:
        sizes: group -> units. Each is named by the layer that makes its units first; `"[4:8]"` behind the name says
            which of them, where they are not all.
        axes: parameter -> its axes that carry units, the lower first. Running statistics of batch norms are listed like
            parameters.
    """

    sizes: dict[str, int]
    axes: dict[str, tuple[Axis, ...]]


def random(groups: Groups, *, seed: int) -> Permutations:
    """A permutation of every group, a function of the seed."""
    g = torch.Generator().manual_seed(seed)
    return {group: torch.randperm(n, generator=g) for group, n in groups.sizes.items()}


def inverse(permutations: Mapping[str, Tensor]) -> Permutations:
    """The permutations that undo these."""
    return {group: permutation.argsort() for group, permutation in permutations.items()}


def permute(params: Mapping[str, Tensor], groups: Groups, permutations: Mapping[str, Tensor]) -> Params:
    """The parameters with their hidden units in another order: the same function.

    Args:
        params: name -> tensor; weights, or a Fisher, which is permuted like its weights. It may lack names.
        groups: of the net.
        permutations: group -> (n,); groups that are missing stay as they are.

    Returns:
        name -> tensor. Tensors that nothing moves are the ones given, not copies.

    Raises:
        NetError: an unknown group, a permutation that is none, or an axis of another size.
    """
    for group, permutation in permutations.items():
        if group not in groups.sizes:
            raise NetError(f"the net has no group of units '{group}'")
        if not torch.equal(permutation.sort().values, torch.arange(groups.sizes[group])):
            raise NetError(f"'{group}' expected a permutation of {groups.sizes[group]} units")
    moved = dict(params)
    for name in params.keys() & groups.axes.keys():
        for axis in groups.axes[name]:
            check_axis(name, params[name], axis)
            if any(segment.group in permutations for segment in axis.segments):
                order = _order(axis, permutations).to(params[name].device)
                moved[name] = moved[name].index_select(axis.axis, order)
    return moved


def check_axis(name: str, value: Tensor, axis: Axis) -> None:
    """Refuse a tensor that has not the net's number of units.

    Raises:
        NetError: names the tensor.
    """
    got = value.shape[axis.axis] if axis.axis < value.dim() else "none"
    if got != axis.size:
        raise NetError(f"'{name}' expected {axis.size} entries along axis {axis.axis}, got {got}")


def _order(axis: Axis, permutations: Mapping[str, Tensor]) -> Tensor:
    """Which old entry of the axis comes to each place."""
    order = torch.arange(axis.size)
    for s in axis.segments:
        if s.group in permutations:
            units = permutations[s.group][:, None] * s.width + torch.arange(s.width)  # (length, width)
            order[s.offset : s.offset + s.length * s.width] = s.offset + units.flatten()
    return order
