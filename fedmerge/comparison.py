"""Comparison of methods: the rows of `results.json` gathered by method and target.

A run is one seed and one chain. The difference to T-IMM is paired: run by run for the mean, case by case for
Wilcoxon's p.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedmerge import evaluation, measures
from fedmerge.measures import number
from fedmerge.results import STAGES, Results

REFERENCE = "t-imm"
Row = Mapping[str, Any]
RunKey = tuple[int, int]  # seed, chain
GroupKey = tuple[str, int, str]  # target, target_cases, method


@dataclass(frozen=True)
class Line:
    """One method at one target, over all its runs."""

    target: str
    target_cases: int
    method: str
    runs: int
    failed: int
    score: dict[str, tuple[float, ...]]  # stage -> one value a run
    more: dict[str, tuple[float, ...]]  # name of a further number -> the last stage's, one value a run
    difference: tuple[float, ...]  # last stage, method minus T-IMM, one value a run that both have
    p: float | None  # Wilcoxon over the test cases, each case averaged over the runs
    target_steps: tuple[int, ...]  # of the last stage, one value a run
    seconds: tuple[float, ...]  # at the target up to the last stage, one value a run
    errors: tuple[str, ...]


def grouped(rows: Iterable[Row]) -> dict[GroupKey, list[Row]]:
    """(target, target_cases, method) -> its rows, in the order in which they first appear."""
    groups: dict[GroupKey, list[Row]] = {}
    for row in rows:
        groups.setdefault((row["target"], row["target_cases"], row["method"]), []).append(row)
    return groups


def _line(target: str, target_cases: int, method: str, rows: Sequence[Row], every: Sequence[Row]) -> Line:
    key = (target, target_cases, REFERENCE)
    runs = {(row["seed"], row["chain"]) for row in rows}
    failed = [row for row in rows if row["status"] == "failed"]
    last = last_stage(rows)
    reference = last_stage(grouped(every).get(key, [])) if method != REFERENCE else {}
    differences = {
        run: mine - theirs
        for run in last
        if run in reference
        and (mine := number(last[run])) is not None
        and (theirs := number(reference[run])) is not None
    }
    both = list(differences)
    pair = None
    if both:
        pair = evaluation.paired(case_means(last[run] for run in both), case_means(reference[run] for run in both))
    return Line(
        target=target,
        target_cases=target_cases,
        method=method,
        runs=len(runs),
        failed=len({(row["seed"], row["chain"]) for row in failed}),
        score={
            stage: tuple(value for row in rows if row["stage"] == stage and (value := number(row)) is not None)
            for stage in STAGES
        },
        more={
            name: tuple(value for row in last.values() if (value := row.get(key)) is not None)
            for key, name in measures.within(rows[0]).beside(last.values()).items()
        },
        difference=tuple(differences.values()),
        p=None if pair is None else pair.p,
        target_steps=tuple(row["target_steps"] for row in last.values()),
        seconds=tuple(row["seconds"] for row in last.values()),
        errors=tuple(dict.fromkeys(row["error"] for row in failed)),
    )


def case_means(rows: Iterable[Row], key: str = "") -> dict[str, float]:
    """For each case, the mean over `rows` (runs) of its own number (`measures`); null is left out.

    Args:
        rows: of one method.
        key: of what was measured besides (`measures.EXTRAS`), in place of the case's own number.
    """
    found: dict[str, list[float]] = {}
    for row in rows:
        for case in row["cases"]:
            mean = evaluation.case_mean(case.get(key, {})) if key else measures.within(row).case(case)
            if mean is not None:
                found.setdefault(case["case"], []).append(mean)
    return {case: sum(values) / len(values) for case, values in found.items()}


def last_stage(rows: Iterable[Row]) -> dict[RunKey, Row]:
    """(seed, chain) -> the row of the last stage that this run finished."""
    last: dict[RunKey, Row] = {}
    for row in sorted(rows, key=lambda row: STAGES.index(row["stage"])):
        if row["status"] == "ok":
            last[row["seed"], row["chain"]] = row
    return last


def lines(results: Results) -> list[Line]:
    """The lines of the table, in the order in which the methods first appear."""
    return [
        _line(target, target_cases, method, rows, results["rows"])
        for (target, target_cases, method), rows in grouped(results["rows"]).items()
    ]


Mixed = tuple[str, str, int, tuple[str, ...]]  # method, target, number of its cases, sites
Fits = dict[Mixed, list[Row]]


def fits(results: Results) -> Fits:
    """The entries of `ratios`, by method, target, number of its cases, and the sites whose models were mixed.

    A method that chooses its sites may mix others in each run: ratios of different sites have no mean.
    """
    found: Fits = {}
    for one in results["ratios"]:
        if one["groups"]:
            key = (one["method"], one["target"], one["target_cases"], tuple(one["sites"]))
            found.setdefault(key, []).append(one)
    return found


def mixed(results: Results) -> tuple[str, ...]:
    """All sites of `ratios`, in their order there: a site's place in it is its colour."""
    return tuple(dict.fromkeys(site for one in results["ratios"] for site in one["sites"]))
