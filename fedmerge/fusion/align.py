"""Weight matching: put the hidden units of one net into the order of another's before the two are merged.

Ainsworth, Hayase & Srinivasa, "Git Re-Basin: Merging Models modulo Permutation Symmetries" (ICLR 2023), algorithm 1.
Nets trained from different starting points number their units differently, and the mean of two such nets is the mean
of unrelated kernels. The algorithm knows no data: it looks for the permutations whose result is nearest in weights.

    groups = symmetry.of(net, image)
    found = align.match(anchor, model, groups, seed=0)
    aligned, fisher = symmetry.permute(model, groups, found), symmetry.permute(fisher, groups, found)
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fedmerge.errors import NetError
from fedmerge.fusion.groups import Groups, Permutations, Segment, check_axis, permute
from fedmerge.params import Params

Place = tuple[str, int, Segment]  # a parameter, one of its axes, and the part of it that a group moves
TINY = 1e-12  # of |anchor| |model|: a smaller improvement is rounding


def match(
    anchor: Mapping[str, Tensor],
    model: Mapping[str, Tensor],
    groups: Groups,
    *,
    seed: int,
    weights: Mapping[str, float] | None = None,
) -> Permutations:
    """The permutations of `model`'s hidden units that bring it near to `anchor`.

        max over P of  sum_l  w_l <anchor_l, (P model)_l>            Ainsworth 2023, eq. 1

    which is to minimise the distance of the two, since permuting keeps a model's length. One group after the other is
    solved exactly as a linear assignment while the others stand still, in an order drawn anew for each pass, until a
    pass improves nothing. What comes out is an optimum of each group by itself, not of all together.

    A parameter that only one of the models has, or whose shape they do not share (a stem with other image channels,
    a head with other labels), is left out of the sum; its axes are still permuted with the others.

    Args:
        anchor: name -> tensor, the model that stays.
        model: name -> tensor; each hidden axis is as long as the anchor's.
        groups: `symmetry.of` the net.
        seed: of the order in which groups are visited.
        weights: parameter -> w_l; names that it lacks count nothing. All count 1 when missing.

    Returns:
        group -> int64 (n,), for `symmetry.permute`.

    Raises:
        NetError: a hidden axis has another size, a number is not finite, or nothing can be compared.
    """
    shared = _shared(anchor, model, groups, weights)
    here = {name: model[name].detach().to("cpu", torch.float64) for name in shared}
    there = {name: w * anchor[name].detach().to("cpu", torch.float64) for name, w in shared.items()}
    places = _places(groups, shared)
    least = TINY * _norm(here) * _norm(there)
    if not math.isfinite(least):
        raise NetError("models to be aligned expected finite numbers, got NaN or infinity")
    found = {group: torch.arange(n) for group, n in groups.sizes.items()}
    dice = np.random.default_rng(seed)
    improved = True
    while improved:
        improved = False
        for number in dice.permutation(len(places)):
            group, where = places[number]
            step = _assign(there, here, where)
            before = {name: here[name] for name, _, _ in where}
            after = permute(before, groups, {group: step})
            # the assignment is exact but for parameters with the group on both axes: so the gain is taken anew
            if sum(float((there[name] * (after[name] - before[name])).sum()) for name in before) > least:
                here.update(after)
                found[group] = found[group][step]
                improved = True
    return found


def to_first(
    models: Sequence[Mapping[str, Tensor]],
    groups: Groups,
    *,
    seed: int,
    weights: Mapping[str, float] | None = None,
) -> list[Permutations]:
    """Permutations that bring T models into the order of the first, which keeps its own.

    Each model is matched to the first alone, so that the result for one does not depend on the others, and the first
    can be a model that is already in use. Ainsworth's algorithm 3 matches each to the mean of the others in turn.

    Args:
        models: T sets of parameters.
        groups: as for `match`.
        seed: as for `match`.
        weights: as for `match`.

    Raises:
        NetError: as `match`.
    """
    first = {group: torch.arange(n) for group, n in groups.sizes.items()}
    return [first, *(match(models[0], model, groups, seed=seed, weights=weights) for model in models[1:])]


def _shared(
    anchor: Mapping[str, Tensor], model: Mapping[str, Tensor], groups: Groups, weights: Mapping[str, float] | None
) -> dict[str, float]:
    """Name -> w of what is compared."""
    shared: dict[str, float] = {}
    for name, axes in groups.axes.items():
        for params in (anchor, model):
            for axis in axes:
                if name in params:
                    check_axis(name, params[name], axis)
        w = 1.0 if weights is None else weights.get(name, 0.0)
        if w and name in anchor and name in model and anchor[name].shape == model[name].shape:
            shared[name] = w
    if not shared:
        raise NetError("models to be aligned have no layer in common that a permutation moves")
    return shared


def _places(groups: Groups, shared: Mapping[str, float]) -> list[tuple[str, list[Place]]]:
    """Each group with the places where it moves something that is compared."""
    places: dict[str, list[Place]] = {}
    for name in shared:
        for axis in groups.axes[name]:
            for segment in axis.segments:
                places.setdefault(segment.group, []).append((name, axis.axis, segment))
    return list(places.items())


def _assign(there: Params, here: Params, where: Sequence[Place]) -> Tensor:
    """The permutation of one group that is best while the others stand still."""
    n = where[0][2].length
    likeness = torch.zeros((n, n), dtype=torch.float64)  # <unit i of the anchor, unit j of the model>
    for name, axis, segment in where:
        likeness += _units(there[name], axis, segment) @ _units(here[name], axis, segment).T
    return torch.from_numpy(linear_sum_assignment(likeness.numpy(), maximize=True)[1])


def _units(value: Tensor, axis: int, segment: Segment) -> Tensor:
    """All that belongs to each unit in one parameter: (units, m)."""
    entries = value.movedim(axis, 0)[segment.offset : segment.offset + segment.length * segment.width]
    return entries.reshape(segment.length, -1)


def _norm(params: Params) -> float:
    return math.sqrt(sum(float(value.square().sum()) for value in params.values()))
