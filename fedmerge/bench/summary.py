"""What a suite's runs come to: a line a method and target size, and a line a comparison of two methods.

A run's seeds are draws of the target's cases; its chain is one training of the sources. Means are taken over the seeds
of each chain first and over the chains then, and the spread is that of the chains.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from fedmerge import evaluation, measures
from fedmerge.bench import statistics
from fedmerge.bench.suite import named
from fedmerge.comparison import GroupKey, Row, RunKey, case_means, grouped, last_stage
from fedmerge.measures import number
from fedmerge.results import Results

Part = tuple[str, int]  # target, target cases


@dataclass(frozen=True)
class Measure:
    """One quantity of one method.

    Attributes:
        mean: over chains of the mean over seeds; None where nothing was measured.
        sd: standard deviation over chains; None for a single one.
        chains: chain -> mean over its seeds.
    """

    mean: float | None
    sd: float | None
    chains: dict[int, float]


@dataclass(frozen=True)
class Line:
    """One method at one target size; scores are the campaign's measure (`measures`).

    Attributes:
        score: test score after the last stage.
        more: the measure's further numbers after the last stage, by key.
        start: test score before any training at the target.
        adapted: test score right after adaptation, where the method adapts.
        area: mean height of the validation curve.
        reached: median of the target's steps to the suite's validation score, over the runs that reach it.
        reaching: how many runs reach it.
        forgetting: what the sources' own tasks lose by the merged body, mean over tasks.
        seconds: at the target, scoring included.
    """

    target: str
    target_cases: int
    method: str
    runs: int
    failed: int
    score: Measure
    more: dict[str, Measure]
    start: Measure
    adapted: Measure
    area: Measure
    reached: float | None
    reaching: int
    forgetting: Measure
    seconds: Measure
    errors: tuple[str, ...]

    def stage(self, name: str) -> Measure:
        """The test score of a stage of results.json."""
        return {"start": self.start, "adapted": self.adapted}.get(name, self.score)


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same test cases of the same runs: `first` minus `second`, after the last stage.

    Attributes:
        difference: of the scores, over chains, of the mean over seeds.
        case_difference: of the cases' own numbers, which p is about: mean over cases.
        cases: test cases, each averaged over the runs.
        wins: cases on which the first is higher.
        losses: cases on which the second is.
        p: Wilcoxon's signed-rank test over the cases; None where there is none.
        p_holm: the same after Holm's correction over all comparisons of the suite.
    """

    target: str
    target_cases: int
    first: str
    second: str
    difference: Measure
    case_difference: float
    cases: int
    wins: int
    losses: int
    p: float | None
    p_holm: float | None = None

    @property
    def turned(self) -> "Comparison":
        """The same comparison from the other side."""
        chains = {chain: -value for chain, value in self.difference.chains.items()}
        mean = None if self.difference.mean is None else -self.difference.mean
        return replace(
            self,
            first=self.second,
            second=self.first,
            difference=Measure(mean, self.difference.sd, chains),
            case_difference=-self.case_difference,
            wins=self.losses,
            losses=self.wins,
        )


def measure(values: Mapping[RunKey, float | None]) -> Measure:
    """(seed, chain) -> value, as mean and spread; None is left out."""
    chains = statistics.by_chain({run: value for run, value in values.items() if value is not None})
    if not chains:
        return Measure(None, None, {})
    mean, sd = evaluation.spread(chains.values())
    return Measure(mean, None if math.isnan(sd) else sd, chains)


def lines(results: Results, reach: float | None) -> list[Line]:
    """A line for each method and target size, in the order in which they first appear.

    Args:
        results: merged results.
        reach: the validation score to count steps to.
    """
    drops = _drops(results)
    return [_line(key, rows, reach, drops) for key, rows in grouped(results["rows"]).items()]


