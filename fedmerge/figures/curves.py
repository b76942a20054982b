"""Learning curves: the validation score against the target's steps. Every run is shown, not only the mean."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from fedmerge import measures
from fedmerge.comparison import REFERENCE, Row, RunKey
from fedmerge.figures import style
from fedmerge.results import STAGES, Results

TOGETHER = 5  # so many methods share a panel; more get a panel each, beside T-IMM

Curve = tuple[NDArray[np.int64], NDArray[np.float64]]


def draw(results: Results, reference: str = REFERENCE) -> Figure:
    """The validation score against the target's steps: thin lines are runs, thick lines their mean."""
    panels = []
    parts = style.by_part(results)
    for part, methods in parts.items():
        curves = {method: found for method, rows in methods.items() if (found := _curves(rows))}
        panels += _curve_panels(part, curves, reference, several=len(parts) > 1) if curves else []
    if not panels:
        return style.sentence("No row has a learning curve.")
    wide = max(len(curves) for _, curves in panels) > 2 or len(panels) == 1
    columns = 1 if wide else min(math.ceil(math.sqrt(len(panels))), 4)
    rows = -(-len(panels) // columns)
    size = (7.6, 3.6 * rows + 0.4) if wide else (3.0 * columns, 2.3 * rows + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for i, ax in enumerate(axes.flat):
        if i >= len(panels):
            ax.set_axis_off()
            continue
        title, curves = panels[i]
        _draw_curves(ax, curves, title, _adaptation_steps(results), reference, legend=wide)
        if i % columns == 0:
            ax.set_ylabel(f"validation {measures.of(results).name}", fontsize=9, color=style.INK)
        if i + columns >= len(panels):
            ax.set_xlabel("target steps", fontsize=9, color=style.INK)
            ax.tick_params(labelbottom=True)
    key = _curve_key(results, wide, reference)
    if key:
        figure.legend(handles=key, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def _curves(rows: Iterable[Row]) -> list[Curve]:
    """One curve a run: the points of its stages, those of a later stage where two have the same step."""
    points: dict[RunKey, dict[int, float]] = {}
    for row in sorted(rows, key=lambda row: STAGES.index(row["stage"])):
        known = [(step, score) for step, score in row["curve"] if score is not None]
        points.setdefault((row["seed"], row["chain"]), {}).update(known)
    return [
        (np.array(sorted(found)), np.array([found[step] for step in sorted(found)]))
        for found in points.values()
        if found
    ]


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean over runs, up to where the shortest run ends; between its points a run is a straight line."""
    steps = np.unique(np.concatenate([steps for steps, _ in curves]))
    first, last = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    steps = steps[(steps >= first) & (steps <= last)]
    return steps, np.mean([np.interp(steps, *curve) for curve in curves], axis=0)


def _adaptation_steps(results: Results) -> int | None:
    """Where adaptation ends, if it ends at the same step in every row that has it."""
    ends = {row["target_steps"] for row in results["rows"] if row["stage"] == "adapted" and row["target_steps"] > 0}
    return ends.pop() if len(ends) == 1 else None


def _curve_panels(
    part: style.Part, methods: Mapping[str, list[Curve]], reference: str, *, several: bool
) -> list[tuple[str, dict[str, list[Curve]]]]:
    """Title and curves of each panel: all methods in one, or one method each beside T-IMM."""
    target, cases = part
    if len(methods) <= TOGETHER:
        return [(f"{target}, {cases} training cases", dict(methods))]
    theirs = {m: curves for m, curves in methods.items() if m == reference}
    where = f", {target}, {cases} cases" if several else ""
    return [(m + where, {**theirs, m: curves}) for m, curves in methods.items() if m != reference]


def _curve_key(results: Results, wide: bool, reference: str) -> list[Line2D]:
    """What the kinds of lines mean; the names of the methods stand at the panels."""
    known = any(row["method"] == reference for row in results["rows"])
    key = []
    if not wide:
        ours = Line2D(
            [], [], color=style.COLOURS[0], linestyle=style.DASHES[1], linewidth=2.0, label="the panel's method"
        )
        key += [ours, Line2D([], [], color=style.INK, linewidth=2.0, label=reference)][: 1 + known]
    if len({(row["seed"], row["chain"]) for row in results["rows"]}) > 1:
        key.append(Line2D([], [], color=style.GREY, linewidth=0.7, label="a run (thick: mean)"))
    if _adaptation_steps(results) is not None:
        key.append(Line2D([], [], color=style.GREY, linestyle=style.DOTS, linewidth=0.9, label="end of adaptation"))
    return key


def _draw_curves(
    ax: Axes, methods: Mapping[str, list[Curve]], title: str, adapted: int | None, reference: str, *, legend: bool
) -> None:
    colours, dashes = iter(style.COLOURS), iter(style.DASHES[1:])
    ends = []
    for method, curves in methods.items():
        colour, dash = (style.INK, "-") if method == reference else (next(colours), next(dashes))
        for steps, scores in curves if len(curves) > 1 else ():
            ax.plot(steps, scores, color=colour, linewidth=0.7, alpha=0.4)
        steps, scores = mean_curve(curves)
        ax.plot(steps, scores, color=colour, linestyle=dash, linewidth=2.0, label=method)
        ends.append(scores[-1] if len(scores) else 0.0)
    if adapted is not None:
        ax.axvline(adapted, color=style.GREY, linewidth=0.9, linestyle=style.DOTS, zorder=0)
    ax.set_title(title, fontsize=9, loc="left", color=style.INK)
    if legend:
        handles, labels = ax.get_legend_handles_labels()
        order = np.argsort(ends)[::-1]  # as the lines end, from the top
        ax.legend(
            [handles[i] for i in order],
            [labels[i] for i in order],
            loc="upper left",
            bbox_to_anchor=(1.01, 1.0),
            frameon=False,
            fontsize=9,
            handlelength=3,
        )
    style.plain(ax)
