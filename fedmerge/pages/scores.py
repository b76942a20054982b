"""The table of a run with an interval at every score, and what its reader has to know."""

from collections.abc import Mapping

from fedmerge import evaluation, measures, report
from fedmerge.bench import statistics
from fedmerge.comparison import REFERENCE, Line, case_means
from fedmerge.pages import intervals, markup, verdict
from fedmerge.pages.intervals import Estimate, Runs
from fedmerge.pages.markup import Html
from fedmerge.pages.verdict import Part
from fedmerge.results import Results

WIDTH, HEIGHT = 150, 18


def table(results: Results, part: Part) -> str:
    """A line a method, in the campaign's order; nothing is ranked."""
    lines = [line for line in report.table(results) if (line.target, line.target_cases) == part]
    runs = verdict.runs_of(results, part)
    found = {method: one for method, own in runs.items() if (one := intervals.score(own)) is not None}
    measure = measures.of(results)
    more = measure.beside(row for own in runs.values() for row in own.values())
    chains = len({chain for own in runs.values() for _, chain in own}) > 1
    heading = [
        "method", f"{measure.name} [95 % interval]", "", *(_named(key, name) for key, name in more.items()),
        f"to {REFERENCE} [95 % interval]",
        *["chains above"] * chains, "cases ahead", "p", "runs",
    ]  # fmt: skip
    return markup.table(heading, [_cells(line, runs, found, more, chains=chains) for line in lines], name="scores")


def stages(results: Results) -> str:
    """The table of `results.md`: scores before, between and after the trainings, with what they cost."""
    lines = report.table(results)
    names = report.heading(lines)
    left = names.index("method") + 1
    return markup.table(names, [report.cells(line, names) for line in lines], left=left, name="stages")


def _named(key: str, name: str) -> str:
    return f"{name} [95 % interval]" if key in measures.EXTRAS else name


def _cells(
    line: Line, runs: Mapping[str, Runs], found: Mapping[str, Estimate], more: Mapping[str, str], *, chains: bool
) -> list[str]:
    names = report.heading([line])
    plain = dict(zip(names, report.cells(line, names)))
    own, theirs = runs.get(line.method, {}), runs.get(REFERENCE, {})
    apart = intervals.difference(own, theirs) if line.method != REFERENCE else None
    shared = [run for run in own if run in theirs]
    a, b = case_means(own[run] for run in shared), case_means(theirs[run] for run in shared)
    pair = evaluation.paired(a, b)
    told = apart is not None and pair.n > 0
    one = found.get(line.method)
    return [
        line.method,
        one.text() if one else "–",
        Html(_bar(one, found)) if one else "",
        *(_besides(own, key) if key in measures.EXTRAS else plain.get(name, "") for key, name in more.items()),
        apart.text("+.3f") if apart else "",
        *[_above(own, theirs) if told else ""] * chains,
        f"{pair.wins} of {pair.n}" if told else "",
        plain["p"],
        plain["runs"],
    ]


def _besides(own: Runs, key: str) -> str:
    """What was measured beside the score; of a length in mm one digit."""
    one = intervals.score(own, key)
    return "–" if one is None else one.text(".1f" if key in measures.LOWER else ".3f")


def _above(own: Runs, theirs: Runs) -> str:
    differences = {}
    for run in own:
        mine, other = measures.number(own[run]), measures.number(theirs[run]) if run in theirs else None
        if mine is not None and other is not None:
            differences[run] = mine - other
    values = list(statistics.by_chain(differences).values())
    return f"{sum(value > 0 for value in values)} of {len(values)}"


def _bar(one: Estimate, every: Mapping[str, Estimate]) -> str:
    """The interval as a line with its dot, on one scale for all methods; the figures stand beside it."""
    ends = [v for e in every.values() for v in (e.value, e.low, e.high) if v is not None]
    low, high = min(ends), max(ends)
    scale = (WIDTH - 12) / (high - low or 1)

    def x(value: float) -> float:
        return round(6 + (value - low) * scale, 1)

    y = HEIGHT / 2
    line = ""
    if one.low is not None and one.high is not None:
        line = f'<line x1="{x(one.low)}" x2="{x(one.high)}" y1="{y}" y2="{y}"/>'
    return (
        f'<svg class="bar" width="{WIDTH}" height="{HEIGHT}" aria-hidden="true">{line}'
        f'<circle cx="{x(one.value)}" cy="{y}" r="4"/></svg>'
    )


def legend(results: Results) -> list[str]:
    """What the reader has to know, in sentences."""
    measure = measures.of(results)
    kind = {
        "dice": "Student's t interval of the mean over the test cases, each case averaged over the runs",
        "f1": f"percentile bootstrap: the test images are drawn anew {intervals.DRAWS} times",
    }[measure.key]
    lines, beside = report.legend(results), measure.beside(results["rows"])
    chains = {row["chain"] for row in results["rows"]}
    more = []
    if len(chains) > 1:
        more = [
            "A chain is one training of all sources; seeds only draw the target's cases, and are not independent of "
            "each other. 'Chains above' counts the chains whose mean difference is above zero."
        ]
    return [
        f"Brackets are 95 % intervals: {kind}. They speak of these trained models and of cases like these, not of "
        "another training, and are not corrected for the number of methods.",
        *lines,
        *(f"Of {measures.EXTRAS[key]} a lower number is the better one." for key in beside if key in measures.LOWER),
        *more,
        "Methods stand in the campaign's order: nothing is ranked, and nothing is left out.",
    ]
