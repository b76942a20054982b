"""The chapters of a run's page, in its order, each out of the results and of what is known besides."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from typing import Any

from matplotlib.figure import Figure

from fedmerge import comparison, figures, leaving, measures, report
from fedmerge.comparison import REFERENCE, Fits, Mixed, Row
from fedmerge.figures.style import by_part
from fedmerge.pages import markup, net, scores, timeline, verdict, viewer
from fedmerge.pages.around import Around
from fedmerge.pages.verdict import Part
from fedmerge.results import Results


@dataclass(frozen=True)
class Chapter:
    """A part of the page: its anchor, its name in the list at the top, its heading (HTML) and its text (HTML)."""

    name: str
    short: str
    title: str
    body: str
    folded: bool = False


def _verdict(results: Results, around: Around) -> list[Chapter]:
    parts = verdict.parts(results)
    blocks = []
    for part in parts:
        head = f"<h3>{escape(_where(part))}</h3>" if len(parts) > 1 else ""
        told = "".join(f"<p>{escape(markup.minus(sentence))}</p>" for sentence in verdict.sentences(results, part))
        blocks.append(f'{head}<div class="sentences">{told}</div>')
    return [Chapter("verdict", "Verdict", "Verdict", "".join(blocks))]


def _timeline(results: Results, _: Around) -> list[Chapter]:
    names, rows = report.traffic(results)
    moved = markup.table(names, rows, left=3, name="traffic") if rows else ""
    words = timeline.table(results)
    body = timeline.draw(results)
    body += f"<details><summary>The same in words and figures</summary>{words}</details>" if words else ""
    body += f"<details><summary>What moved, message by message</summary>{moved}</details>" if moved else ""
    return [Chapter("campaign", "Campaign", "Who did what, and when", body)]


def _scores(results: Results, _: Around) -> list[Chapter]:
    parts = verdict.parts(results)
    blocks = []
    for part in parts:
        head = f"<h3>{escape(_where(part))}</h3>" if len(parts) > 1 else ""
        blocks.append(head + scores.table(results, part))
    said = markup.sentences([*report.failures(report.table(results)), *_remarks(results)])
    legend = "".join(f"<p>{escape(sentence)}</p>" for sentence in scores.legend(results))
    names, rows = report.labels(results)
    name = measures.of(results).name
    by_label = markup.table(names, rows, name=f"{name} by label") if rows else ""
    body = "".join(blocks) + said + f"<details open><summary>How to read this</summary>{legend}</details>"
    body += f"<details><summary>Before, between and after the trainings</summary>{scores.stages(results)}</details>"
    body += f"<details><summary>{name} by label, last stage</summary>{by_label}</details>" if rows else ""
    one = parts[0] if len(parts) == 1 else None
    return [Chapter("scores", "Scores", f"Scores{': ' + escape(_where(one)) if one else ''}", body)]


def _remarks(results: Results) -> list[str]:
    """Those of the report, but what the chapter on privacy says."""
    return report.remarks({**results, "privacy": []})


def _drawn(
    name: str, short: str, title: str, draw: Callable[[Results], Figure]
) -> Callable[[Results, Around], list[Chapter]]:
    """A chapter with a figure of matplotlib for each target and number of cases."""

    def make(results: Results, _: Around) -> list[Chapter]:
        blocks = []
        for i, (target, cases) in enumerate(by_part(results)):
            rows = [row for row in results["rows"] if (row["target"], row["target_cases"]) == (target, cases)]
            if any(row["curve"] or row["cases"] for row in rows):
                blocks.append(markup.figure(draw({**results, "rows": rows}), f"{name}{i}"))
        return [Chapter(name, short, title, "".join(blocks))]

    return make


def _besides(results: Results) -> dict[str, str]:
    """What was measured beside the score: key -> name."""
    names = measures.of(results).beside(case for row in results["rows"] for case in row["cases"])
    return {key: name for key, name in names.items() if key in measures.EXTRAS}


def _differences(results: Results, around: Around) -> list[Chapter]:
    """Of the score, and folded below it of what was measured besides."""
    title = "Differences, test case by test case"
    found = _drawn("differences", "Case by case", title, figures.paired)(results, around)
    for k, (key, name) in enumerate(_besides(results).items()):
        own = _drawn(f"besides{k}x", "", "", partial(figures.paired, key=key))(results, around)
        fold = f"<details><summary>The same of {escape(name)}</summary>{own[0].body}</details>"
        found = [replace(one, body=one.body + fold) for one in found]
    return found


def _ratios(results: Results, _: Around) -> list[Chapter]:
    fits, sites = comparison.fits(results), comparison.mixed(results)
    if not fits:
        return []
    layers, why = net.of(results)
    several = len({key[1:3] for key in fits}) > 1
    divided = [key[:3] for key in fits]
    blocks = []
    for i, ((method, target, cases, mixed), own) in enumerate(_fitted_first(fits)):
        title = f"{escape(method)}{f', {escape(_where((target, cases)))}' if several else ''}"
        if divided.count((method, target, cases)) > 1:
            title += f" of {escape(' and '.join(mixed))}"
        grain = GRAINS[own[0]["grain"]]
        drawing = net.draw(layers, own, sites) + net.key(mixed, sites) if layers else ""
        table = f"<details><summary>The same as figures</summary>{net.table(own)}</details>"
        inner = f'<p class="quiet">{grain}, mean over {len(own)} run{"s" * (len(own) > 1)}</p>{drawing}{table}'
        blocks.append(f"<details{' open' * (i == 0)}><summary><h3>{title}</h3></summary>{inner}</details>")
    note = f'<p class="quiet">There is no drawing of the net: {escape(why)}.</p>' if why else ""
    intro = (
        "<p>Each bar is a layer of the target's net, in the order in which the net computes, at the level of its size. "
        "It is divided as the sources' filters are mixed; a ratio says how much of a source there is, and not how good "
        "that source is.</p>"
    )
    return [Chapter("ratios", "Mixing ratios", "Mixing ratios, layer by layer", intro + note + "".join(blocks))]


GRAINS = {
    "model": "One ratio for the whole model",
    "layer": "A ratio a layer",
    "kernel": "A ratio a kernel, of which a bar shows the mean",
}


def _fitted_first(fits: Fits) -> list[tuple[Mixed, list[Row]]]:
    """Equal shares have the least to show, so they come last; T-IMM comes first."""

    def key(item: tuple[Mixed, list[Row]]) -> tuple[bool, bool]:
        share = 1 / len(item[1][0]["sites"])
        flat = [v for fit in item[1] for values in fit["groups"].values() for v in values]
        equal = all(isinstance(v, float | int) and abs(v - share) < 1e-6 for v in flat)
        return equal, item[0][0] != REFERENCE

    return sorted(fits.items(), key=key)


def _images(results: Results, around: Around) -> list[Chapter]:
    images = around.images
    if images is None:
        return []
    if images.pictures is not None:
        body = f'<p class="quiet">{escape(images.run)}</p>' + markup.figure(images.pictures, "pictures")
        return [Chapter("cases", "Images", "Test images", body)]
    if images.packed is None:
        return []
    methods = list(images.methods)
    chosen = verdict.subject(methods, str(results["campaign"].get("campaign", {}).get("method", "")))
    other = next((m for m in (verdict.SCRATCH, *methods) if m in methods and m != chosen), chosen)
    sentences = [images.run, f"Cases stand from the lowest score of {chosen} to its highest."]
    if images.packed.stride > 1:
        sentences.append("To keep the page small, every second voxel a side is shown; scores are of all voxels.")
    if images.packed.without:
        left = len(images.packed.without)
        sentences.append(
            f"{left} of {left + len(images.packed.cases)} test cases had no room; those that are shown stand evenly "
            f"over the scores of {chosen}."
        )
    intro = f'<p class="quiet">{escape(" ".join(sentences))}</p>'
    names = {measures.of(results).key: measures.of(results).single, **_besides(results)}
    body = viewer.part(images.packed, methods, images.labels, names, (other, chosen), niivue=around.niivue)
    return [Chapter("cases", "Images", f"Test cases at {escape(images.site)}", intro + body)]


def _forgetting(results: Results, _: Around) -> list[Chapter]:
    name = measures.of(results).name
    names, rows = report.forgetting(results)
    found = []
    if rows:
        note = (
            f"<p>{name} of each body on the sources' own tasks, with the source's own heads and norms. A source's own "
            "body stands at the top: what is lower has forgotten something.</p>"
        )
        found.append(
            Chapter("forgetting", "Forgetting", "Forgetting", note + markup.table(names, rows, name="forgetting"))
        )
    names, rows = leaving.table(results)
    if rows:
        body = "<p>What each merge would be without one of its sources, by the target's validation cases.</p>"
        body += markup.table(names, rows, left=3, name="merges without a source")
        found.append(Chapter("leaving", "Sources", "Merges without one of their sources", body))
    return found


def _privacy(results: Results, around: Around) -> list[Chapter]:
    campaign = results["campaign"].get("campaign", {})
    trust = campaign.get("trust")
    way = (trust, campaign.get("fit")) if trust == "server" else (trust,)
    lines = [TRUST[way]] if way in TRUST else []
    for one in results.get("privacy", []):
        models = len(one["trainings"])
        lines.append(f"{one['site']}, {models} model{'s' * (models != 1)}: {one['sentence']}")
    if results.get("privacy") == []:  # where the key is missing, nothing is known
        lines.append("No source trained with differential privacy: nothing bounds what its model tells of one patient.")
    body = markup.sentences(lines)
    if around.heads:
        body += "<h3>Audit logs</h3>" + markup.sentences(around.heads)
    return [Chapter("privacy", "Privacy", "Privacy", body)]


TRUST: dict[tuple[Any, ...], str] = {
    ("server", "near"): "The server and the target could read the sources' models.",
    ("server", "far"): "The server could read the sources' models; the target saw merged weights only.",
    ("target",): "The sources' models were sealed: the target could read them, the server could not.",
    ("group",): "The sources' models were summed under masks: the target could read the sum of each group only.",
}


def _environment(results: Results, _: Around) -> list[Chapter]:
    rows = [[name, str(value)] for name, value in results["environment"].items()]
    return [Chapter("environment", "Environment", "Environment", markup.table(["", ""], rows, left=2), folded=True)]


def _where(part: Part) -> str:
    return f"{part[0]}, {part[1]} training case{'s' * (part[1] != 1)}"


CHAPTERS: tuple[Callable[[Results, Around], list[Chapter]], ...] = (
    _verdict,
    _timeline,
    _scores,
    _drawn("curves", "Learning curves", "Learning curves", figures.learning_curves),
    _ratios,
    _differences,
    _images,
    _forgetting,
    _privacy,
    _environment,
)
