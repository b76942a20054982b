"""The epsilon that a mechanism must have at least, by what an attack on it got right.

An accountant bounds epsilon from above, on paper. An attack bounds it from below, in fact: where the lower bound is
above the accounted epsilon, either the mechanism is not what was accounted, or the one run in twenty has come.

    counts of                       function                 paper
    many trainings, with a canary   epsilon_lower_bound,     Jagielski, Ullman & Oprea 2020; Nasr et al. 2021 and 2023
    and without it                  evidence
    patients of one training, of    one_run_lower_bound,     Steinke, Nasr & Jagielski 2023
    whom coins chose the members    paired_lower_bound

    >>> told = evidence([1.0] * 400, [0.0] * 400, delta=1e-5)
    >>> told.counts, round(told.epsilon, 2)
    (Counts(tp=300, fn=0, fp=0, tn=300), 4.39)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fedmerge.errors import DataError
from fedmerge.privacy.separation import checked, clopper_pearson


@dataclass(frozen=True)
class Counts:
    """What an attack said at one threshold: members found and missed, others taken for members and not."""

    tp: int
    fn: int
    fp: int
    tn: int


@dataclass(frozen=True)
class Evidence:
    """A lower bound on epsilon, and what it was made of.

    Attributes:
        counts: at the threshold, of the runs that did not choose it.
        threshold: of the score.
        epsilon: the lower bound.
        most: the bound that an attack without any error would give for so many runs; a claim above it cannot fail.
    """

    counts: Counts
    threshold: float
    epsilon: float
    most: float


def counts(members: ArrayLike, others: ArrayLike, threshold: float) -> Counts:
    """What the attack says that calls a score above the threshold a member's."""
    inside, outside = checked(members, "members") > threshold, checked(others, "others") > threshold
    return Counts(int(inside.sum()), int((~inside).sum()), int(outside.sum()), int((~outside).sum()))


def evidence(
    members: ArrayLike, others: ArrayLike, delta: float, *, choose: float = 0.25, confidence: float = 0.95
) -> Evidence:
    """A lower bound from scores of independent runs: the first ones choose the threshold, the rest are counted.

    A threshold that is the best of many on the scores that are counted would make the bound too high. Divided like this
    it holds as it is, without a correction for the number of thresholds.

    Args:
        members: (M,) scores of runs with the canary, in an order that does not depend on them.
        others: (N,) scores of runs without.
        delta: of the privacy claimed.
        choose: the share of each kind that chooses.
        confidence: of the bound, one-sided.

    Raises:
        DataError: fewer than two runs of a kind, or a score that is not a number.
    """
    inside, outside = checked(members, "members"), checked(others, "others")
    m, n = (max(1, math.floor(choose * len(scores))) for scores in (inside, outside))
    if len(inside) <= m or len(outside) <= n:
        raise DataError(f"a threshold and a count expected two runs of each kind, got {len(inside)}, {len(outside)}")
    threshold = best_threshold(inside[:m], outside[:n], delta)
    told = counts(inside[m:], outside[n:], threshold)
    m, n = told.tp + told.fn, told.fp + told.tn
    return Evidence(
        counts=told,
        threshold=threshold,
        epsilon=epsilon_lower_bound(told.tp, told.fn, told.fp, told.tn, delta, confidence),
        most=epsilon_lower_bound(m, 0, 0, n, delta, confidence),
    )


def best_threshold(members: ArrayLike, others: ArrayLike, delta: float = 0.0) -> float:
    """The threshold with the highest lower bound on epsilon on these scores; count on other ones than these.

    Of equal ones, as all are where so few scores bound nothing, the one that is right most often.
    """
    middle = np.unique(np.concatenate([checked(members, "members"), checked(others, "others")]))
    tried = (middle[1:] + middle[:-1]) / 2 if len(middle) > 1 else middle

    def merit(threshold: float) -> tuple[float, float]:
        told = counts(members, others, threshold)
        rates = told.tp / (told.tp + told.fn) - told.fp / (told.fp + told.tn)
        return epsilon_lower_bound(told.tp, told.fn, told.fp, told.tn, delta), rates

    return max(map(float, tried), key=merit)


