"""Mixing ratios by grain, and fusion name by name.

A grain says what shares one ratio (`fusion.grains`). Logits are free numbers; the ratios made of them are
non-negative and sum to 1 over the sites (`fusion.kinds`):

    a_t = sigmoid(l_t) / sum_s sigmoid(l_s)                       Geyer et al. 2019
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmerge import fisher, params
from fedmerge.errors import ConfigError, Refused
from fedmerge.fusion import alike, grains, rules
from fedmerge.fusion.grains import GRAINS
from fedmerge.fusion.kinds import KINDS, Kind
from fedmerge.params import Params

Ratios = dict[str, Tensor]  # group -> (T,), or (T, K) for grain kernel
Logits = dict[str, Tensor]  # the same shapes


@dataclass(frozen=True)
class Mix:
    """What a fusion is made of, prepared once for all ratios.

    Inside, a tensor is (K, m): K the ratios that it has, m the elements that share one (K = 1 but for grain
    kernel). T is the number of models.

    Attributes:
        names: what is fused.
        theta: name -> the T tensors, as given.
        precision: name -> (T, K, m), normalised Fisher; empty for rule mean.
        centre: name -> (K, m), `rules.centre` of the T tensors.
        lifted: name -> (T, K, m), precision * (theta - centre).
        rule: `"mean"` or `"mode"`.
        grain: `"model"`, `"layer"` or `"kernel"`.
        group_of: name -> the group whose ratios it takes.
        kernels: group -> K.
        axes: name -> the axis of its output kernels.
        sites: the T names, for sentences.
        order: the order in which sums over the models are taken. It depends on the models alone, and so a
            fusion does not depend on the order in which they are listed.
    """

    names: tuple[str, ...]
    theta: dict[str, tuple[Tensor, ...]]
    precision: dict[str, Tensor]
    centre: dict[str, Tensor]
    lifted: dict[str, Tensor]
    rule: str
    grain: str
    group_of: dict[str, str]
    kernels: dict[str, int]
    axes: dict[str, int]
    sites: tuple[str, ...]
    order: tuple[int, ...]


def prepare(
    models: Sequence[Mapping[str, Tensor]],
    fishers: Sequence[Mapping[str, Tensor]] | None,
    names: Sequence[str],
    *,
    rule: str = "mode",
    grain: str = "layer",
    axes: Mapping[str, int] | None = None,
    who: Sequence[str] | None = None,
) -> Mix:
    """Line up T models for fusion; normalises the Fishers.

    Args:
        models: T sets of parameters, one dtype and device; may hold more than `names`.
        fishers: T raw Fishers; None for rule mean.
        names: what to fuse (P).
        rule: `"mean"` or `"mode"`.
        grain: `"model"`, `"layer"` or `"kernel"`.
        axes: name -> axis of the output kernels (`partition.kernel_axes`); 0 where it is not given.
        who: the sites' names, for sentences.

    Raises:
        ConfigError: unknown rule or grain, no model, no name, rule mode without Fishers.
        Refused: a model or Fisher lacks a name, or a shape differs from the first model's.
    """
    if rule not in rules.RULES:
        raise ConfigError(f"rule expected one of {', '.join(rules.RULES)}, got '{rule}'")
    if grain not in GRAINS:
        raise ConfigError(f"grain expected one of {', '.join(GRAINS)}, got '{grain}'")
    if not models or not names:
        raise ConfigError(f"a fusion needs models and names, got {len(models)} and {len(names)}")
    sites = alike.sites(models, who or None)
    alike.check(models, "weights", models[0], names, sites)
    precisions: list[Params] = []
    if rule == "mode":
        if fishers is None:
            raise ConfigError("rule mode needs the sites' Fishers")
        alike.check(fishers, "fisher", models[0], names, sites)
        precisions = [
            fisher.normalise({name: f[name].to(models[0][name]) for name in names}, who=site)
            for f, site in zip(fishers, sites)
        ]
    axis_of = {name: (axes or {}).get(name, 0) for name in names}
    shapes = {name: tuple(models[0][name].shape) for name in names}
    group_of, kernels = grains.groups(shapes, grain, axis_of)
    keys = [params.digest({name: model[name] for name in names}) for model in models]
    order = tuple(sorted(range(len(models)), key=keys.__getitem__))
    mix = Mix(tuple(names), {}, {}, {}, {}, rule, grain, group_of, kernels, axis_of, sites, order)
    with torch.no_grad():
        for name in names:
            mix.theta[name] = tuple(model[name].detach() for model in models)
            theta = torch.stack([fold(mix, name, value) for value in mix.theta[name]])  # (T, K, m)
            mix.centre[name] = rules.centre(theta)
            mix.lifted[name] = theta.sub_(mix.centre[name])
            if rule == "mode":
                mix.precision[name] = torch.stack([fold(mix, name, p.pop(name)) for p in precisions])
                mix.lifted[name] *= mix.precision[name]
    return mix


def uniform(mix: Mix) -> Ratios:
    """The same ratio for every model."""
    return given(mix, [1.0] * len(mix.sites))


def given(mix: Mix, weights: Sequence[float]) -> Ratios:
    """One number a site, for all groups; scaled to sum 1.

    Raises:
        ConfigError: not one number a site, or one is negative or not finite, or all are zero.
    """
    if len(weights) != len(mix.sites):
        raise ConfigError(f"ratios expected {len(mix.sites)} numbers, one a site, got {len(weights)}")
    if not all(math.isfinite(w) and w >= 0 for w in weights) or not sum(weights) > 0:
        raise ConfigError(f"ratios expected non-negative numbers, not all zero, got {list(weights)}")
    total = math.fsum(weights)
    return {
        group: torch.stack([torch.full_like(row, w / total) for row, w in zip(logits, weights)])
        for group, logits in zeros(mix).items()
    }


def zeros(mix: Mix) -> Logits:
    """Logits of zero, where a fit begins: uniform ratios, or of kind anchored the first model alone."""
    one = next(iter(mix.theta.values()))[0]
    T = len(mix.sites)
    return {group: one.new_zeros((T, K) if mix.grain == "kernel" else (T,)) for group, K in mix.kernels.items()}


def logit_shapes(
    shapes: Mapping[str, tuple[int, ...]], models: int, *, grain: str, axes: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """The shapes of the logits of a fusion of so many models, without preparing it: group -> (T,) or (T, K).

    Args:
        shapes: name -> shape of what is fused.
        models: T.
        grain: as for `prepare`.
        axes: as for `prepare`.
    """
    _, kernels = grains.groups(shapes, grain, {name: axes.get(name, 0) for name in shapes})
    return {group: (models, K) if grain == "kernel" else (models,) for group, K in kernels.items()}


def random_logits(mix: Mix, generator: torch.Generator) -> Logits:
    """Independent standard normal logits, drawn on the generator's device."""
    return {
        group: torch.randn(old.shape, generator=generator, device=generator.device).to(old)
        for group, old in zeros(mix).items()
    }


