"""How well a score tells the patients that a model was trained on from others.

By the area under the ROC curve, and by the true-positive rate at a small false-positive rate (Carlini et al., 2022:
what an average hides). The epsilon that a mechanism must have had at least is in `lower_bound`.

    >>> found = roc([3.0, 2.5, 2.0, 0.5], [1.0, 0.9, 0.8, 0.7])
    >>> found.auc, found.tpr, found.least_fpr
    (0.75, 0.75, 0.25)
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from fedmerge.errors import DataError

Array = NDArray[np.float64]
VERDICTS = {
    "above": "the area is above the threshold",
    "below": "the whole interval of the area is at or below the threshold",
    "too few to tell": "the area is not above the threshold, and its interval is: there are too few patients",
    "not run": "there is nothing to attack; the reason is told",
}


@dataclass(frozen=True)
class Roc:
    """How well a score tells members from others; intervals are of the confidence asked for.

    Attributes:
        auc: the probability that a member's score is above another patient's, ties counted half.
        auc_interval: Newcombe (2006, part 2), method 5.
        tpr: share of members above the threshold that lets through the false positives asked for.
        tpr_interval: Clopper and Pearson (1934); of the members only, the threshold taken as it is.
        fpr: share of the others above that threshold.
        least_fpr: the smallest rate above 0 that so few others can show; where it is above the rate asked for, `tpr`
            is at no false positive at all, which says less than the rate asked for.
        members: how many.
        others: how many.
    """

    auc: float
    auc_interval: tuple[float, float]
    tpr: float
    tpr_interval: tuple[float, float]
    fpr: float
    least_fpr: float
    members: int
    others: int


def roc(members: ArrayLike, others: ArrayLike, *, rate: float = 0.01, confidence: float = 0.95) -> Roc:
    """The ROC curve's area, and its point at a small false-positive rate.

    Args:
        members: (M,) scores of patients that the model was trained on.
        others: (N,) scores of patients that it never saw.
        rate: the false-positive rate for `tpr`.
        confidence: of the intervals.

    Raises:
        DataError: no member, no other, or a score that is not a number.
    """
    inside, outside = checked(members, "members"), checked(others, "others")
    m, n = len(inside), len(outside)
    ordered = np.sort(outside)
    below = np.searchsorted(ordered, inside, "left") + np.searchsorted(ordered, inside, "right")
    auc = float(below.sum()) / (2 * m * n)
    threshold = ordered[n - 1 - math.floor(rate * n + 1e-9)]
    found = int((inside > threshold).sum())
    return Roc(
        auc=auc,
        auc_interval=auc_interval(auc, m, n, confidence),
        tpr=found / m,
        tpr_interval=clopper_pearson(found, m, confidence),
        fpr=int((outside > threshold).sum()) / n,
        least_fpr=1 / n,
        members=m,
        others=n,
    )


def verdict(found: Roc, threshold: float) -> str:
    """How an attack stands to the area that is tolerated; see `VERDICTS`."""
    if found.auc > threshold:
        return "above"
    return "below" if found.auc_interval[1] <= threshold else "too few to tell"


def auc_interval(auc: float, m: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Newcombe's interval for an area under the ROC curve, which stays honest at 0, at 1 and for few patients.

    The ends are where |theta - auc| = z sqrt(V(theta)), with Hanley and McNeil's variance for exponential scores:
    V = theta (1 - theta) (1 + k (1 - theta) / (2 - theta) + k theta / (1 + theta)) / (m n), k = (m + n) / 2 - 1
    (Newcombe 2006, part 2, method 5).
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    z, k = float(norm.ppf((1 + confidence) / 2)), (m + n) / 2 - 1

    def outside(theta: float) -> float:
        shape = 1 + k * (1 - theta) / (2 - theta) + k * theta / (1 + theta)
        return (theta - auc) ** 2 - z * z * theta * (1 - theta) * shape / (m * n)

    edge = 1e-12  # at 0 and at 1 both sides vanish, and the other root is the one that is meant
    low = 0.0 if auc <= 0 else float(brentq(outside, 0.0, min(auc, 1 - edge)))
    high = 1.0 if auc >= 1 else float(brentq(outside, max(auc, edge), 1.0))
    return low, high


def clopper_pearson(hits: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a share (Clopper and Pearson, 1934).

    >>> [round(end, 4) for end in clopper_pearson(0, 10)]
    [0.0, 0.3085]
    """
    from scipy.special import betaincinv

    half = (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(betaincinv(hits, trials - hits + 1, half))
    high = 1.0 if hits == trials else float(betaincinv(hits + 1, trials - hits, 1 - half))
    return low, high


def checked(values: Any, who: str) -> Array:  # noqa: ANN401 - whatever numpy reads, or a tensor
    """Scores as float64 (N,); a DataError where there is none, or where one is not a number."""
    scores = np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values, np.float64).ravel()
    if not len(scores) or np.isnan(scores).any():
        raise DataError(f"{who}: expected at least one score, all of them numbers, got {scores[:3].tolist()}")
    return scores