def epsilon_lower_bound(tp: int, fn: int, fp: int, tn: int, delta: float, confidence: float = 0.95) -> float:
    """The epsilon that an (epsilon, delta)-private mechanism must have at least, by an attack's successes.

    Privacy asks TPR <= e^epsilon FPR + delta and TNR <= e^epsilon FNR + delta (Kairouz et al., 2015), so

        epsilon >= max(0, log((TPR - delta) / FPR), log((TNR - delta) / FNR))

    Of the rates the ends of two-sided Clopper-Pearson intervals are taken that speak against the attack: the lower one
    of TPR, the upper one of FPR, each wrong with probability (1 - confidence) / 2, so both together hold, and with them
    both inequalities, at the confidence asked for (Jagielski et al., 2020; Nasr et al., 2021, 2023).

    Args:
        tp: members called members. Each count is of independent runs of the mechanism, and the attack's threshold was
            chosen on other runs.
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
    tpr = clopper_pearson(tp, tp + fn, confidence)[0]
    fpr = clopper_pearson(fp, fp + tn, confidence)[1]
    bounds = [0.0]
    for good, bad in ((tpr, fpr), (1 - fpr, 1 - tpr)):
        if good > delta:
            bounds.append(math.log((good - delta) / bad))
    return max(bounds)


def one_run_lower_bound(right: int, guesses: int, coins: int, delta: float, confidence: float = 0.95) -> float:
    """The same from one training, where independent fair coins said which patients are members.

    Of an (epsilon, delta)-private mechanism, the right ones of r guesses are hardly more than a binomial number of r
    trials that succeed with e^epsilon / (1 + e^epsilon):

        P(right >= v) <= P(B >= v) + 2 m delta max_i P(v > B >= v - i) / i

    (Steinke, Nasr & Jagielski 2023, theorem 5.2 and appendix D). That the patients share one model does no harm.

    Args:
        right: guesses that were right, v.
        guesses: made, r; to abstain is allowed.
        coins: tossed, m.
        delta: for one coin that falls otherwise.
        confidence: of the bound.

    Raises:
        DataError: the numbers are not 0 <= right <= guesses <= coins.
    """
    if not 0 <= right <= guesses <= coins:
        raise DataError(f"guesses expected 0 <= right <= guesses <= coins, got {right}, {guesses}, {coins}")
    return _highest(lambda epsilon: _chance(right, guesses, coins, epsilon, delta), confidence)


def paired_lower_bound(right: int, pairs: int, delta: float, confidence: float = 0.95) -> float:
    """The same, where of each pair of patients a coin made one a member and left the other one out.

    The attack guesses for each pair who of the two the member is: no threshold has to be chosen. A pair whose coin
    falls otherwise has one patient removed and one added, which is (2 epsilon, (1 + e^epsilon) delta) for neighbours
    that differ by one patient, added or removed.

    Args:
        right: pairs in which the member was found.
        pairs: how many.
        delta: of the privacy claimed.
        confidence: of the bound.
    """
    if not 0 <= right <= pairs:
        raise DataError(f"pairs expected 0 <= right <= pairs, got {right} of {pairs}")

    def chance(epsilon: float) -> float:
        return _chance(right, pairs, pairs, 2 * epsilon, (1 + math.exp(epsilon)) * delta)

    return _highest(chance, confidence)


def _chance(right: int, guesses: int, coins: int, epsilon: float, delta: float) -> float:
    """The highest probability of so many right guesses at this epsilon."""
    from scipy.special import expit
    from scipy.stats import binom

    share = float(expit(epsilon))
    slack = 0.0
    if right and delta:
        below = np.cumsum(binom.pmf(right - np.arange(1, right + 1), guesses, share))  # P(v > B >= v - i)
        slack = float((below / np.arange(1, right + 1)).max())
    return min(1.0, float(binom.sf(right - 1, guesses, share)) + 2 * coins * delta * slack)


def _highest(chance: Callable[[float], float], confidence: float) -> float:
    """The largest epsilon below which what was seen is too unlikely, by bisection; `chance` rises."""
    low, high = 0.0, 1.0
    if chance(low) >= 1 - confidence:
        return 0.0
    while chance(high) < 1 - confidence:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if chance(middle) < 1 - confidence else (low, middle)
    return low