def ratios(logits: Mapping[str, Tensor], kind: Kind = "sigmoid") -> Ratios:
    """Non-negative ratios that sum to 1 over the sites, as the kind makes them of the logits (`fusion.kinds`)."""
    return {group: KINDS[kind].ratios(value) for group, value in logits.items()}


def check_ratios(mix: Mix, ratios: Mapping[str, Tensor], who: str = "") -> None:
    """Refuse ratios from elsewhere that are not this fusion's.

    Raises:
        Refused: a group is missing or unknown, a shape differs, a value is negative or not finite, or the
            ratios of a group do not sum to 1 within 1e-4.
    """
    site = f"{who}: " if who else ""
    expected = zeros(mix)
    for group in expected.keys() ^ ratios.keys():
        raise Refused(f"{site}ratios of '{group}' are {'missing' if group in expected else 'unknown'}")
    for group, value in ratios.items():
        if value.shape != expected[group].shape:
            want, got = tuple(expected[group].shape), tuple(value.shape)
            raise Refused(f"{site}ratios of '{group}' expected shape {want}, got {got}")
        if not (value >= 0).all() or not ((value.sum(0) - 1).abs() < 1e-4).all():
            raise Refused(f"{site}ratios of '{group}' expected non-negative numbers of sum 1, got others")


@torch.no_grad()
def fuse(mix: Mix, ratios: Mapping[str, Tensor]) -> Params:
    """One model out of T.

    Args:
        mix: from `prepare`.
        ratios: group -> (T,), or (T, K) for grain kernel.

    Returns:
        name -> tensor of the parameter's shape.

    Raises:
        Refused: a group is missing or has another shape.
    """
    folded = {group: ratio_of(mix, ratios, group) for group in mix.kernels}
    fused = {}
    for name in mix.names:
        a = folded[mix.group_of[name]]  # (T, K, 1)
        moved = _weighted_sum(mix, mix.lifted[name], a)
        moved /= denominator(mix, name, a)
        fused[name] = unfold(mix, name, moved.add_(mix.centre[name]))
    if (torch.cat([a.flatten() for a in folded.values()]) == 0).any():
        _put_lone_models(mix, folded, fused)
    return fused


def fold(mix: Mix, name: str, value: Tensor) -> Tensor:
    """(*s) -> (K, m); a view where the kernels come first."""
    return grains.fold(value, _axis(mix, name))


def unfold(mix: Mix, name: str, folded: Tensor) -> Tensor:
    """(K, m) -> (*s); undoes `fold`."""
    return grains.unfold(folded, _axis(mix, name), mix.theta[name][0])


def _axis(mix: Mix, name: str) -> int | None:
    return mix.axes[name] if mix.grain == "kernel" else None


def ratio_of(mix: Mix, ratios: Mapping[str, Tensor], group: str) -> Tensor:
    """The group's ratios as (T, K, 1)."""
    shape = (len(mix.sites), mix.kernels[group])
    if group not in ratios or ratios[group].shape != (shape if mix.grain == "kernel" else shape[:1]):
        got = tuple(ratios[group].shape) if group in ratios else "none"
        want = shape if mix.grain == "kernel" else shape[:1]
        raise Refused(f"ratios of '{group}' expected shape {want}, got {got}")
    return ratios[group].reshape(*shape, 1)


def _weighted_sum(mix: Mix, values: Tensor, a: Tensor) -> Tensor:
    """sum_t a_t values_t: (T, K, m), (T, K, 1) -> (K, m). No matmul: those may round to TF32 or bfloat16."""
    first, *rest = mix.order
    total = values[first] * a[first]
    for t in rest:
        total.addcmul_(values[t], a[t])
    return total


def denominator(mix: Mix, name: str, a: Tensor) -> Tensor:
    """D = sum_t a_t F_t: (K, m), or (K, 1) for rule mean."""
    return _weighted_sum(mix, mix.precision[name], a) if mix.precision else a.sum(0)


def _put_lone_models(mix: Mix, folded: Mapping[str, Tensor], fused: Params) -> None:
    """Where all ratios but one are zero, put that model's own numbers, in place."""
    lone = {group: rules.alone(a) for group, a in folded.items()}  # (T, K, 1)
    for name in mix.names:
        only = lone[mix.group_of[name]]
        if only.any():
            value = fold(mix, name, fused[name])
            for theta, here in zip(mix.theta[name], only):
                value = torch.where(here, fold(mix, name, theta), value)
            fused[name] = unfold(mix, name, value)
