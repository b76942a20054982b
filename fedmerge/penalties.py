"""What a site adds to its loss so that its training stays near the model it started from.

With theta the parameters in training, theta* those it started from, and sums over the names in `start`:

    l2             strength * sum (theta - theta*)^2               L2-transfer, Lee et al. 2017
    proximal       mu / 2 * sum (theta - theta*)^2                 FedProx, Li et al. 2020, eq. 2
    ewc            strength / 2 * sum F (theta - theta*)^2         EWC, Kirkpatrick et al. 2017, eq. 3
    distillation   cross-entropy + soft Dice against the old model's output
                                                                   Learning without Forgetting, Li & Hoiem 2016
    drop_transfer  no term of the loss: dropout whose zero is theta*    Lee et al. 2017

All are differentiable in theta. The first three cost a pass over the parameters a step, which is little beside a
convolution; `start` and Fishers must be on the device of the parameters.
"""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fedmerge.errors import ConfigError, NetError
from fedmerge.fusion import grains
from fedmerge.params import Params

SMOOTH = 1e-5  # added above and below in Dice, as MONAI does


def l2(net_params: Mapping[str, Tensor], start: Mapping[str, Tensor], strength: float) -> Tensor:
    """Strength * ||theta - theta*||^2: L2-transfer (Lee et al. 2017, section on transfer techniques).

    There is no factor of one half, as in the paper; `proximal` has one.

    Args:
        net_params: name -> parameter in training; may hold more than `start`.
        start: name -> tensor of that shape: where the training began.
        strength: 0 or more.

    Returns:
        Scalar of the parameters' dtype.

    Raises:
        ConfigError: a negative strength, or no number.
        NetError: the net lacks a name of `start`, or `start` is empty.
    """
    _check_strength("strength", strength)
    return strength * _away(net_params, start).square().sum()


def proximal(net_params: Mapping[str, Tensor], start: Mapping[str, Tensor], mu: float) -> Tensor:
    """Mu / 2 * ||theta - theta*||^2, theta* the global model of the round: FedProx (Li et al. 2020, eq. 2).

    Args:
        net_params: as for `l2`.
        start: likewise.
        mu: 0 or more.

    Returns:
        Scalar of the parameters' dtype.

    Raises:
        ConfigError: a negative mu, or no number.
        NetError: as in `l2`.
    """
    _check_strength("mu", mu)
    return mu / 2 * _away(net_params, start).square().sum()


def ewc(
    net_params: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
    fishers: Sequence[Mapping[str, Tensor]],
    strength: float,
) -> Tensor:
    """Strength / 2 * sum F (theta - theta*)^2: elastic weight consolidation (Kirkpatrick et al. 2017, eq. 3).

    Fishers of several predecessors are added, all around the last one's weights: those already lie near the
    optima of the earlier ones, and a second anchor would count these twice (Huszar 2018).

    Args:
        net_params: as for `l2`.
        start: the weights of the last predecessor.
        fishers: one of each predecessor, name -> tensor, non-negative. `fisher.normalise` them beforehand, as for a
            fusion: then a strength means the same for every tensor and every site.
        strength: the paper's lambda, 0 or more.

    Returns:
        Scalar of the parameters' dtype.

    Raises:
        ConfigError: a negative strength, or no number; no Fisher.
        NetError: as in `l2`; a Fisher lacks a name of `start`.
    """
    _check_strength("strength", strength)
    if not fishers:
        raise ConfigError("EWC needs the Fisher of a predecessor, got none")
    for name in start:
        if any(name not in fisher for fisher in fishers):
            raise NetError(f"EWC expected a Fisher of '{name}', got none")
    importance = torch.stack([_flat([fisher[name] for name in start]) for fisher in fishers]).sum(0)  # (N,)
    return strength / 2 * (importance * _away(net_params, start).square()).sum()


