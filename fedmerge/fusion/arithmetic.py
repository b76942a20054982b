"""Arithmetic on what training changed: each model's difference to the common ancestor, its task vector.

    tau_t = theta_t - theta_0                                             Ilharco et al. 2023, section 2
    theta = theta_0 + scale * sum_t tau_t                                 task arithmetic
    theta = theta_0 + scale * merge(trim(tau_1), ..., trim(tau_T))        TIES, Yadav et al. 2023, algorithm 1

Laws, all tested: task arithmetic of scale 1/T, and TIES of density 1 where all signs agree, are the mean of the
models. The order of the models does not matter, bit for bit. Where one model alone departs from the ancestor,
scale 1 gives that model's own number bit for bit; so one model alone gives itself.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedmerge import params
from fedmerge.errors import ConfigError
from fedmerge.fusion import alike, rules
from fedmerge.params import Params


@torch.no_grad()
def task_vectors(
    ancestor: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    names: Sequence[str],
    *,
    who: Sequence[str] | None = None,
) -> tuple[Params, ...]:
    """What each training changed: theta_t - theta_0, in the models' order.

    Args:
        ancestor: the common starting weights; may hold more than `names`.
        models: T sets of parameters of the ancestor's dtype and device; may hold more than `names`.
        names: what is looked at.
        who: the sites' names, for sentences.

    Returns:
        T times name -> tensor of the parameter's shape and dtype.

    Raises:
        ConfigError: no model, or no name.
        Refused: a model or the ancestor lacks a name, or a shape differs from the first model's.
    """
    if not models or not names:
        raise ConfigError(f"task vectors need models and names, got {len(models)} and {len(names)}")
    alike.check([ancestor], "weights", models[0], names, ["the ancestor"])
    alike.check(models, "weights", models[0], names, alike.sites(models, who))
    return tuple({name: model[name] - ancestor[name] for name in names} for model in models)


@torch.no_grad()
def task_arithmetic(
    ancestor: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    names: Sequence[str],
    scale: float,
    *,
    who: Sequence[str] | None = None,
) -> Params:
    """The ancestor plus the scaled sum of the task vectors.

        theta = theta_0 + scale * sum_t (theta_t - theta_0)               Ilharco et al. 2023, section 2

    Scale 1/T is the mean of the models; scale 1 adds every change whole. The paper chooses one scale for all
    tasks on validation data.

    Args:
        ancestor: as for `task_vectors`.
        models: likewise.
        names: likewise.
        scale: any finite number; a negative one forgets.
        who: the sites' names, for sentences.

    Returns:
        name -> tensor of the parameter's shape and dtype.

    Raises:
        ConfigError: as in `task_vectors`, or the scale is not finite.
        Refused: as in `task_vectors`.
    """
    vectors = task_vectors(ancestor, models, names, who=who)
    _check_scale(scale)
    order, fused = _order(models, names), {}
    for name in names:
        tau = torch.stack([vectors[t][name] for t in order])  # (T, *s)
        theta = torch.stack([models[t][name] for t in order])
        fused[name] = _depart(ancestor[name], theta, tau, tau.double().sum(0), scale)
    return fused


@torch.no_grad()
def ties(
    ancestor: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    names: Sequence[str],
    density: float = 0.2,
    scale: float = 1.0,
    *,
    who: Sequence[str] | None = None,
) -> Params:
    """Trim, elect sign, merge: TIES (Yadav et al. 2023, algorithm 1).

        trim     of each tau_t keep the share `density` of largest magnitude, over all names together
        elect    gamma = sign(sum_t tau_t), the sign with the larger total magnitude
        merge    mean of those tau_t whose sign is gamma; zero where none is

    Where the signs balance exactly, gamma is 0 and the ancestor's number stays, as the paper's formula says
    (the authors' program puts the sign that most other elements have there).

    Args:
        ancestor: as for `task_vectors`.
        models: likewise.
        names: likewise.
        density: share of a task vector's elements that is kept, in (0, 1]; rounded to the nearest number of
            elements, at least one. Elements as large as the smallest kept one are all kept.
        scale: the paper's lambda.
        who: the sites' names, for sentences.

    Returns:
        name -> tensor of the parameter's shape and dtype.

    Raises:
        ConfigError: as in `task_vectors`, the density is outside (0, 1], or the scale is not finite.
        Refused: as in `task_vectors`.
    """
    if not 0 < density <= 1:
        raise ConfigError(f"density expected a number above 0 and up to 1, got {density}")
    _check_scale(scale)
    vectors = [_trim(vector, density) for vector in task_vectors(ancestor, models, names, who=who)]
    order, fused = _order(models, names), {}
    for name in names:
        tau = torch.stack([vectors[t][name] for t in order]).double()  # (T, *s)
        agreed = torch.where(tau.sign() == tau.sum(0).sign(), tau, 0.0)
        change = agreed.sum(0) / (agreed != 0).sum(0).clamp(min=1)
        theta = torch.stack([models[t][name] for t in order])
        fused[name] = _depart(ancestor[name], theta, agreed, change, scale)
    return fused


def _trim(vector: Params, density: float) -> Params:
    """Zero but for the share of largest magnitude over the whole vector."""
    size = torch.cat([value.abs().flatten() for value in vector.values()])  # (N,)
    kept = max(1, round(density * size.numel()))
    threshold = size.kthvalue(size.numel() - kept + 1).values
    return {name: torch.where(value.abs() >= threshold, value, 0.0) for name, value in vector.items()}


def _order(models: Sequence[Mapping[str, Tensor]], names: Sequence[str]) -> list[int]:
    """The order in which sums over the models are taken: the models' own numbers decide."""
    keys = [params.digest({name: model[name] for name in names}) for model in models]
    return sorted(range(len(models)), key=keys.__getitem__)


def _check_scale(scale: float) -> None:
    if not math.isfinite(scale):
        raise ConfigError(f"scale expected a finite number, got {scale}")


def _depart(base: Tensor, theta: Tensor, used: Tensor, change: Tensor, scale: float) -> Tensor:
    """Base + scale * change, and exactly a model's own numbers where it alone is used and the scale is 1.

    Args:
        base: (*s), the ancestor's.
        theta: (T, *s), the models'.
        used: (T, *s), zero where a model takes no part.
        change: (*s), float64.
        scale: of the change.
    """
    value = (base.double() + scale * change).to(base.dtype)
    if scale == 1:
        for model, only in zip(theta, rules.alone(used)):
            value = torch.where(only, model, value)
    return torch.where((theta == base).all(0), theta[0], value)  # -0.0 + 0.0 would be 0.0
