"""The fit of the mixing ratios on the target's loss: closed-form gradient, Adam, and the loop over answers.

Whoever answers, a function beside the data or a message to a hospital, the same steps are taken here.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fedmerge.errors import Refused
from fedmerge.fusion.kinds import KINDS, Kind
from fedmerge.fusion.mixing import Logits, Mix, denominator, fold, fuse, ratio_of, ratios, zeros
from fedmerge.params import Params


@torch.no_grad()
def pull_back(
    mix: Mix,
    logits: Mapping[str, Tensor],
    fused: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    kind: Kind = "sigmoid",
) -> Logits:
    """The gradient of a loss with respect to the logits, from its gradient g at the fused weights.

        dL/da_t = <g, F_t (theta_t - theta) / D>,    D = sum_t a_t F_t     (F = 1 for rule mean)
        dL/dl_t = a_t (dL/da_t - sum_s a_s dL/da_s) sigmoid(-l_t)          (softmax: without the last factor)
        dL/dl_t = dL/da_t - dL/da_0                                        (anchored)

    Args:
        mix: from `prepare`.
        logits: group -> (T,) or (T, K).
        fused: `fuse(mix, ratios(logits, kind))`.
        grads: name -> dL / d fused.
        kind: as in `mixing.ratios`.

    Returns:
        group -> tensor of the logits' shape.

    Raises:
        Refused: a gradient is missing or has another shape.
    """
    mixed = ratios(logits, kind)
    slope: dict[str, Tensor] = {}
    for name in mix.names:
        if name not in grads or grads[name].shape != fused[name].shape:
            got = tuple(grads[name].shape) if name in grads else "none"
            raise Refused(f"gradient of '{name}' expected shape {tuple(fused[name].shape)}, got {got}")
        group = mix.group_of[name]
        a = ratio_of(mix, mixed, group)  # (T, K, 1)
        h = fold(mix, name, grads[name].to(fused[name])) / denominator(mix, name, a)  # (K, m)
        moved = fold(mix, name, fused[name]) - mix.centre[name]
        if mix.precision:  # F_t (theta_t - theta), with both measured from the centre
            away = torch.addcmul(mix.lifted[name], mix.precision[name], moved, value=-1)  # (T, K, m)
        else:
            away = mix.lifted[name] - moved
        part = away.mul_(h).sum(-1)  # (T, K)
        slope[group] = slope[group] + part if group in slope else part
    result = {}
    for group, logit in logits.items():
        a, v = mixed[group], slope[group].reshape(mixed[group].shape)
        result[group] = KINDS[kind].chain(v, a, logit)
    return result


def fit_state(mix: Mix, logits: Mapping[str, Tensor] | None = None) -> Params:
    """Where a fit begins: Adam's state as named tensors, so that it can be stored after each step.

    Returns:
        `logits`, `first`, `second`: (T, sum of K), the groups side by side; `step`: (1,).
    """
    flat = _flat(mix, logits if logits is not None else zeros(mix))
    return {
        "logits": flat,
        "first": torch.zeros_like(flat),
        "second": torch.zeros_like(flat),
        "step": flat.new_zeros(1),
    }


def fit_logits(mix: Mix, state: Mapping[str, Tensor]) -> Logits:
    """The logits of a state, by group."""
    parts = torch.split(state["logits"], list(mix.kernels.values()), dim=1)
    return {group: part if mix.grain == "kernel" else part[:, 0] for group, part in zip(mix.kernels, parts)}


@torch.no_grad()
def fit_step(
    mix: Mix,
    state: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    lr: float,
    *,
    kind: Kind = "sigmoid",
    fused: Mapping[str, Tensor] | None = None,
) -> Params:
    """One step of Adam (betas 0.9 and 0.999, eps 1e-8) on the logits; anchored ones then go back to the simplex.

    Args:
        mix: from `prepare`.
        state: from `fit_state` or the step before; it is not changed.
        grads: name -> gradient of the loss at the fused weights of this state.
        lr: step size.
        kind: as in `mixing.ratios`.
        fused: those fused weights, where the caller still has them.

    Returns:
        The next state.
    """
    logits = fit_logits(mix, state)
    if fused is None:
        fused = fuse(mix, ratios(logits, kind))
    g = _flat(mix, pull_back(mix, logits, fused, grads, kind))
    k = int(state["step"]) + 1
    first = state["first"].lerp(g, 0.1)
    second = state["second"].lerp(g.square(), 0.001)
    step = (first / (1 - 0.9**k)) / ((second / (1 - 0.999**k)).sqrt() + 1e-8)
    return {
        "logits": KINDS[kind].settle(state["logits"] - lr * step),
        "first": first,
        "second": second,
        "step": state["step"] + 1,
    }


def fit(
    mix: Mix,
    respond: Callable[[int, Params], Mapping[str, Tensor]],
    *,
    steps: int,
    lr: float,
    logits: Mapping[str, Tensor] | None = None,
    kind: Kind = "sigmoid",
    state: Mapping[str, Tensor] | None = None,
    device: torch.device | None = None,
    progress: Callable[[int], None] | None = None,
    keep: Callable[[Params], None] | None = None,
) -> Logits:
    """Fit the logits by gradient descent on whatever loss `respond` answers for.

    Args:
        mix: from `prepare`.
        respond: (k, fused weights) -> gradient of the loss at them: beside the data, or by message. It may
            train the target's own S with the same backward pass.
        steps: how many steps in all, those of `state` included.
        lr: Adam's step size.
        logits: where to begin; zeros if not given (uniform ratios; of kind anchored the first model).
        kind: as in `mixing.ratios`.
        state: continue from here instead (`fit_step`).
        device: where to fuse and to pull back, best that of the gradients; where the models are, if not given.
        progress: is told how many steps are done.
        keep: is given the state after each step, to store it.

    Returns:
        The fitted logits, where the models are.
    """
    now = dict(state) if state is not None else fit_state(mix, logits)
    own = next(iter(mix.centre.values())).device
    there = _placed(mix, device or own)
    now = {name: value.to(device or own) for name, value in now.items()}
    for k in range(int(now["step"]), steps):
        fused = fuse(there, ratios(fit_logits(there, now), kind))
        now = fit_step(there, now, respond(k, fused), lr, kind=kind, fused=fused)
        if progress:
            progress(k + 1)
        if keep:
            keep(now)
    return {group: value.to(own) for group, value in fit_logits(there, now).items()}


def _placed(mix: Mix, device: torch.device) -> Mix:
    """The mix on a device; itself where it is there already."""
    if next(iter(mix.centre.values())).device == device:
        return mix

    def moved(tensors: Params) -> Params:
        return {name: value.to(device) for name, value in tensors.items()}

    theta = {name: tuple(value.to(device) for value in values) for name, values in mix.theta.items()}
    return replace(mix, theta=theta, precision=moved(mix.precision), centre=moved(mix.centre), lifted=moved(mix.lifted))


def _flat(mix: Mix, by_group: Mapping[str, Tensor]) -> Tensor:
    """Group -> (T,) or (T, K) as one (T, sum of K)."""
    return torch.cat([by_group[group].reshape(len(mix.sites), -1) for group in mix.kernels], dim=1)
