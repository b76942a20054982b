"""The figures of a run: learning curves, mixing ratios by layer, paired differences to T-IMM.

Drawn without pyplot, so that a server thread may draw. Colours are Okabe and Ito's, which colour-blind
readers tell apart; where lines share a panel, their dashes differ as well. Every run is shown, not only the
mean.
"""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.typing import LineStyleType
from numpy.typing import NDArray

from fedmerge import evaluation
from fedmerge.comparison import REFERENCE, Row, RunKey, case_means, grouped, last_stage
from fedmerge.results import STAGES, Results

INK, GREY, PALE = "#222222", "#767676", "#d9d9d9"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES: tuple[LineStyleType, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
DOTS: LineStyleType = (0, (1, 2))
NOTES = {"mean": 1.09, "cases ahead": 1.24, "p": 1.36}  # columns right of the paired differences
TOGETHER = 5  # so many methods share a panel; more get a panel each, beside T-IMM

Curve = tuple[NDArray[np.int64], NDArray[np.float64]]
Part = tuple[str, int]  # target, target_cases


def save(figure: Figure, path: Path) -> None:
    """Write the figure as PNG, whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    figure.savefig(part, format="png", dpi=150, bbox_inches="tight", facecolor="white")
    part.replace(path)


def learning_curves(results: Results) -> Figure:
    """Validation Dice against the target's steps: thin lines are runs, thick lines their mean."""
    panels = []
    parts = _by_part(results)
    for part, methods in parts.items():
        curves = {method: found for method, rows in methods.items() if (found := _curves(rows))}
        panels += _curve_panels(part, curves, several=len(parts) > 1) if curves else []
    if not panels:
        return _sentence("No row has a learning curve.")
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
        _draw_curves(ax, curves, title, _adaptation_steps(results), legend=wide)
        if i % columns == 0:
            ax.set_ylabel("validation Dice", fontsize=9, color=INK)
        if i + columns >= len(panels):
            ax.set_xlabel("target steps", fontsize=9, color=INK)
            ax.tick_params(labelbottom=True)
    key = _curve_key(results, wide)
    if key:
        figure.legend(handles=key, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def ratios(results: Results) -> Figure:
    """Mixing ratio of each layer, a line a site: the mean over runs, the band from the lowest to the highest.

    With a ratio for each kernel, the band runs from the 5th to the 95th percentile of kernels and runs.
    """
    panels: dict[tuple[str, str, int], list[Row]] = {}
    for fitted in results["ratios"]:
        key = (fitted["method"], fitted["target"], fitted["target_cases"])
        panels.setdefault(key, []).append(fitted)
    panels = {key: fits for key, fits in panels.items() if fits[0]["groups"]}
    if not panels:
        return _sentence("No method of this run has mixing ratios.")
    longest = max(len(fits[0]["groups"]) for fits in panels.values())
    width = min(max(0.26 * longest + 2.0, 6.0), 16.0)
    figure = Figure(figsize=(width, 2.3 * len(panels) + 1.4), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharey=True, squeeze=False)[:, 0]
    several = len({key[1:] for key in panels}) > 1
    same = len({tuple(fits[0]["groups"]) for fits in panels.values()}) == 1
    for i, (ax, ((method, target, cases), fits)) in enumerate(zip(axes, panels.items())):
        title = f"{method}, {target}, {cases} cases" if several else method
        _draw_ratios(ax, fits, title, width, names=i == len(panels) - 1 or not same)
        ax.set_ylabel("mixing ratio", fontsize=9, color=INK)
        if i == 0:
            ax.legend(loc="upper left", bbox_to_anchor=(1.005, 1.0), frameon=False, fontsize=9, handlelength=3)
    return figure


def paired(results: Results) -> Figure:
    """Dice of each test case minus that of T-IMM: a dot a case, a box for the quartiles, a diamond a run."""
    panels = []
    for part, methods in _by_part(results).items():
        reference = last_stage(methods.get(REFERENCE, []))
        others = [
            (method, found)
            for method, rows in methods.items()
            if method != REFERENCE and (found := _differences(last_stage(rows), reference)) is not None
        ]
        if others:
            panels.append((part, others))
    if not panels:
        return _sentence(f"No method can be paired with {REFERENCE}: it has no finished row beside another's.")
    heights = [0.42 * len(others) + 0.9 for _, others in panels]
    figure = Figure(figsize=(8.2, sum(heights) + 0.3), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for ax, ((target, cases), others) in zip(axes, panels):
        _draw_paired(ax, others)
        if len(panels) > 1:
            ax.set_title(f"{target}, {cases} training cases", fontsize=9, loc="left", color=INK)
    several_runs = any(len(by_run) > 1 for _, others in panels for _, (_, by_run, _) in others)
    axes[-1].set_xlabel(
        f"Dice minus that of {REFERENCE}, same test case\n"
        "dot: a test case, mean over runs; box: quartiles and median; whiskers: 5 to 95 %"
        + ("; diamond: a run" if several_runs else ""),
        fontsize=8,
        color=INK,
    )
    return figure


def _by_part(results: Results) -> dict[Part, dict[str, list[Row]]]:
    """(target, target_cases) -> method -> rows."""
    parts: dict[Part, dict[str, list[Row]]] = {}
    for (target, cases, method), rows in grouped(results["rows"]).items():
        parts.setdefault((target, cases), {})[method] = rows
    return parts


def _curves(rows: Iterable[Row]) -> list[Curve]:
    """One curve a run: the points of its stages, those of a later stage where two have the same step."""
    points: dict[RunKey, dict[int, float]] = {}
    for row in sorted(rows, key=lambda row: STAGES.index(row["stage"])):
        known = [(step, dice) for step, dice in row["curve"] if dice is not None]
        points.setdefault((row["seed"], row["chain"]), {}).update(known)
    return [
        (np.array(sorted(found)), np.array([found[step] for step in sorted(found)]))
        for found in points.values()
        if found
    ]


def _mean_curve(curves: Sequence[Curve]) -> Curve:
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
    part: Part, methods: Mapping[str, list[Curve]], *, several: bool
) -> list[tuple[str, dict[str, list[Curve]]]]:
    """Title and curves of each panel: all methods in one, or one method each beside T-IMM."""
    target, cases = part
    if len(methods) <= TOGETHER:
        return [(f"{target}, {cases} training cases", dict(methods))]
    reference = {m: curves for m, curves in methods.items() if m == REFERENCE}
    where = f", {target}, {cases} cases" if several else ""
    return [(m + where, {**reference, m: curves}) for m, curves in methods.items() if m != REFERENCE]


def _curve_key(results: Results, wide: bool) -> list[Line2D]:
    """What the kinds of lines mean; the names of the methods stand at the panels."""
    known = any(row["method"] == REFERENCE for row in results["rows"])
    key = []
    if not wide:
        ours = Line2D([], [], color=COLOURS[0], linestyle=DASHES[1], linewidth=2.0, label="the panel's method")
        key += [ours, Line2D([], [], color=INK, linewidth=2.0, label=REFERENCE)][: 1 + known]
    if len({(row["seed"], row["chain"]) for row in results["rows"]}) > 1:
        key.append(Line2D([], [], color=GREY, linewidth=0.7, label="a run (thick: mean)"))
    if _adaptation_steps(results) is not None:
        key.append(Line2D([], [], color=GREY, linestyle=DOTS, linewidth=0.9, label="end of adaptation"))
    return key


def _draw_curves(
    ax: Axes, methods: Mapping[str, list[Curve]], title: str, adapted: int | None, *, legend: bool
) -> None:
    colours, dashes = iter(COLOURS), iter(DASHES[1:])
    ends = []
    for method, curves in methods.items():
        colour, dash = (INK, "-") if method == REFERENCE else (next(colours), next(dashes))
        for steps, dice in curves if len(curves) > 1 else ():
            ax.plot(steps, dice, color=colour, linewidth=0.7, alpha=0.4)
        steps, dice = _mean_curve(curves)
        ax.plot(steps, dice, color=colour, linestyle=dash, linewidth=2.0, label=method)
        ends.append(dice[-1] if len(dice) else 0.0)
    if adapted is not None:
        ax.axvline(adapted, color=GREY, linewidth=0.9, linestyle=DOTS, zorder=0)
    ax.set_title(title, fontsize=9, loc="left", color=INK)
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
    _plain(ax)


def _draw_ratios(ax: Axes, fits: Sequence[Row], title: str, width: float, *, names: bool) -> None:
    sites: Sequence[str] = fits[0]["sites"]
    layers = list(fits[0]["groups"])
    x = np.arange(len(layers))
    kernel = fits[0]["grain"] == "kernel"
    ax.axhline(1 / len(sites), color=GREY, linewidth=0.8, linestyle=DOTS, zorder=0)
    for t, site in enumerate(sites):
        values = [np.concatenate([np.atleast_1d(fit["groups"][layer][t]) for fit in fits]) for layer in layers]
        colour, dash = COLOURS[t % len(COLOURS)], DASHES[(t + t // len(COLOURS)) % len(DASHES)]
        low, high = (5, 95) if kernel else (0, 100)
        bounds = np.array([np.percentile(v, [low, high]) for v in values]).T
        means = [v.mean() for v in values]
        if len(layers) == 1:
            ax.errorbar(t, means[0], abs(bounds - means[0]), color=colour, marker="o", capsize=4, label=site)
        else:
            ax.fill_between(x, *bounds, color=colour, alpha=0.22, linewidth=0)
            ax.plot(x, means, color=colour, linestyle=dash, linewidth=1.6, marker="o", markersize=3, label=site)
    spread = "band: 5th to 95th percentile of kernels" if kernel else "band: lowest to highest run"
    ax.set_title(f"{title} ({spread})" if kernel or len(fits) > 1 else title, fontsize=9, loc="left", color=INK)
    ax.set_ylim(0, 1)
    if len(layers) == 1:
        ax.set_xticks(range(len(sites)), sites)
        ax.set_xlim(-0.6, len(sites) - 0.4)
    else:
        stride = max(1, -(-len(layers) // int((width - 1.5) / 0.16)))
        shown = x[::stride]
        ax.set_xticks(shown, [layers[i] for i in shown] if names else [], rotation=90, fontsize=7)
        ax.set_xlim(-0.6, len(layers) - 0.4)
    _plain(ax)


def _differences(
    rows: Mapping[RunKey, Row], reference: Mapping[RunKey, Row]
) -> tuple[NDArray[np.float64], list[float], evaluation.Paired] | None:
    """Differences by case (mean over runs), their mean by run, and the test; None if no case is shared."""
    both = [run for run in rows if run in reference]
    ours, theirs = case_means(rows[run] for run in both), case_means(reference[run] for run in both)
    cases = [case for case in ours if case in theirs]
    if not cases:
        return None
    by_run = []
    for run in both:
        a, b = case_means([rows[run]]), case_means([reference[run]])
        shared = [a[case] - b[case] for case in a if case in b]
        if shared:
            by_run.append(float(np.mean(shared)))
    return np.array([ours[case] - theirs[case] for case in cases]), by_run, evaluation.paired(ours, theirs)


def _draw_paired(
    ax: Axes, others: Sequence[tuple[str, tuple[NDArray[np.float64], list[float], evaluation.Paired]]]
) -> None:
    ax.axvline(0, color=INK, linewidth=1.0, zorder=0)
    for y, (_, (cases, by_run, test)) in enumerate(others):
        spread = np.random.default_rng(0).uniform(-0.22, 0.22, len(cases))  # only keeps dots apart
        ax.scatter(cases, y + spread, s=9, color=COLOURS[0], alpha=0.4, linewidths=0, zorder=2)
        ax.boxplot(
            [cases],
            positions=[y],
            orientation="horizontal",
            widths=0.62,
            showfliers=False,
            whis=(5, 95),
            boxprops={"color": GREY},
            whiskerprops={"color": GREY},
            capprops={"color": GREY},
            medianprops={"color": INK, "linewidth": 1.4},
        )
        if len(by_run) > 1:
            ax.scatter(by_run, [y] * len(by_run), s=26, marker="D", color=COLOURS[1], zorder=3, edgecolors="white")
        p = "" if test.p is None else ("< 0.001" if test.p < 0.001 else f"{test.p:.3f}")
        mean = f"{test.mean_difference:+.3f}".replace("-", "\u2212")
        for x, text in zip(NOTES.values(), (mean, f"{test.wins} of {test.n}", p)):
            ax.text(x, y, text, transform=ax.get_yaxis_transform(), va="center", ha="right", fontsize=8, color=INK)
    for name, x in NOTES.items():
        ax.text(
            x,
            -0.75,
            name,
            transform=ax.get_yaxis_transform(),
            va="bottom",
            ha="right",
            fontsize=8,
            color=GREY,
        )
    ax.set_yticks(range(len(others)), [method for method, _ in others])
    ax.set_ylim(len(others) - 0.4, -0.6)
    _plain(ax)


def _plain(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    ax.tick_params(colors=GREY, labelcolor=INK, labelsize=8)
    ax.grid(axis="both", color=PALE, linewidth=0.5)
    ax.set_axisbelow(True)


def _sentence(text: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    figure = Figure(figsize=(6.0, 1.2))
    figure.text(0.5, 0.5, textwrap.fill(text, 70), ha="center", va="center", fontsize=10, color=INK)
    return figure
