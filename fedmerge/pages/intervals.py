"""How sure a score or a difference is: 95 % intervals over the test cases.

They speak of the trained models at hand, and of cases like the ones that were tested; not of another training.

* Dice is a mean over cases: Student's t interval of that mean (Student 1908), each case averaged over the runs first.
* F1 belongs to a whole set: the percentile bootstrap (Efron 1979), where whole cases are drawn again, the same for both
  methods of a difference.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedmerge import evaluation, measures
from fedmerge.comparison import Row, RunKey, case_means

LEVEL = 0.95
DRAWS = 1000

Runs = Mapping[RunKey, Row]


@dataclass(frozen=True)
class Estimate:
    """A number and its interval; `low` and `high` are None where fewer than two cases are known one by one."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def sure(self) -> bool:
        """Whether zero lies outside of the interval."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def text(self, form: str = ".3f") -> str:
        """As in `0.573 [0.541, 0.605]`."""
        if self.low is None or self.high is None:
            return f"{self.value:{form}}"
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"


def student(values: Sequence[float]) -> Estimate:
    """The mean with its t interval.

    Example:
        >>> student([1.0, 2.0, 3.0]).text()
        '2.000 [-0.484, 4.484]'
    """
    mean, sd = evaluation.spread(values)
    if len(values) < 2:
        return Estimate(mean)
    from scipy.stats import t  # half a second to import: only where it is asked for

    half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) * sd / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half)


def score(runs: Runs, key: str = "") -> Estimate | None:
    """A method's last stage; None where no score is told.

    Args:
        runs: (seed, chain) -> the row of the last stage.
        key: of what was measured besides (`measures.EXTRAS`), in place of the measure's own number.
    """
    numbers = {run: row.get(key) if key else measures.number(row) for run, row in runs.items()}
    known = {run: value for run, value in numbers.items() if value is not None}
    if not known:
        return None
    mean = math.fsum(known.values()) / len(known)
    rows = [runs[run] for run in known]
    if measures.within(rows[0]) is measures.DICE:
        found = list(case_means(rows, key).values())
        return _around(mean, student(found)) if found else Estimate(mean)
    return _around(mean, _bootstrap([rows]))


def difference(ours: Runs, theirs: Runs) -> Estimate | None:
    """One method minus another, over the runs and cases that both have; None where they share none."""
    both = [
        run for run in ours if run in theirs and None not in (measures.number(ours[run]), measures.number(theirs[run]))
    ]
    if not both:
        return None
    a, b = [ours[run] for run in both], [theirs[run] for run in both]
    mean = math.fsum(x - y for x, y in zip(map(_number, a), map(_number, b))) / len(both)
    if measures.within(a[0]) is measures.DICE:
        mine, other = case_means(a), case_means(b)
        found = [mine[case] - other[case] for case in mine if case in other]
        return _around(mean, student(found)) if found else Estimate(mean)
    return _around(mean, _bootstrap([a, b]))


def _number(row: Row) -> float:
    value = measures.number(row)
    assert value is not None  # noqa: S101 - the caller has chosen such rows
    return value


def _around(value: float, found: Estimate | None) -> Estimate:
    """The number as the table has it, with an interval that was found for it."""
    return Estimate(value) if found is None else Estimate(value, found.low, found.high)


def _bootstrap(sides: Sequence[Sequence[Row]]) -> Estimate | None:
    """Of one side's score, or of the first minus the second; None where cases are not known one by one."""
    measure = measures.within(sides[0][0])
    tables = [[{case["case"]: case for case in row["cases"]} for row in rows] for rows in sides]
    names = sorted(set.intersection(*(set(table) for side in tables for table in side)))
    if len(names) < 2:
        return None
    draw = np.random.default_rng(0)
    found = []
    for _ in range(DRAWS):
        chosen = [names[i] for i in draw.integers(len(names), size=len(names))]
        means = [
            measures.mean(measure.value([table[name] for name in chosen]) for table in side) or 0.0 for side in tables
        ]
        found.append(means[0] - means[1] if len(means) > 1 else means[0])
    edge = 50 * (1 - LEVEL)
    low, high = np.percentile(found, [edge, 100 - edge])
    return Estimate(float(np.mean(found)), float(low), float(high))
