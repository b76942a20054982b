"""Leaving models out of a merge: what each contributes, and which of them are to be merged at all.

    without     the ratios of a merge with one model taken out         jackknife, Quenouille 1956
    admitted    backward elimination: while a score grows by more than a margin when a model is left out, the one whose
                absence it gains most from goes

Both ask a score of validation cases, never of test cases.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from fedmerge.errors import ConfigError
from fedmerge.fusion.mixing import Ratios

LEAST = 1e-6
"""Ratios that together are less than this are rounding (float32 has seven digits): they tell no proportion."""

SURE = 2.0
"""Standard errors of a score that a gain has to be above before it counts as more than chance."""

Names = tuple[str, ...]


@dataclass(frozen=True)
class Admitted:
    """Which models are merged, and what was asked for it.

    Attributes:
        names: of the models that stay, in the order given.
        scores: of each set of models that was tried, the whole first; None where the set cannot be merged.
    """

    names: Names
    scores: dict[Names, float | None]


def without(ratios: Mapping[str, torch.Tensor], which: int) -> Ratios:
    """The ratios with one model taken out; the others keep their proportion to each other.

        b_t = a_t / sum_(s != which) a_s,    b_which = 0

    In a group where the others have no ratio to speak of (`LEAST`), as in MedMerge's beginning, they get equal ones.

    Args:
        ratios: group -> (T,), or (T, K) for grain kernel; non-negative, of sum 1 over the models.
        which: the model, 0 to T - 1.

    Raises:
        ConfigError: it is the only one.
    """
    found: Ratios = {}
    for group, a in ratios.items():
        if len(a) < 2:
            raise ConfigError("a merge of one model cannot do without it")
        others, equal = a.clone(), torch.full_like(a, 1 / (len(a) - 1))
        others[which] = equal[which] = 0.0
        total = others.sum(0)  # () or (K,)
        found[group] = torch.where(total < LEAST, equal, others / total.clamp(min=LEAST))
    return found


def margin(varies: float, cases: int) -> float:
    """What a score has to gain before a model is left out: a good one that is left out by chance is a loss too.

        SURE varies / sqrt(cases)

    Args:
        varies: by how much the score of one case varies from case to case (`measures.Measure.varies`).
        cases: how many the score is the mean of, at least 1.

    Example:
        >>> margin(0.06, 4), round(margin(0.06, 12), 3)
        (0.06, 0.035)
    """
    return SURE * varies / math.sqrt(cases)


def admitted(names: Sequence[str], score: Callable[[Names], float | None], margin: float) -> Admitted:
    """Backward elimination by a score.

    Args:
        names: of T models.
        score: of a merge of some of them, higher is better; None: these cannot be merged. Each set is asked for once,
            at most (T^2 + T) / 2 + 1 of them.
        margin: what the score has to gain, and more, for a model to be left out.

    Raises:
        ConfigError: there is no model, or all together have no score.
    """
    kept = tuple(names)
    scores = {kept: score(kept) if kept else None}
    now = scores[kept]
    if now is None:
        raise ConfigError(f"the merge of {', '.join(kept) or 'no model'} has no score to begin with")
    while len(kept) > 1:
        fewer = [tuple(name for name in kept if name != gone) for gone in kept]
        for some in fewer:
            scores[some] = score(some)
        best, value = max(((some, scores[some]) for some in fewer), key=lambda pair: _or_least(pair[1]))
        if value is None or value <= now + margin:
            break
        kept, now = best, value
    return Admitted(kept, scores)


def _or_least(value: float | None) -> float:
    return -1.0 if value is None else value
