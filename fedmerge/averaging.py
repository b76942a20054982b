"""Averages of weights: over the steps of one training, and between its start and its end.

    exponential    average_k = average_(k-1) + w_k (theta_k - average_(k-1)),    w_k = (1 - decay) / (1 - decay^k)
    interpolate    (1 - share) start + share end                                 WiSE-FT, Wortsman et al. 2022, eq. 1

The exponential average (Polyak & Juditsky 1992 for the plain one) is bias-corrected, as Adam's moments are (Kingma &
Ba 2015, algorithm 1): average_k = sum_j decay^(k-j) theta_j / sum_j decay^(k-j). So it begins as the plain mean of
the weights seen so far, without any pull to the initial ones, and no warm-up has to be chosen. Written as a step
towards theta_k it needs no correction at the end, and weights that stand still are kept bit for bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmerge.errors import ConfigError, NetError
from fedmerge.params import Params


@dataclass(frozen=True)
class Average:
    """A running average.

    Attributes:
        weights: name -> average, of the parameter's shape and dtype; usable at any time.
        count: how many weights went in.
    """

    weights: Params
    count: int


@torch.no_grad()
def exponential(average: Average | None, weights: Mapping[str, Tensor], decay: float) -> Average:
    """The average with one more set of weights in it.

    It costs one pass over the parameters. The old average's tensors are changed in place and belong to the new one;
    whoever wants to keep the old one copies it first. To store and go on later, keep `weights` and `count`.

    Args:
        average: so far; None at the beginning.
        weights: name -> tensor after this step; they are copied, never kept.
        decay: in [0, 1); the last 1 / (1 - decay) steps weigh most. 0 is the last weights.

    Raises:
        ConfigError: the decay is outside [0, 1).
        NetError: other names or shapes than the average's.
    """
    if not 0 <= decay < 1:
        raise ConfigError(f"decay expected a number from 0 to below 1, got {decay}")
    if average is None:
        return Average({name: value.detach().clone() for name, value in weights.items()}, 1)
    _check(average.weights, weights)
    count = average.count + 1
    step = (1 - decay) / (1 - decay**count)
    for name, value in average.weights.items():
        if step == 1:  # decay 0
            value.copy_(weights[name])
        else:
            value.lerp_(weights[name].detach(), step)
    return Average(average.weights, count)


@torch.no_grad()
def interpolate(start: Mapping[str, Tensor], end: Mapping[str, Tensor], share: float) -> Params:
    """The weights between two models: WiSE-FT (Wortsman et al., CVPR 2022, eq. 1).

        theta = (1 - share) start + share end

    Share 0 is `start` and share 1 is `end`, bit for bit; so is whatever both have in common, at any share.

    Args:
        start: the model before fine-tuning.
        end: the model after it; the same names, shapes and dtypes.
        share: of the end (the paper's alpha), from 0 to 1.

    Returns:
        name -> new tensor; the sum is taken in float64.

    Raises:
        ConfigError: the share is outside [0, 1].
        NetError: other names or shapes.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"share expected a number from 0 to 1, got {share}")
    _check(start, end)
    if share in (0, 1):
        return {name: (end if share else start)[name].detach().clone() for name in start}
    return {
        name: torch.where(value == end[name], value, value.double().lerp(end[name].double(), share).to(value.dtype))
        for name, value in start.items()
    }


def _check(own: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    for name in sorted(own.keys() ^ other.keys()):
        raise NetError(f"'{name}' is in one of the two sets of parameters only")
    for name, value in own.items():
        if value.shape != other[name].shape:
            raise NetError(f"'{name}' expected shape {tuple(value.shape)}, got {tuple(other[name].shape)}")
