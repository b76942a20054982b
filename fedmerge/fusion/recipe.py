"""From a method of the table to merged weights: one set of functions for the server and for the target's side."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from fedmerge import partition
from fedmerge.errors import NetError
from fedmerge.fusion import METHODS, Method, align, arithmetic, foreign, mixing, symmetry
from fedmerge.params import Params

COMBINED: dict[str, Callable[..., Params]] = {
    "task-arithmetic": lambda ancestor, models, names, scale, **_: arithmetic.task_arithmetic(
        ancestor, models, names, scale
    ),
    "ties": lambda ancestor, models, names, density, **_: arithmetic.ties(ancestor, models, names, density),
}
"""Rules that have no ratios: (ancestor, models, names, and the numbers of [adapt] by name) -> merged weights."""


def combines(method: Method) -> bool:
    """Whether the method's rule has no ratios: one of `COMBINED`, or another package's own.

    Raises:
        ConfigError: it is another package's, which cannot be imported.
    """
    return method.rule in COMBINED or (method.rule is not None and foreign.rule(method.rule, METHODS) is not None)


def names(method: Method, fusable: Sequence[str], norms: Sequence[str]) -> tuple[str, ...]:
    """What the method merges: P, and the norm parameters where it says so."""
    return (*fusable, *(norms if method.norms == "merged" else ()))


def mix(
    method: Method,
    models: Sequence[Params],
    fishers: Sequence[Params],
    wanted: Sequence[str],
    *,
    net: nn.Module,
    image: Sequence[int],
    who: Sequence[str],
) -> mixing.Mix:
    """What the method mixes: the named weights of the models, and their Fishers for rule mode.

    Args:
        method: a row of the table whose rule is mean or mode.
        models: T sets of all parameters, in the order of the sites.
        fishers: their raw Fishers; not looked at for rule mean.
        wanted: from `names`.
        net: the target's; the meta device is enough.
        image: (C, *S), a size that it accepts.
        who: the sites' names, for sentences.
    """
    if method.align:
        models, fishers = aligned(net, image, models, fishers)
    return mixing.prepare(
        models,
        fishers if method.rule == "mode" else None,
        wanted,
        rule=method.rule or "mean",
        grain=method.grain,
        axes=partition.kernel_axes(net),
        who=who,
    )


def aligned(
    net: nn.Module, image: Sequence[int], models: Sequence[Params], fishers: Sequence[Params]
) -> tuple[list[Params], list[Params]]:
    """The models and their Fishers with hidden units in the order of the first model's (Ainsworth et al. 2023)."""
    groups = symmetry.of(net, image)
    moves = align.to_first(models, groups, seed=0)
    return (
        [symmetry.permute(model, groups, move) for model, move in zip(models, moves)],
        [symmetry.permute(fisher, groups, move) for fisher, move in zip(fishers, moves)],
    )


def combine(
    method: Method, ancestor: Params, models: Sequence[Params], wanted: Sequence[str], *, scale: float, density: float
) -> Params:
    """One model by a rule that has no ratios (`combines`).

    Args:
        method: its row.
        ancestor: what the models' trainings started from.
        models: T sets of parameters.
        wanted: what to put together.
        scale: of task arithmetic.
        density: of TIES.

    Raises:
        NetError: another package's rule fails, or gives something else than the wanted weights.
    """
    rule = str(method.rule)
    if rule in COMBINED:
        return COMBINED[rule](ancestor, models, wanted, scale=scale, density=density)
    return _foreign(rule, ancestor, models, wanted, scale=scale, density=density)


def _foreign(rule: str, ancestor: Params, models: Sequence[Params], wanted: Sequence[str], **numbers: float) -> Params:
    """What another package's rule makes, looked at before anybody uses it."""
    combine = foreign.rule(rule, METHODS)
    if combine is None:
        raise NetError(f"the rule '{rule}' is of no package that is installed here")
    own = [{name: value.clone() for name, value in model.items()} for model in (ancestor, *models)]
    try:
        made = combine(own[0], own[1:], wanted, **numbers)
        found = {name: made[name] for name in wanted}
    except Exception as error:  # foreign code may raise anything at all
        raise NetError(f"the rule '{rule}' fails: {type(error).__name__}: {error}") from error
    for name, value in found.items():
        want = models[0][name]
        if not isinstance(value, torch.Tensor) or value.shape != want.shape or value.dtype != want.dtype:
            got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
            raise NetError(f"the rule '{rule}': '{name}' expected {want.dtype} {tuple(want.shape)}, got {got}")
        if not torch.isfinite(value).all():
            raise NetError(f"the rule '{rule}': '{name}' expected finite values")
    return {name: value.detach().contiguous() for name, value in found.items()}


def starting_logits(mixed: mixing.Mix, method: Method, seed: int) -> Params:
    """Zeros, which make equal ratios (the first model alone, where it is the anchor), or normal numbers of the seed."""
    if method.chooser == "random":
        return mixing.random_logits(mixed, torch.Generator().manual_seed(seed))
    return mixing.zeros(mixed)
