"""A few test images of a classification: what each is, and what the methods took it for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fedmerge.comparison import Row, last_stage
from fedmerge.figures import style

MOST = 10
COLUMNS = 5


@dataclass(frozen=True, eq=False)
class Sample:
    """One test image.

    Attributes:
        case: its id.
        image: (C, rows, columns) intensities; C is 1 (grey) or 3 (red, green and blue).
        truth: its class.
        found: method -> the class it was taken for, and its probability where that was kept.
    """

    case: str
    image: NDArray[Any]
    truth: str
    found: Mapping[str, tuple[str, float | None]]


def choose(rows: Sequence[Row]) -> list[str]:
    """The first test case of each class by name, of at most ten classes; none where single cases stay at home.

    Args:
        rows: of one method, seed and chain.
    """
    first: dict[str, str] = {}
    for row in last_stage(rows).values():
        for case in sorted(row["cases"], key=lambda one: str(one["case"])):
            if "truth" in case:
                first.setdefault(case["truth"], case["case"])
    return [first[name] for name in sorted(first)][:MOST]


def draw(samples: Sequence[Sample]) -> Figure:
    """A panel an image, with its class above and a line a method below.

    Args:
        samples: at least one.
    """
    columns = min(COLUMNS, len(samples))
    rows = -(-len(samples) // columns)
    lines = max(len(one.found) for one in samples)
    figure = Figure(figsize=(2.1 * columns, rows * (1.8 + 0.17 * lines) + 0.2), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for ax, one in zip(axes, samples):
        _panel(ax, one)
    for ax in axes[len(samples) :]:
        ax.set_axis_off()
    return figure


def said(method: str, answer: tuple[str, float | None], truth: str) -> str:
    """A line under an image.

    Example:
        >>> said("mean", ("ring", 0.913), "cyst")
        '✗ mean: ring 0.91'
    """
    name, probability = answer
    mark = "\u2713" if name == truth else "\u2717"
    return f"{mark} {method}: {name}" + ("" if probability is None else f" {probability:.2f}")


def _panel(ax: Axes, one: Sample) -> None:
    low, high = np.percentile(one.image, [1, 99])
    seen = np.clip((one.image - low) / max(high - low, 1e-6), 0, 1)
    ax.imshow(seen[0] if len(seen) == 1 else np.moveaxis(seen, 0, 2), cmap="gray", vmin=0, vmax=1)
    ax.set_title(one.truth, fontsize=9, color=style.INK)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    lines = [said(method, answer, one.truth) for method, answer in one.found.items()]
    ax.set_xlabel("\n".join(lines), fontsize=7, color=style.INK, loc="left")
