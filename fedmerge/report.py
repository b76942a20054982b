"""What a run tells its reader: the table, the page `results.md`, and the figures beside `results.json`.

A line of the table is a method at a target: the mean over its runs (seeds and chains) with their standard
deviation. Nothing is ranked and nothing is left out.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from fedmerge import evaluation, figures, leaving, measures, whole
from fedmerge.comparison import REFERENCE, Line, grouped, last_stage
from fedmerge.comparison import lines as table
from fedmerge.results import STAGES, Results, read, to_json, validate

__all__ = [
    "Line",
    "cells",
    "failures",
    "forgetting",
    "heading",
    "labels",
    "legend",
    "markdown",
    "read",
    "remarks",
    "table",
    "traffic",
    "validate",
    "write",
]

Table = tuple[list[str], list[list[str]]]  # names of columns, and a list of texts for each line

FIGURES = {
    "Learning curves": ("learning_curves.png", figures.learning_curves),
    "Mixing ratios": ("ratios.png", figures.ratios),
    "Paired differences": ("paired.png", figures.paired),
}


def heading(lines: Sequence[Line]) -> list[str]:
    """The names of the columns that `cells` fills."""
    several = len({(line.target, line.target_cases) for line in lines}) > 1
    where = ["target", "cases"] if several else []
    more = dict.fromkeys(name for line in lines for name in line.more)
    return [*where, "method", *STAGES, *more, f"to {REFERENCE}", "p", "target steps", "seconds", "runs"]


def cells(line: Line, heading: Sequence[str]) -> list[str]:
    """A line as texts, one for each column of `heading`."""
    steps = sorted(set(line.target_steps))
    texts = {
        **dict.fromkeys(heading, ""),
        "target": line.target,
        "cases": str(line.target_cases),
        "method": line.method,
        **{stage: _spread(line.score.get(stage, ())) for stage in STAGES},
        **{name: _spread(values) for name, values in line.more.items()},
        f"to {REFERENCE}": "" if line.method == REFERENCE else _spread(line.difference, "+.3f"),
        "p": "" if line.p is None else _p(line.p),
        "target steps": "–".join(str(step) for step in dict.fromkeys((*steps[:1], *steps[-1:]))),
        "seconds": f"{sum(line.seconds) / len(line.seconds):.1f}" if line.seconds else "",
        "runs": f"{line.runs - line.failed} of {line.runs}" if line.failed else str(line.runs),
    }
    return [texts[name] for name in heading]


def failures(lines: Iterable[Line]) -> list[str]:
    """One sentence for each different error of the rows that failed."""
    return [f"{line.method} at {line.target} failed: {error}" for line in lines for error in line.errors]


def remarks(results: Results) -> list[str]:
    """Sentences on sources: left out, not admitted, moved farther than usual, trained with noise; and on choices."""
    found = []
    for one in results.get("left_out", []):
        where = "" if one["chain"] is None else f" of chain {one['chain']}"
        found.append(f"{one['site']} was left out{where}: {one['reason']}")
    for one in results.get("changes", []):
        if one["verdict"] in ("reported", "released"):
            end = "; the coordinator released them" if one["verdict"] == "released" else ""
            far = "too far beside the other sources', as the target measured"
            if one["times"] is not None:
                far = f"{one['times']:.3g} times as far as the median of the other sources'"
            found.append(f"{one['site']}: the weights moved {far} in chain {one['chain']}{end}")
    for one in results.get("privacy", []):
        models = len(one["trainings"])
        found.append(f"{one['site']}, {models} model{'s' * (models != 1)}: {one['sentence']}")
    for one in results.get("admissions", []):
        where = f"{one['target']}, {one['target_cases']} cases, seed {one['seed']}, chain {one['chain']}"
        found.append(f"{where}: {one['sentence']}")
    for one in results.get("choices", []):
        where = f"{one['target']}, {one['target_cases']} cases, seed {one['seed']}, chain {one['chain']}"
        found.append(f"{where}: {one['sentence']}")
        found += [f"{where}: {name} was no candidate: {why}" for name, why in one.get("dropped", {}).items()]
    return found


def legend(results: Results) -> list[str]:
    """What the reader of the table has to know, in sentences."""
    runs = {(row["seed"], row["chain"]) for row in results["rows"]}
    spread = (
        f"Mean ± standard deviation over {len(runs)} runs (seeds and chains)."
        if len(runs) > 1
        else "One run: there is no spread over seeds to show."
    )
    measure = measures.of(results)
    return [
        f"{measure.sentence} {spread}",
        *(f"The {name} is that of the last stage." for name in measure.beside(results["rows"]).values()),
        f"'to {REFERENCE}' is the method's last stage minus that of {REFERENCE}, run by run; p is Wilcoxon's "
        f"signed-rank test over the test cases ({measure.single}, each averaged over the runs), not corrected for "
        "the number of methods: it speaks of these trained models, not of another seed.",
        "Target steps are gradient steps on the target's training cases: adaptation plus fine-tuning; seconds "
        "are the target's, scoring included.",
        *_disjoint(results),
    ]


def markdown(results: Results) -> str:
    """The page `results.md`: the table, what failed, scores by label, merges without a source, forgetting and more."""
    lines = table(results)
    names = heading(lines)
    campaign = results["campaign"].get("campaign", results["campaign"])
    parts = [
        f"# Results of the campaign {campaign.get('name', '')}".rstrip(),
        _grid(names, [cells(line, names) for line in lines]),
        "\n".join(f"- {sentence}" for sentence in (*failures(lines), *remarks(results))),
        "\n".join(legend(results)),
        _titled(f"{measures.of(results).name} by label, last stage", labels(results)),
        _titled("Merges without one of their sources", leaving.table(results)),
        _titled(f"Forgetting: {measures.of(results).name} on each source's own task", forgetting(results)),
        "\n".join(f"![{name}]({file})" for name, (file, _) in FIGURES.items()),
        _titled("Traffic", traffic(results)),
        "## Environment\n\n" + "\n".join(f"- {name}: {value}" for name, value in results["environment"].items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def write(results: Results, out: Path) -> list[Path]:
    """Write `results.json`, `results.md` and the three figures into the folder `out`.

    Returns:
        the paths, `results.json` first.

    Raises:
        DataError: the results do not have the form; nothing is written.
    """
    texts = {"results.json": to_json(results), "results.md": markdown(results)}
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        whole.write(out / name, text)
    for file, draw in FIGURES.values():
        figures.save(draw(results), out / file)
    return [out / file for file in (*texts, *(file for file, _ in FIGURES.values()))]


def _spread(values: Sequence[float], form: str = ".3f") -> str:
    if not values:
        return "–"
    mean, sd = evaluation.spread(values)
    return f"{mean:{form}}" if len(values) == 1 else f"{mean:{form}} ± {sd:.3f}"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _grid(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _titled(title: str, table: Table) -> str:
    names, body = table
    return f"## {title}\n\n{_grid(names, body)}" if body else ""


def labels(results: Results) -> Table:
    """The score of each label at the last stage, over the cases; then the mean over runs."""
    measure = measures.of(results)
    known: dict[str, None] = {}
    lines: list[tuple[str, dict[str, list[float]]]] = []
    groups = grouped(results["rows"])
    several = len({key[:2] for key in groups}) > 1
    for (target, target_cases, method), rows in groups.items():
        found: dict[str, list[float]] = {}
        for row in last_stage(rows).values():
            for label, value in measure.labels(row["cases"]).items():
                if value is not None:
                    found.setdefault(label, []).append(value)
        known.update(dict.fromkeys(found))
        lines.append((f"{method} ({target}, {target_cases} cases)" if several else method, found))
    if not known:
        return ["method"], []
    return ["method", *known], [[name, *(_spread(found.get(label, ())) for label in known)] for name, found in lines]


def forgetting(results: Results) -> Table:
    """The score of each model's body, with a source's own heads and norms, on that source's task."""
    found: dict[tuple[str, str], list[float]] = {}
    for record in results["forgetting"]:
        if (value := measures.number(record)) is not None:
            weights = f"{record['weights']} ({record['target']})" if "target" in record else record["weights"]
            found.setdefault((weights, record["task"]), []).append(value)
    tasks = list(dict.fromkeys(task for _, task in found))
    names = list(dict.fromkeys(name for name, _ in found))
    return ["weights", *tasks], [[name, *(_spread(found.get((name, task), ())) for task in tasks)] for name in names]


def _disjoint(results: Results) -> list[str]:
    """Where training and test cases might be the same patient's, as far as the sites know."""
    blind = [site["name"] for site in results.get("sites", []) if site.get("disjoint_by") == "case"]
    if not blind:
        return []
    return [
        f"Cases are disjoint, patients cannot be shown to be: the names of cases tell no patients at "
        f"{', '.join(blind)}."
    ]


def traffic(results: Results) -> Table:
    """Messages and bytes by sender, receiver and purpose."""
    totals: dict[tuple[str, str, str], tuple[int, int]] = {}
    for line in results["traffic"]:  # a line is one message, or says how many it sums up
        key = (line["from"], line["to"], line["what"])
        messages, size = totals.get(key, (0, 0))
        totals[key] = (messages + line.get("messages", 1), size + line["bytes"])
    body = [[*key, str(messages), f"{size:,}"] for key, (messages, size) in totals.items()]
    return ["from", "to", "what", "messages", "bytes"], body
