"""A few test cases as slices with contours: what is annotated, and what each method found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fedmerge.comparison import Row, case_means, last_stage
from fedmerge.figures import style

QUANTILES = (0.1, 0.5, 0.9)
COLUMNS = 6  # methods that are shown beside the annotation


@dataclass(frozen=True, eq=False)
class Slice:
    """One case, cut where most of its labels are seen.

    Attributes:
        case: its id.
        image: (A, B) intensities.
        truth: (A, B) labels 0..K.
        found: method -> (A, B) labels 0..K.
        dice: method -> mean Dice of the whole case.
        aspect: voxel size along B over that along A.
    """

    case: str
    image: NDArray[Any]
    truth: NDArray[Any]
    found: Mapping[str, NDArray[Any]]
    dice: Mapping[str, float]
    aspect: float = 1.0


def choose(rows: Sequence[Row]) -> dict[str, float]:
    """The cases at the tenth, half and ninth tenth of one run's Dice: neither the best nor the worst are picked.

    Args:
        rows: of one method, seed and chain.

    Returns:
        case -> its Dice, from the lowest.
    """
    scores = sorted(case_means(last_stage(rows).values()).items(), key=lambda one: (one[1], one[0]))
    at = dict.fromkeys(round(q * (len(scores) - 1)) for q in QUANTILES) if scores else {}
    return {scores[i][0]: scores[i][1] for i in at}


def shown(methods: Sequence[str], reference: str) -> list[str]:
    """The methods that have a column: the first ones, and the reference in any case."""
    first = [method for method in methods if method != reference][: COLUMNS - 1]
    return [method for method in methods if method in first or method == reference]


def cut(truth: NDArray[Any]) -> tuple[int, int]:
    """(axis, index) of the slice with most labels, and among those the largest area of them.

    Args:
        truth: (X, Y, Z) labels 0..K.
    """
    best, place = (-1, -1), (2, truth.shape[2] // 2)
    for axis in range(3):
        for i in range(truth.shape[axis]):
            plane = truth.take(i, axis)
            seen = (len(np.unique(plane[plane > 0])), int((plane > 0).sum()))
            if seen > best:
                best, place = seen, (axis, i)
    return place


def draw(slices: Sequence[Slice], labels: Sequence[str]) -> Figure:
    """A row a case, a column a method, the annotation first.

    Args:
        slices: at least one; the methods of the first have the columns.
        labels: the names of 1..K.
    """
    methods = list(slices[0].found)
    ratio = max(one.image.shape[1] * one.aspect / one.image.shape[0] for one in slices)
    size = (1.55 * (len(methods) + 1), len(slices) * (1.5 * min(ratio, 2.0) + 0.35) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(slices), len(methods) + 1, squeeze=False)
    for row, one in zip(axes, slices):
        _panel(row[0], one, one.truth, f"{one.case}\nannotated" if len(one.case) < 24 else "annotated")
        for ax, method in zip(row[1:], methods):
            score = one.dice.get(method)
            title = method if score is None else f"{method}\n{score:.3f}"
            _panel(ax, one, one.found.get(method), title)
    lines = [axes[0][0].plot([], [], color=_colour(k), linewidth=1.6, label=name)[0] for k, name in enumerate(labels)]
    figure.legend(handles=lines, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def _panel(ax: Axes, one: Slice, found: NDArray[Any] | None, title: str) -> None:
    low, high = np.percentile(one.image, [1, 99])
    ax.imshow(one.image.T, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower", aspect=one.aspect)
    for k in range(int(one.truth.max()) if found is not None else 0):
        if found is not None and (found == k + 1).any():
            inside = np.pad((found == k + 1).T.astype(float), 1)  # so that contours close at the image's edge
            at = [np.arange(-1, size - 1) for size in inside.shape[::-1]]
            ax.contour(*at, inside, levels=[0.5], colors=[_colour(k)], linewidths=1.4)
    ax.set_title(title, fontsize=7, color=style.INK)
    ax.set_axis_off()


def _colour(k: int) -> str:
    return style.COLOURS[(4, 5, 3, 1, 2, 0)[k % 6]]
