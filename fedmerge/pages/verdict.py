"""What a run comes to, in three sentences that are written from its numbers.

The first is about the method that the campaign is for, chosen before anybody saw a score; the second about the order of
the test scores, and what of it is noise; the third about what to be careful of.
"""

from collections.abc import Mapping, Sequence

from fedmerge import measures
from fedmerge.comparison import REFERENCE, GroupKey, Row, grouped, last_stage
from fedmerge.pages import intervals
from fedmerge.pages.intervals import Estimate, Runs
from fedmerge.results import Results

Part = tuple[str, int]  # target, target cases

SCRATCH = "none"
SINGLE = "transfer:"
REFUSED = "pooled"  # the reference that life refuses: no hospital may do it


def parts(results: Results) -> list[Part]:
    """The targets, with each of their numbers of training cases."""
    return list(dict.fromkeys((row["target"], row["target_cases"]) for row in results["rows"]))


def runs_of(results: Results, part: Part) -> dict[str, Runs]:
    """Method -> (seed, chain) -> its row of the last stage, of those that finished with a score."""
    groups: dict[GroupKey, list[Row]] = grouped(results["rows"])
    found: dict[str, Runs] = {}
    for (target, cases, method), rows in groups.items():
        told = {run: row for run, row in last_stage(rows).items() if measures.number(row) is not None}
        if (target, cases) == part and told:
            found[method] = told
    return found


def subject(methods: Sequence[str], wanted: str = "") -> str:
    """The method that the campaign is for: what `auto` chose, else T-IMM, else the campaign's own, else a merge.

    Args:
        methods: those with a score.
        wanted: the campaign's `method`.
    """
    merges = [m for m in methods if m not in (SCRATCH, REFUSED) and not m.startswith(SINGLE)]
    return next(m for m in ("auto", REFERENCE, wanted, *merges, *methods) if m in methods)


def sentences(results: Results, part: Part) -> list[str]:
    """Three sentences; a single one where nothing can be said."""
    runs = runs_of(results, part)
    if not runs:
        return [f"No method has a test score at {part[0]}: {_why_none(results, part)}."]
    wanted = results["campaign"].get("campaign", results["campaign"]).get("method", "")
    chosen = subject(list(runs), str(wanted))
    return [_first(results, part, runs, chosen), _second(runs, chosen), _third(results, part, runs)]


def _first(results: Results, part: Part, runs: Mapping[str, Runs], chosen: str) -> str:
    own = intervals.score(runs[chosen])
    assert own is not None  # noqa: S101 - `runs_of` has only rows with a score
    name = measures.of(results).name
    cases = "case" if part[1] == 1 else "cases"
    return (
        f"With {part[1]} training {cases} at {part[0]}, {chosen} reached a test {name} of {_value(own)}: "
        f"{_scratch(runs, chosen)}, and {_single(runs, chosen)}."
    )


def _scratch(runs: Mapping[str, Runs], chosen: str) -> str:
    if chosen == SCRATCH:
        return "it is itself training from scratch"
    if SCRATCH not in runs:
        return "training from scratch was not run beside it"
    return _told(intervals.difference(runs[chosen], runs[SCRATCH]), "training from scratch")


def _single(runs: Mapping[str, Runs], chosen: str) -> str:
    singles = [m for m in runs if m.startswith(SINGLE) and m != chosen]
    if not singles:
        return "no single source was run beside it"
    best = max(singles, key=lambda method: _mean(runs[method]))
    found, name = intervals.difference(runs[chosen], runs[best]), best.removeprefix(SINGLE)
    if len(singles) == 1:
        return _told(found, f"the single source {name}")
    return (
        f"{_told(found, f'the best of {len(singles)} single sources, {name}')}, "
        "which was picked by the same test cases and so is flattered"
    )


def _second(runs: Mapping[str, Runs], chosen: str) -> str:
    fair = [method for method in runs if method != REFUSED]
    if len(fair) < 2:
        return "There is no other method to compare it with."
    best = max(fair, key=lambda method: _mean(runs[method]))
    near = [m for m in fair if m != best and not _apart(runs[best], runs[m])]
    aside = f", {REFUSED} aside" if REFUSED in runs else ""
    head = (
        f"Ordered by the test scores themselves{aside}, {best} is the highest of {len(fair)} methods "
        f"({_mean(runs[best]):.3f}); such a choice after the test flatters"
    )
    if not near:
        return f"{head}, but its distance to each other method is larger than the noise of the test cases."
    if len(near) == len(fair) - 1:
        return f"{head}, and no other method can be told from it by these test cases."
    return f"{head}, and {_listed(near)} cannot be told from it by these test cases."


def _third(results: Results, part: Part, runs: Mapping[str, Runs]) -> str:
    """What to be careful of; there is always something."""
    every = [run for own in runs.values() for run in own]
    chains, seeds = {chain for _, chain in every}, {seed for seed, _ in every}
    tested = max((len(row["cases"]) for own in runs.values() for row in own.values()), default=0)
    measure = measures.of(results)
    found = []
    if len(chains) == 1:
        draws = "one draw of the target's cases" if len(seeds) == 1 else f"{len(seeds)} draws of the target's cases"
        found.append(f"this is one training of the sources with {draws}, and another may turn such differences round")
    else:
        found.append(f"the {len(chains)} trainings of the sources are few to judge their spread by")
    if tested < measure.enough:
        found.append(f"{tested} test cases are few")
    if len(runs) > 2:
        found.append(f"{len(runs)} methods were looked at, and no interval is corrected for that")
    left = list(dict.fromkeys(one["site"] for one in results.get("left_out", [])))
    if left:
        found.append(f"{_listed(left)} did not take part throughout")
    failed = [m for m in _methods(results, part) if m not in runs]
    if failed:
        found.append(f"{_listed(failed)} failed or told no score")
    blind = [site["name"] for site in results.get("sites", []) if site.get("disjoint_by") == "case"]
    if blind:
        found.append(f"patients in training and test cannot be shown to be different ones at {_listed(blind)}")
    return f"Be careful: {'; '.join(found)}."


def _told(found: Estimate | None, what: str) -> str:
    if found is None:
        return f"nothing can be said against {what}"
    if found.low is None or found.high is None:
        return f"{found.value:+.3f} against {what}, with no interval"
    if not found.sure:
        return f"not to be told from {what} ({found.value:+.3f}, 95 % interval {found.low:+.3f} to {found.high:+.3f})"
    way, sign = ("above", 1) if found.value > 0 else ("below", -1)
    low, high = sorted((sign * found.low, sign * found.high))
    return f"{abs(found.value):.3f} {way} {what} (95 % interval {low:.3f} to {high:.3f})"


def _value(own: Estimate) -> str:
    if own.low is None or own.high is None:
        return f"{own.value:.3f}"
    return f"{own.value:.3f} (95 % interval {own.low:.3f} to {own.high:.3f})"


def _mean(runs: Runs) -> float:
    values = [value for row in runs.values() if (value := measures.number(row)) is not None]
    return sum(values) / len(values)


def _apart(ours: Runs, theirs: Runs) -> bool:
    found = intervals.difference(ours, theirs)
    return found is not None and found.sure


def _methods(results: Results, part: Part) -> list[str]:
    return list(dict.fromkeys(r["method"] for r in results["rows"] if (r["target"], r["target_cases"]) == part))


def _why_none(results: Results, part: Part) -> str:
    rows = [row for row in results["rows"] if (row["target"], row["target_cases"]) == part]
    if all(row["status"] == "failed" for row in rows):
        return "all of them failed"
    return "its policy keeps scores at home"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]
