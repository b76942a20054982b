"""Membership attacks: scores that are high for patients a model was trained on, and how well they tell them apart.

A score is made of what the attacker holds: the artefact, and the patient's images and labels. How well scores work is
said by the area under the ROC curve, by the true-positive rate at a small false-positive rate (Carlini et al., 2022:
what an average hides), and by the epsilon that a mechanism must have had at least.

    >>> found = roc([3.0, 2.5, 2.0, 0.5], [1.0, 0.9, 0.8, 0.7])
    >>> found.auc, found.tpr, found.least_fpr
    (0.75, 0.75, 0.25)
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fedmerge.errors import DataError

Array = NDArray[np.float64]
Variance = Literal["patient", "global"]
SLACK = 1e-3  # of a Fisher: float32, and kernels that add in another order
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


@dataclass(frozen=True)
class Counts:
    """What an attack said at one threshold: members found and missed, others taken for members and not."""

    tp: int
    fn: int
    fp: int
    tn: int


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
    inside, outside = _scores(members, "members"), _scores(others, "others")
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
    from scipy.stats import beta

    half = (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(beta.ppf(half, hits, trials - hits + 1))
    high = 1.0 if hits == trials else float(beta.ppf(1 - half, hits + 1, trials - hits))
    return low, high


def counts(members: ArrayLike, others: ArrayLike, threshold: float) -> Counts:
    """What the attack says that calls a score above the threshold a member's."""
    inside, outside = _scores(members, "members") > threshold, _scores(others, "others") > threshold
    return Counts(int(inside.sum()), int((~inside).sum()), int(outside.sum()), int((~outside).sum()))


def best_threshold(members: ArrayLike, others: ArrayLike, delta: float = 0.0) -> float:
    """The threshold with the highest lower bound on epsilon on these scores; count on other ones than these."""
    middle = np.unique(np.concatenate([_scores(members, "members"), _scores(others, "others")]))
    tried = (middle[1:] + middle[:-1]) / 2 if len(middle) > 1 else middle
    bounds = []
    for threshold in tried:
        told = counts(members, others, float(threshold))
        bounds.append(epsilon_lower_bound(told.tp, told.fn, told.fp, told.tn, delta))
    return float(tried[int(np.argmax(bounds))])


def epsilon_lower_bound(tp: int, fn: int, fp: int, tn: int, delta: float, confidence: float = 0.95) -> float:
    """The epsilon that an (epsilon, delta)-private mechanism must have at least, by an attack's successes.

    Privacy asks TPR <= e^epsilon FPR + delta and TNR <= e^epsilon FNR + delta (Kairouz et al., 2015). Of the two rates
    the ends of Clopper-Pearson intervals are taken that speak against the attack, together at the confidence asked for
    (Jagielski et al., 2020; Nasr et al., 2021).

    Args:
        tp: members called members. Each count is of independent runs of the mechanism, or of a canary in each of them,
            and the attack's threshold was chosen on other data.
        fn: members missed.
        fp: others called members.
        tn: others not called so.
        delta: of the privacy claimed.
        confidence: of the bound, one-sided.

    Raises:
        DataError: no member or no other was tried.
    """
    if tp + fn == 0 or fp + tn == 0:
        raise DataError("an attack's epsilon expected members and others, got none of one kind")
    tpr = clopper_pearson(tp, tp + fn, confidence)[0]  # two tails of (1 - confidence) / 2 each
    fpr = clopper_pearson(fp, fp + tn, confidence)[1]
    bounds = [0.0]
    for good, bad in ((tpr, fpr), (1 - fpr, 1 - tpr)):
        if good > delta:
            bounds.append(math.log((good - delta) / bad))
    return max(bounds)


def _scores(values: Any, who: str) -> Array:  # noqa: ANN401 - whatever numpy reads, or a tensor
    scores = np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values, np.float64).ravel()
    if not len(scores) or np.isnan(scores).any():
        raise DataError(f"{who}: expected at least one score, all of them numbers, got {scores[:3].tolist()}")
    return scores
