"""Everything that a suite's runs say, in one record, and as JSON for other programs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedmerge import measures, results, whole
from fedmerge.bench import summary, verdicts
from fedmerge.bench.runs import Run
from fedmerge.bench.suite import Suite, named
from fedmerge.bench.summary import Comparison, Line
from fedmerge.bench.verdicts import Verdict
from fedmerge.measures import Measure
from fedmerge.results import Results

FORMAT = "fedmerge-bench/1"


@dataclass(frozen=True)
class Bench:
    """A suite that has run.

    Attributes:
        results: the runs' results in one table; methods carry their arm's name.
        comparisons: every method with the reference, and what the hypotheses compare; p after Holm over all of them.
        traffic: (what, messages, bytes) over all runs.
        failures: a sentence for each different error.
    """

    suite: Suite
    results: Results
    lines: tuple[Line, ...]
    comparisons: tuple[Comparison, ...]
    verdicts: tuple[Verdict, ...]
    traffic: tuple[tuple[str, int, int], ...]
    failures: tuple[str, ...]

    @property
    def measure(self) -> Measure:
        """What the suite's models are scored by."""
        return measures.of(self.results)

    @property
    def parts(self) -> list[tuple[str, int]]:
        """Target and target size of each table, in order."""
        return list(dict.fromkeys((line.target, line.target_cases) for line in self.lines))


def reference_of(suite: Suite, method: str) -> str:
    """Whom a method is compared with: the reference in the method's own arm, unless the suite names an arm."""
    _, at, arm = method.partition("@")
    return suite.reference if not at or "@" in suite.reference else named(suite.reference, arm)


def gather(suite: Suite, runs: Sequence[Run], sources: Mapping[str, Sequence[str]]) -> Bench:
    """Read the runs' results and compute what the page shows.

    Args:
        suite: what ran.
        runs: all of them, finished.
        sources: arm -> its sources.

    Raises:
        DataError: results are missing or have another form.
    """
    together = merged([(run.arm, results.read(run.out)) for run in runs])
    lines = summary.lines(together, suite.reach)
    pairs = [
        (method, other)
        for method in dict.fromkeys(line.method for line in lines)
        if (other := reference_of(suite, method)) != method
    ]
    comparisons = summary.compare(together, [*pairs, *verdicts.pairs(suite.hypotheses, sources)])
    return Bench(
        suite=suite,
        results=together,
        lines=tuple(lines),
        comparisons=tuple(comparisons),
        verdicts=tuple(verdicts.judge(suite.hypotheses, sources, lines, comparisons, measures.of(together))),
        traffic=tuple(traffic(together)),
        failures=tuple(
            f"{line.method} with {line.target_cases} cases failed in {line.failed} of {line.runs} runs: {error}"
            for line in lines
            for error in line.errors
        ),
    )


def merged(parts: Sequence[tuple[str, Results]]) -> Results:
    """One table of results out of those of all runs; methods carry their arm's name.

    Args:
        parts: (arm, results of one of its runs), at least one; all of one measure.
    """
    lists = ("rows", "ratios", "forgetting", "traffic", "left_out", "changes", "choices", "privacy", "admissions",
             "leave_one_out")  # fmt: skip
    together: Results = {**parts[0][1], **{key: [] for key in lists}}
    for arm, found in parts:
        for key in lists:
            together[key] += [_of_arm(entry, arm) for entry in found.get(key, [])]
    return together


def _of_arm(entry: Mapping[str, Any], arm: str) -> dict[str, Any]:
    names = {key: named(entry[key], arm) for key in ("method", "weights") if key in entry}
    return {**entry, **names, **({"arm": arm} if arm else {})}


def traffic(results: Results) -> list[tuple[str, int, int]]:
    """(what, messages, bytes) over all runs, largest first."""
    totals: dict[str, tuple[int, int]] = {}
    for line in results["traffic"]:
        messages, size = totals.get(line["what"], (0, 0))
        totals[line["what"]] = (messages + line.get("messages", 1), size + line["bytes"])
    return sorted(((what, *both) for what, both in totals.items()), key=lambda one: -one[2])


def choices(results: Results) -> list[tuple[str, int, str, int]]:
    """(method, target cases, what it chose, in how many runs), for methods that choose among candidates."""
    counts: dict[tuple[str, int, str], int] = {}
    for one in results.get("choices", []):
        key = (one["method"], one["target_cases"], one["chosen"])
        counts[key] = counts.get(key, 0) + 1
    return [(*key, count) for key, count in sorted(counts.items(), key=lambda item: (item[0][:2], -item[1]))]


def to_json(bench: Bench) -> str:
    """The text of `bench.json`."""
    suite = bench.suite
    table: dict[str, Any] = {
        "format": FORMAT,
        "measure": bench.measure.key,
        "suite": {
            "name": suite.name, "title": suite.title, "stage": suite.stage, "methods": list(suite.methods),
            "target_cases": list(suite.target_cases), "seeds": list(suite.seeds), "chains": list(suite.chains),
            "reference": suite.reference, "reach": suite.reach, "text": suite.text,
        },
        "environment": bench.results["environment"],
        "lines": [_told(line, bench.measure) for line in bench.lines],
        "comparisons": [asdict(one) for one in bench.comparisons],
        "verdicts": [asdict(one) for one in bench.verdicts],
        "traffic": [{"what": what, "messages": n, "bytes": size} for what, n, size in bench.traffic],
        "failures": list(bench.failures),
    }  # fmt: skip
    return json.dumps(table, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _told(line: Line, measure: Measure) -> dict[str, Any]:
    """A line under the names that the numbers have in `results.json`."""
    table = asdict(line)
    score, more = table.pop("score"), table.pop("more")
    return {**table, measure.key: score, **more}


def write(bench: Bench, out: Path) -> None:
    """Write `bench.json`, and the runs' results in one `results.json`."""
    for name, text in (("bench.json", to_json(bench)), ("results.json", results.to_json(bench.results))):
        whole.write(out / name, text)
