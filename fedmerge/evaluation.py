"""Scores: Dice per case and label, means and spreads, forgetting, paired differences.

A Dice of `None` means that there was nothing to find and nothing was found; such a value is left out of every
mean. A label that is found where there is none, or missed where there is one, has Dice 0.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

Scores = Mapping[str, float | None]


def dice(
    prediction: Any,  # noqa: ANN401 - an array or a tensor
    truth: Any,  # noqa: ANN401
    labels: Mapping[str, int | Sequence[int]],
) -> dict[str, float | None]:
    """2 |P and T| / (|P| + |T|) for each label or region (Dice 1945).

    Args:
        prediction: (*S) whole non-negative numbers, numpy or torch.
        truth: the same shape.
        labels: name -> value, or values that together make a region (whole tumour = oedema + core).

    Returns:
        name -> Dice in [0, 1]; None where the label is neither in the truth nor in the prediction, 0 where it
        is in one of them only.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> dice(np.array([1, 1, 0, 0]), np.array([1, 2, 2, 0]), {"a": 1, "b": 2, "both": (1, 2), "c": 3})
        {'a': 0.6666666666666666, 'b': 0.0, 'both': 0.8, 'c': None}
    """
    p, t = _whole(prediction), _whole(truth)
    if p.shape != t.shape:
        raise ValueError(f"prediction of shape {p.shape} against truth of shape {t.shape}")
    p, t = p.ravel(), t.ravel()
    # one count for all single labels; a region can overlap others, so it gets a pass of its own
    size_p, size_t, common = np.bincount(p), np.bincount(t), np.bincount(t[p == t])
    result: dict[str, float | None] = {}
    for name, value in labels.items():
        if isinstance(value, Sequence):
            in_p, in_t = np.isin(p, value), np.isin(t, value)
            result[name] = _ratio(int((in_p & in_t).sum()), int(in_p.sum() + in_t.sum()))
        else:
            result[name] = _ratio(_at(common, value), _at(size_p, value) + _at(size_t, value))
    return result


def _whole(values: Any) -> np.ndarray[Any, Any]:  # noqa: ANN401
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    return array if array.dtype.kind in "ui" else array.astype(np.int64)


def _at(counts: np.ndarray[Any, Any], value: int) -> int:
    return int(counts[value]) if value < len(counts) else 0


def _ratio(common: int, total: int) -> float | None:
    return 2 * common / total if total else None


def case_mean(scores: Scores) -> float | None:
    """The mean over a case's labels; None when none of them has a value."""
    values = [value for value in scores.values() if value is not None]
    return sum(values) / len(values) if values else None


def mean_dice(cases: Iterable[Scores]) -> float | None:
    """The mean over cases of each case's mean over its labels; None when there is nothing to average."""
    means = [mean for mean in map(case_mean, cases) if mean is not None]
    return sum(means) / len(means) if means else None


def spread(values: Iterable[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1 in the denominator); the latter is nan for a single value.

    Raises:
        ValueError: no values.

    Example:
        >>> spread([1.0, 2.0, 3.0])
        (2.0, 1.0)
    """
    numbers = list(values)
    if not numbers:
        raise ValueError("no values to average")
    mean = math.fsum(numbers) / len(numbers)
    if len(numbers) == 1:
        return mean, math.nan
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in numbers) / (len(numbers) - 1))


def forgetting(before: Mapping[str, float | None], after: Mapping[str, float | None]) -> dict[str, float | None]:
    """What each task lost: its Dice with the weights trained for it minus its Dice with other weights.

    Args:
        before: task -> Dice of the model trained on it.
        after: task -> Dice of another body (a later site's, or the merged one) with that task's own S.

    Returns:
        the tasks of both -> drop, positive where something was forgotten; None where a value is missing.
    """
    drops: dict[str, float | None] = {}
    for task in before.keys() & after.keys():
        was, now = before[task], after[task]
        drops[task] = None if was is None or now is None else was - now
    return dict(sorted(drops.items()))


@dataclass(frozen=True)
class Paired:
    """Two methods on the same cases.

    Attributes:
        n: cases that both have a value for.
        mean_difference: first minus second; nan without cases.
        wins: cases on which the first is strictly higher.
        p: two-sided Wilcoxon signed-rank test; None below six cases (where it could never fall below 0.05) and
            where all differences are zero.
    """

    n: int
    mean_difference: float
    wins: int
    p: float | None


def paired(a: Mapping[str, float | None], b: Mapping[str, float | None]) -> Paired:
    """Compare two methods case by case (Wilcoxon 1945).

    Args:
        a: case -> score of the first method.
        b: case -> score of the second; cases that are missing in one, or None, are left out.
    """
    both = [(a[case], b[case]) for case in sorted(a.keys() & b.keys())]
    differences = [x - y for x, y in both if x is not None and y is not None]
    n, p = len(differences), None
    if n >= 6 and any(differences):
        from scipy.stats import wilcoxon  # half a second to import: only where it is asked for

        p = float(wilcoxon(differences).pvalue)
    mean = math.fsum(differences) / n if n else math.nan
    return Paired(n, mean, sum(d > 0 for d in differences), p)
