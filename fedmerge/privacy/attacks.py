"""Membership attacks: scores that are high for patients a model was trained on.

A score is made of what the attacker holds: the artefact, and the patient's images and labels. How well it tells, says
`separation`.
"""

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from fedmerge.errors import DataError
from fedmerge.privacy.separation import Array

Variance = Literal["patient", "global"]
SLACK = 1e-3  # of a Fisher: float32, and kernels that add in another order


def loss_threshold(losses: ArrayLike) -> Array:
    """A member's loss is low (Yeom et al., 2018): the score is the loss with its sign turned.

    Args:
        losses: (N,) of the patients under the attacked model.
    """
    return -np.asarray(losses, np.float64)


def logit(nll: ArrayLike) -> Array:
    """log(p / (1 - p)) of the confidence p = exp(-nll), which is near to normal (Carlini et al., 2022, section IV).

    Args:
        nll: mean negative log-likelihood of the right labels, over the voxels of a case; not negative.
    """
    loss = np.maximum(np.asarray(nll, np.float64), 1e-12)  # p = 1 in float32: a finite score
    return -loss - np.log(-np.expm1(-loss))


def lira(observed: ArrayLike, references: ArrayLike, saw: ArrayLike, *, variance: Variance = "global") -> Array:
    """The one-sided likelihood-ratio attack with reference models, offline (Carlini et al., 2022, section VI.B).

    Args:
        observed: (N,) confidence of each patient under the attacked model, as `logit` has it.
        references: (R, N) the same under each reference model.
        saw: (R, N) whether the reference was trained on the patient.
        variance: `"patient"` or, with few references, one `"global"` variance of all patients.

    Returns:
        (N,) z = (observed - mean) / deviation over the references that did not see the patient. The paper's
        1 - P(Z > observed) is the normal distribution at z: the same order, without saturation.

    Raises:
        DataError: the shapes differ, or too few references did not see a patient.
    """
    confidence, seen = np.asarray(references, np.float64), np.asarray(saw, bool)
    values = np.asarray(observed, np.float64)
    if confidence.ndim != 2 or confidence.shape != seen.shape or confidence.shape[1:] != values.shape:
        raise DataError(f"LiRA: {values.shape} scores, references {confidence.shape}, saw {seen.shape} do not match")
    out = ~seen
    count = out.sum(0)
    if count.min(initial=2) < 2:
        raise DataError(f"LiRA: expected two references that did not see a patient, got {count.min()}")
    mean = np.where(out, confidence, 0.0).sum(0) / count
    squares = np.where(out, (confidence - mean) ** 2, 0.0).sum(0)  # (N,)
    spread = squares.sum() / (count - 1).sum() if variance == "global" else squares / (count - 1)
    score: Array = (values - mean) / np.sqrt(np.maximum(spread, 1e-12))
    return score


def domination(fisher: Mapping[str, Tensor], n: int, squares: Mapping[str, Tensor]) -> float:
    """The share of coordinates in which n F_j >= g_j^2.

    F is a mean over n cases of squared gradients, none of them negative, so for a case of the cohort it holds in every
    coordinate. That is exact where F and g have the same labels: observed ones, or samples of the same draws.

    Args:
        fisher: the plain diagonal Fisher, name -> tensor.
        n: cases that it is a mean of.
        squares: name -> squared gradient of one patient's case, same shapes, at the same weights.

    Returns:
        0 to 1; 1 for a case of the cohort. Coordinates where both are zero count as held.
    """
    held = total = 0
    for name, square in squares.items():
        bound = n * fisher[name].double() * (1 + SLACK)
        held += int((square.double() <= bound).sum())
        total += square.numel()
    return held / total


def least_ratio(fisher: Mapping[str, Tensor], n: int, squares: Mapping[str, Tensor]) -> float:
    """The logarithm of the least n F_j / g_j^2 where g_j > 0; at least 0 for a case of the cohort."""
    least = math.inf
    for name, square in squares.items():
        there = square > 0
        if there.any():
            ratio = n * fisher[name].double()[there] / square.double()[there]
            least = min(least, ratio.min().item())
    return math.log(least) if least > 0 else -math.inf
