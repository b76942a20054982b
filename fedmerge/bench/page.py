"""The page of a suite: one HTML file that needs nothing from elsewhere, readable on a telephone and in the dark."""

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fedmerge import figures, leaving, whole
from fedmerge.bench import summary
from fedmerge.bench.gather import Bench, choices, reference_of
from fedmerge.bench.legend import legend, samples
from fedmerge.bench.summary import Comparison, Line, Measure
from fedmerge.pages import markup
from fedmerge.pages.markup import chance, minus
from fedmerge.results import Results

COMPARED = ["method", "against", "difference", "by chain", "cases ahead", "p", "p (Holm)"]


def write(bench: Bench, out: Path, cases: Figure | None = None) -> Path:
    """Write `bench.html`, whole or not at all.

    Args:
        bench: what ran.
        out: the folder.
        cases: a few test cases with what methods found, where that was kept.
    """
    whole.write(out / "bench.html", html(bench, cases))
    return out / "bench.html"


def html(bench: Bench, cases: Figure | None = None) -> str:
    """The page's text."""
    suite = bench.suite
    body = [
        f"<header><h1>{escape(suite.title)}</h1>{_facts(bench)}</header>",
        _verdicts(bench),
        _list("What failed", bench.failures),
        *(_part(bench, target, size) for target, size in bench.parts),
        _figures(bench),
        _samples(bench, cases) if cases is not None else "",
        _choices(bench),
        _leaving(bench),
        _traffic(bench),
        markup.section("How to read this", "".join(f"<p>{sentence}</p>" for sentence in legend(bench))),
        markup.section("The suite as it ran", f"<pre>{escape(suite.text)}</pre>", folded=True),
    ]
    return markup.document(suite.title, body)


def main_table(bench: Bench) -> tuple[list[str], list[list[str]]]:
    """Heading and cells of all lines, for the terminal."""
    return ["cases", *_heading(bench)], [[str(line.target_cases), *_cells(line)] for line in bench.lines]


def _facts(bench: Bench) -> str:
    suite, made = bench.suite, bench.results["environment"]
    facts = [
        f"suite {suite.name}",
        _count(len(suite.chains), "chain"),
        _count(len(suite.seeds), "seed"),
        f"target cases {', '.join(map(str, suite.target_cases))}",
        f"fedmerge {made['fedmerge']}, torch {made['torch']}, {made['device']}",
    ]
    return f'<p class="facts"><span class="stage {suite.stage}">{suite.stage}</span> {escape("; ".join(facts))}</p>'


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _verdicts(bench: Bench) -> str:
    rows = []
    for one in bench.verdicts:
        findings = "".join(
            f'<li><span class="{_word(found.verdict)}">{found.verdict}</span> {escape(found.what)}: '
            f"{escape(minus(found.numbers))}</li>"
            for found in one.findings
        )
        rows.append(
            f'<tr><td><span class="verdict {_word(one.verdict)}">{one.verdict}</span></td>'
            f"<td>{escape(one.text)}<details><summary>{_count(len(one.findings), 'finding')}; the test: "
            f"{escape(one.test)}</summary><ul>{findings}</ul></details></td></tr>"
        )
    if not rows:
        return ""
    return markup.section("Hypotheses", f'<table class="verdicts">{"".join(rows)}</table>')


def _part(bench: Bench, target: str, cases: int) -> str:
    lines = [line for line in bench.lines if (line.target, line.target_cases) == (target, cases)]
    compared = []
    for line in lines:
        pair = summary.find(bench.comparisons, line.method, reference_of(bench.suite, line.method), cases)
        if pair is not None:
            compared.append(_compared(pair))
    title = f"{escape(target)}, {cases} training cases"
    tables = [
        markup.table(_heading(bench), map(_cells, lines)),
        markup.table(COMPARED, compared, left=2) if compared else "",
    ]
    return markup.section(title, "".join(tables))


def _heading(bench: Bench) -> list[str]:
    measure = bench.measure
    stages = ["start", "adapted", "area", "steps", "forgetting", "seconds", "runs"]
    return ["method", f"final {measure.name}", *measure.more.values(), *stages]


