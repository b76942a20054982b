"""Paired differences to one method, case by case."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fedmerge import evaluation, measures
from fedmerge.comparison import REFERENCE, Row, RunKey, case_means, last_stage
from fedmerge.figures import style
from fedmerge.results import Results

NOTES = {"mean": 1.09, "cases ahead": 1.24, "p": 1.36}  # columns right of the paired differences


def draw(results: Results, reference: str = REFERENCE, key: str = "") -> Figure:
    """Each test case's score minus that of the reference: a dot a case, a box for the quartiles, a diamond a run.

    Args:
        results: of a run.
        reference: the method that the others are compared with.
        key: of what was measured besides (`measures.EXTRAS`), in place of the score.
    """
    panels = []
    for part, methods in style.by_part(results).items():
        theirs = last_stage(methods.get(reference, []))
        others = [
            (method, found)
            for method, rows in methods.items()
            if method != reference and (found := _differences(last_stage(rows), theirs, key)) is not None
        ]
        if others:
            panels.append((part, others))
    if not panels:
        return style.sentence(f"No method can be paired with {reference}: it has no finished row beside another's.")
    heights = [0.42 * len(others) + 0.9 for _, others in panels]
    figure = Figure(figsize=(8.2, sum(heights) + 0.3), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for ax, ((target, cases), others) in zip(axes, panels):
        _draw_paired(ax, others)
        if len(panels) > 1:
            ax.set_title(f"{target}, {cases} training cases", fontsize=9, loc="left", color=style.INK)
    several_runs = any(len(by_run) > 1 for _, others in panels for _, (_, by_run, _) in others)
    axes[-1].set_xlabel(
        f"{measures.EXTRAS.get(key, measures.of(results).single)} minus that of {reference}, same test case\n"
        "dot: a test case, mean over runs; box: quartiles and median; whiskers: 5 to 95 %"
        + ("; diamond: a run" if several_runs else ""),
        fontsize=8,
        color=style.INK,
    )
    return figure


def _differences(
    rows: Mapping[RunKey, Row], reference: Mapping[RunKey, Row], key: str
) -> tuple[NDArray[np.float64], list[float], evaluation.Paired] | None:
    """Differences by case (mean over runs), their mean by run, and the test; None if no case is shared.

    The test counts where a method is ahead: with a lower number, where that is better.
    """
    both = [run for run in rows if run in reference]
    ours, theirs = (case_means((side[run] for run in both), key) for side in (rows, reference))
    cases = [case for case in ours if case in theirs]
    if not cases:
        return None
    by_run = []
    for run in both:
        a, b = case_means([rows[run]], key), case_means([reference[run]], key)
        shared = [a[case] - b[case] for case in a if case in b]
        if shared:
            by_run.append(float(np.mean(shared)))
    test = evaluation.paired(ours, theirs)
    if key in measures.LOWER:
        test = replace(test, wins=evaluation.paired(theirs, ours).wins)
    return np.array([ours[case] - theirs[case] for case in cases]), by_run, test


def _draw_paired(
    ax: Axes, others: Sequence[tuple[str, tuple[NDArray[np.float64], list[float], evaluation.Paired]]]
) -> None:
    ax.axvline(0, color=style.INK, linewidth=1.0, zorder=0)
    for y, (_, (cases, by_run, test)) in enumerate(others):
        spread = np.random.default_rng(0).uniform(-0.22, 0.22, len(cases))  # only keeps dots apart
        ax.scatter(cases, y + spread, s=9, color=style.COLOURS[0], alpha=0.4, linewidths=0, zorder=2)
        ax.boxplot(
            [cases],
            positions=[y],
            orientation="horizontal",
            widths=0.62,
            showfliers=False,
            whis=(5, 95),
            boxprops={"color": style.GREY},
            whiskerprops={"color": style.GREY},
            capprops={"color": style.GREY},
            medianprops={"color": style.INK, "linewidth": 1.4},
        )
        if len(by_run) > 1:
            ax.scatter(
                by_run, [y] * len(by_run), s=26, marker="D", color=style.COLOURS[1], zorder=3, edgecolors="white"
            )
        p = "" if test.p is None else ("< 0.001" if test.p < 0.001 else f"{test.p:.3f}")
        mean = f"{test.mean_difference:+.3f}".replace("-", "\u2212")
        for x, text in zip(NOTES.values(), (mean, f"{test.wins} of {test.n}", p)):
            ax.text(
                x, y, text, transform=ax.get_yaxis_transform(), va="center", ha="right", fontsize=8, color=style.INK
            )
    for name, x in NOTES.items():
        ax.text(
            x,
            -0.75,
            name,
            transform=ax.get_yaxis_transform(),
            va="bottom",
            ha="right",
            fontsize=8,
            color=style.GREY,
        )
    ax.set_yticks(range(len(others)), [method for method, _ in others])
    ax.set_ylim(len(others) - 0.4, -0.6)
    style.plain(ax)
