"""Statistics of a suite: spread over chains, learning curves as numbers, and many comparisons at once."""

import itertools
import math
from collections.abc import Mapping, Sequence

from fedmerge.comparison import RunKey

Curve = Sequence[Sequence[float | None]]  # points of step and validation score


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Adjusted p-values: the chance of one or more false claims among all is at most the claims' level (Holm 1979).

    Sorted, the k-th of m p-values is multiplied by m - k + 1; none falls below the one before it, none exceeds 1.

    Args:
        p: one of each comparison; None where there was no test, which counts for nothing.

    Returns:
        the adjusted ones, in the order given.

    Example:
        >>> holm([0.01, 0.04, 0.03, None])
        [0.03, 0.06, 0.06, None]
    """
    order = sorted((value, i) for i, value in enumerate(p) if value is not None)
    adjusted: list[float | None] = [None] * len(p)
    largest = 0.0
    for rank, (value, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * value))
        adjusted[i] = largest
    return adjusted


def by_chain(values: Mapping[RunKey, float]) -> dict[int, float]:
    """(seed, chain) -> value, averaged over the seeds of each chain: chains are independent, seeds of one are not.

    Example:
        >>> by_chain({(0, 0): 0.5, (1, 0): 0.7, (0, 1): 0.9})
        {0: 0.6, 1: 0.9}
    """
    chains: dict[int, list[float]] = {}
    for (_, chain), value in sorted(values.items(), key=lambda item: item[0][1]):
        chains.setdefault(chain, []).append(value)
    return {chain: math.fsum(found) / len(found) for chain, found in chains.items()}


def area(curve: Curve) -> float | None:
    """The mean height of a learning curve over its steps, by trapezoids; None below two points.

    Example:
        >>> area([[0, 0.0], [10, 0.4], [30, 0.4]])
        0.3333333333333333
    """
    points = [(float(step), score) for step, score in _known(curve)]
    if len(points) < 2 or points[-1][0] == points[0][0]:
        return None
    total = math.fsum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))
    return total / (points[-1][0] - points[0][0])


def reached(curve: Curve, level: float) -> int | None:
    """The first step of the curve at which the score is at least `level`; None where it never is.

    Example:
        >>> reached([[0, 0.1], [10, 0.7], [20, 0.6]], 0.65)
        10
    """
    return next((int(step) for step, value in _known(curve) if value >= level), None)


def one_sign(values: Sequence[float]) -> bool:
    """Whether all values lie on the same side of zero, none on it; false for no values."""
    return bool(values) and (all(v > 0 for v in values) or all(v < 0 for v in values))


def _known(curve: Curve) -> list[tuple[float, float]]:
    return sorted((step, score) for step, score in curve if step is not None and score is not None)