def _cells(line: Line) -> list[str]:
    steps = "" if line.reached is None else f"{line.reached:g}"
    if line.reached is not None and line.reaching < line.runs:
        steps += f" ({line.reaching} of {line.runs})"
    return [
        line.method,
        _spread(line.score),
        *map(_spread, line.more.values()),
        _spread(line.start),
        _spread(line.adapted),
        _spread(line.area),
        steps or "–",
        _spread(line.forgetting, "+.3f"),
        "–" if line.seconds.mean is None else f"{line.seconds.mean:.1f}",
        f"{line.runs - line.failed} of {line.runs}" if line.failed else str(line.runs),
    ]


def _compared(one: Comparison) -> list[str]:
    chains = list(one.difference.chains.values())
    return [
        one.first,
        one.second,
        _spread(one.difference, "+.3f"),
        f"{sum(value > 0 for value in chains)} of {len(chains)}",
        f"{one.wins} of {one.cases}",
        chance(one.p),
        chance(one.p_holm),
    ]


def _figures(bench: Bench) -> str:
    """The figures of each target size and arm; those of ratios only where there are any. The first ones are open."""
    drawn: list[tuple[str, str, Callable[[Results, str], Figure]]] = [
        ("Learning curves", "rows", figures.learning_curves),
        ("Differences, test case by test case", "rows", figures.paired),
        ("Mixing ratios by layer", "ratios", lambda found, _: figures.ratios(found)),
    ]
    places = [
        (cases, arm.name) for cases in dict.fromkeys(cases for _, cases in bench.parts) for arm in bench.suite.arms
    ]
    parts = []
    for i, (title, key, draw) in enumerate(drawn):
        for j, (cases, arm) in enumerate(places):
            own = _own(bench.results, cases, arm)
            if own[key]:
                heading = f"{title}, {cases} training cases{', ' + escape(arm) if arm else ''}"
                figure = draw(own, bench.suite.reference.partition("@")[0])
                parts.append(markup.section(heading, markup.figure(figure, f"f{i}n{j}"), folded=j > 0))
    return "\n".join(parts)


def _own(results: Results, cases: int, arm: str) -> Results:
    """The rows and ratios of one target size and arm, with the methods' names as in that arm."""

    def chosen(key: str) -> list[dict[str, Any]]:
        return [
            {**row, "method": row["method"].partition("@")[0]}
            for row in results[key]
            if row["target_cases"] == cases and row.get("arm", "") == arm
        ]

    return {**results, "rows": chosen("rows"), "ratios": chosen("ratios")}


def _samples(bench: Bench, cases: Figure) -> str:
    title, sentences = samples(bench)
    return markup.section(title, markup.figure(cases, title.lower()) + f"<p>{sentences}</p>")


def _choices(bench: Bench) -> str:
    """What methods chose that choose among candidates, and how often."""
    rows = [[method, chosen, str(cases), str(count)] for method, cases, chosen, count in choices(bench.results)]
    return (
        markup.section("What was chosen", markup.table(["method", "chose", "cases", "runs"], rows, left=2))
        if rows
        else ""
    )


def _leaving(bench: Bench) -> str:
    """What the sources do in each merge."""
    names, rows = leaving.table(bench.results)
    return (
        markup.section("Merges without one of their sources", markup.table(names, rows, left=3), folded=True)
        if rows
        else ""
    )


def _traffic(bench: Bench) -> str:
    rows = [[what, f"{messages:,}", f"{size / 1e6:,.1f}"] for what, messages, size in bench.traffic]
    return markup.section("Traffic, all runs together", markup.table(["what", "messages", "MB"], rows)) if rows else ""


def _list(title: str, sentences: Sequence[str]) -> str:
    return markup.section(title, markup.sentences(sentences)) if sentences else ""


def _spread(one: Measure, form: str = ".3f") -> str:
    if one.mean is None:
        return "–"
    return f"{one.mean:{form}}" if one.sd is None else f"{one.mean:{form}} ± {one.sd:.3f}"


def _word(verdict: str) -> str:
    return verdict.replace(" ", "-")