def distillation(logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, *, regions: bool = False) -> Tensor:
    """Cross-entropy plus soft Dice between a model's output and its predecessor's (Li & Hoiem 2016, eq. 2 and 3).

        p, q = softmax(logits / temperature), softmax(teacher_logits / temperature)
        cross-entropy   - mean over cases and voxels of sum_k q_k log p_k
        Dice            mean over cases and labels k > 0 of 1 - 2 sum p_k q_k / (sum p_k^2 + sum q_k^2)

    The Dice term is ours (the paper classifies): the form with squares (Milletari et al. 2016), since that of
    sums is not least where p equals a soft q. A classifier has no voxels, and no Dice term.

    Of regions p and q are sigmoids, each a yes or no of its own: the cross-entropy is the sum over them of
    - q log p - (1 - q) log(1 - p), and the Dice term is of all of them.

    Args:
        logits: (B, K, *S) or (B, K), of the model in training, for the predecessor's K labels.
        teacher_logits: the same shape, of the predecessor on the same images; no gradient goes there.
        temperature: above 1 softens both.
        regions: whether the channels are regions (`fedmerge.regions`).

    Returns:
        Scalar of the logits' dtype.

    Raises:
        ConfigError: the temperature is not a positive number.
        NetError: the shapes differ.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"temperature expected a positive number, got {temperature}")
    if logits.shape != teacher_logits.shape:
        want, got = tuple(logits.shape), tuple(teacher_logits.shape)
        raise NetError(f"the predecessor's logits expected shape {want}, got {got}")
    ours, theirs = logits / temperature, teacher_logits.detach() / temperature
    if regions:
        p, q = ours.sigmoid(), theirs.sigmoid()
        entropy = F.binary_cross_entropy_with_logits(ours, q, reduction="none").sum(1).mean()
        p, q = p.flatten(2), q.flatten(2)  # (B, K, voxels)
    else:
        log_p, q = ours.log_softmax(1), theirs.softmax(1)
        entropy = -(q * log_p).sum(1).mean()
        if logits.dim() == 2:
            return entropy
        p, q = log_p.exp()[:, 1:].flatten(2), q[:, 1:].flatten(2)  # (B, K - 1, voxels)
    overlap = (2 * (p * q).sum(2) + SMOOTH) / (p.square().sum(2) + q.square().sum(2) + SMOOTH)
    return entropy + (1 - overlap).mean()


def drop_transfer(
    start: Mapping[str, Tensor],
    current: Mapping[str, Tensor],
    names: Sequence[str],
    p: float,
    generator: torch.Generator,
    *,
    axes: Mapping[str, int] | None = None,
) -> Params:
    """The parameters of one training step, some kernels put back to where they started: drop-transfer.

        theta = theta*                                     with probability p          Lee et al. 2017,
        theta = (theta_now - p theta*) / (1 - p)           otherwise                   drop-transfer

    It is dropout with theta* in the place of zero; the expectation is theta_now. As in the paper a whole node goes,
    that is an output kernel with its bias. The authors' program draws for each case, we draw once a step, so that
    a batch needs one set of weights. Validate and send `current`, not what this returns.

    Args:
        start: theta*, what the training began from.
        current: theta_now, the parameters in training; the result is differentiable in them.
        names: which parameters take part.
        p: the share of kernels that is put back, in [0, 1).
        generator: draws, on its own device; one number a kernel, in the order of `names`.
        axes: name -> axis of its output kernels (`partition.kernel_axes`); 0 where it is not given.

    Returns:
        name -> tensor, for `params.holding`.

    Raises:
        ConfigError: p is outside [0, 1).
        NetError: `start` or `current` lacks a name.
    """
    if not 0 <= p < 1:
        raise ConfigError(f"p expected a number from 0 to below 1, got {p}")
    for name in names:
        if name not in start:
            raise NetError(f"the start has no parameter '{name}'")
    pairs = _pairs(current, {name: start[name] for name in names})
    axis_of = {name: (axes or {}).get(name, 0) for name in names}
    group_of, kernels = grains.groups({name: tuple(start[name].shape) for name in names}, "kernel", axis_of)
    draws = torch.rand(sum(kernels.values()), generator=generator, device=generator.device)
    kept = torch.split(draws.ge(p).to(pairs[0][0]).div_(1 - p), list(kernels.values()))  # 0, or 1 / (1 - p)
    stretch = dict(zip(kernels, kept))
    mixed = {}
    for name, (now, old) in zip(names, pairs):
        by = grains.spread(stretch[group_of[name]], axis_of[name], now)
        mixed[name] = torch.addcmul(old, now - old, by) if p else now
    return mixed


def _pairs(net_params: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """(parameter, where it started) for each name of `start`."""
    if not start:
        raise NetError("a penalty needs parameters to start from, got none")
    for name in start:
        if name not in net_params:
            raise NetError(f"the net has no parameter '{name}'")
        if net_params[name].shape != start[name].shape:
            want, got = tuple(net_params[name].shape), tuple(start[name].shape)
            raise NetError(f"'{name}' expected shape {want}, got {got}")
    return [(net_params[name], start[name].detach()) for name in start]


def _flat(values: Sequence[Tensor]) -> Tensor:
    """All numbers side by side: a few operations on one vector take half the time of a few for each tensor."""
    return torch.cat([value.reshape(-1) for value in values])


def _away(net_params: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> Tensor:
    """The difference theta - theta*: (N,), over the names of `start`."""
    pairs = _pairs(net_params, start)
    return _flat([own for own, _ in pairs]) - _flat([old for _, old in pairs])


def _check_strength(what: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"{what} expected a number of at least 0, got {value}")