def _line(key: GroupKey, rows: Sequence[Row], reach: float | None, drops: Mapping[Any, Mapping[RunKey, float]]) -> Line:
    last = last_stage(rows)
    failed = [row for row in rows if row["status"] == "failed"]
    steps = [statistics.reached(row["curve"], reach) for row in last.values()] if reach is not None else []
    got = [step for step in steps if step is not None]

    def at(stage: str) -> Measure:
        return measure({_run(row): number(row) for row in rows if row["stage"] == stage and row["status"] == "ok"})

    return Line(
        target=key[0],
        target_cases=key[1],
        method=key[2],
        runs=len({_run(row) for row in rows}),
        failed=len({_run(row) for row in failed}),
        score=measure({run: number(row) for run, row in last.items()}),
        more={key: measure({run: row[key] for run, row in last.items()}) for key in measures.within(rows[0]).more},
        start=at("start"),
        adapted=at("adapted"),
        area=measure({run: statistics.area(row["curve"]) for run, row in last.items()}),
        reached=median(got) if got else None,
        reaching=len(got),
        forgetting=measure(drops.get((key[2], key[1]), {})),
        seconds=measure({run: row["seconds"] for run, row in last.items()}),
        errors=tuple(dict.fromkeys(row["error"] for row in failed)),
    )


def _drops(results: Results) -> dict[tuple[str, int], dict[RunKey, float]]:
    """(method, target cases) -> run -> what the sources' tasks lose, on average."""
    own: dict[tuple[str, int, str], dict[str, float | None]] = {}  # arm, chain -> task -> score of its own body
    others: dict[tuple[str, int, RunKey, str], dict[str, float | None]] = {}
    for one in results["forgetting"]:
        arm, task = one.get("arm", ""), one["task"]
        if one["weights"] == named(task, arm):
            own.setdefault((arm, one["chain"], ""), {})[task] = number(one)
        else:
            run = (one["seed"], one["chain"])
            others.setdefault((one["weights"], one["target_cases"], run, arm), {})[task] = number(one)
    found: dict[tuple[str, int], dict[RunKey, float]] = {}
    for (weights, cases, run, arm), after in others.items():
        drop = evaluation.case_mean(evaluation.forgetting(own.get((arm, run[1], ""), {}), after))
        if drop is not None:
            found.setdefault((weights, cases), {})[run] = drop
    return found


def compare(results: Results, pairs: Iterable[tuple[str, str]]) -> list[Comparison]:
    """The pairs at every target size at which both have runs, with Holm's correction over all of them.

    Args:
        results: merged results.
        pairs: (first, second); a pair that is there turned round is the same comparison.
    """
    last = {key: last_stage(rows) for key, rows in grouped(results["rows"]).items()}
    distinct: dict[frozenset[str], tuple[str, str]] = {}
    for pair in pairs:
        distinct.setdefault(frozenset(pair), pair)
    found = []
    for target, cases in dict.fromkeys((key[0], key[1]) for key in last):
        for first, second in distinct.values():
            ours, theirs = (last.get((target, cases, name), {}) for name in (first, second))
            one = _compare((target, cases), (first, second), ours, theirs)
            found += [one] if one else []
    adjusted = statistics.holm([one.p for one in found])
    return [replace(one, p_holm=p) for one, p in zip(found, adjusted)]


def _compare(
    part: Part, pair: tuple[str, str], ours: Mapping[RunKey, Row], theirs: Mapping[RunKey, Row]
) -> Comparison | None:
    """Over the runs that both have: the difference by chain, and the test over cases."""
    differences = {
        run: mine - other
        for run in ours
        if run in theirs and (mine := number(ours[run])) is not None and (other := number(theirs[run])) is not None
    }
    a, b = (case_means(rows[run] for run in differences) for rows in (ours, theirs))
    test = evaluation.paired(a, b)
    if not test.n:
        return None
    losses = evaluation.paired(b, a).wins
    return Comparison(*part, *pair, measure(differences), test.mean_difference, test.n, test.wins, losses, test.p)


def find(comparisons: Iterable[Comparison], first: str, second: str, cases: int) -> Comparison | None:
    """The comparison of two methods at a target size, seen from the first."""
    for one in comparisons:
        if one.target_cases == cases and {one.first, one.second} == {first, second}:
            return one if one.first == first else one.turned
    return None


def _run(row: Row) -> RunKey:
    return row["seed"], row["chain"]
