"""What a net's logits say of a case's labels: how likely they are, and how labels are drawn from the model."""

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

LogLikelihood = Callable[[Tensor, Tensor], Tensor]

ELSEWHERE = -100  # the label of a voxel that another piece counts; `cross_entropy` passes over it


class Likelihood(NamedTuple):
    """What a net's logits say of a case's labels.

    Attributes:
        log: (logits (B, K, *S), labels as `read` gives them) -> (B,); it passes over labels `ELSEWHERE`.
        sample: (logits, uniform numbers (B, draws, *S)) -> labels drawn from the model, as `read` gives them.
        read: a label map (B, 1, *S) -> the labels that `log` takes.
        draws: random numbers that a voxel takes.
        values: how many values a label map may hold, 0 among them; None: as many as there are logits.
    """

    log: LogLikelihood
    sample: Callable[[Tensor, Tensor], Tensor]
    read: Callable[[Tensor], Tensor] = lambda labels: labels
    draws: int = 1
    values: int | None = None


def log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of each case's label map: log softmax at the label, summed over voxels; of a class: at the class.

    Args:
        logits: (B, K, *S) float; (B, K) of a classifier.
        labels: (B, *S) or (B, 1, *S), whole numbers from 0 to K - 1, or `ELSEWHERE`; (B,) of a classifier.

    Returns:
        (B,) of the logits' dtype.
    """
    target = labels.reshape(logits.shape[:1] + logits.shape[2:]).long()
    voxels = F.cross_entropy(logits, target, reduction="none")
    return -voxels.reshape(len(logits), -1).sum(1)


def sample(logits: Tensor, uniform: Tensor) -> Tensor:
    """One label a voxel (or image) from softmax(logits), by inverting the distribution at the given random numbers.

    Args:
        logits: (B, K, *S).
        uniform: (B, *S) or (B, 1, *S), numbers in [0, 1).

    Returns:
        (B, *S) int64.
    """
    cumulative = logits.detach().softmax(1).cumsum(1)  # (B, K, *S)
    return (cumulative[:, :-1] <= uniform.reshape(len(logits), 1, *logits.shape[2:])).sum(1)


SOFTMAX = Likelihood(log_likelihood, sample)  # one label a voxel, or image
