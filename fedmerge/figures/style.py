"""What the figures share: colours, dashes, axes, and a figure that says why there is nothing to draw."""

import textwrap
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import LineStyleType

from fedmerge.comparison import Row, grouped
from fedmerge.results import Results

INK, GREY, PALE = "#222222", "#767676", "#d9d9d9"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES: tuple[LineStyleType, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
DOTS: LineStyleType = (0, (1, 2))

Part = tuple[str, int]  # target, target_cases


def save(figure: Figure, path: Path) -> None:
    """Write the figure as PNG, whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    figure.savefig(part, format="png", dpi=150, bbox_inches="tight", facecolor="white")
    part.replace(path)


def by_part(results: Results) -> dict[Part, dict[str, list[Row]]]:
    """(target, target_cases) -> method -> rows."""
    parts: dict[Part, dict[str, list[Row]]] = {}
    for (target, cases, method), rows in grouped(results["rows"]).items():
        parts.setdefault((target, cases), {})[method] = rows
    return parts


def plain(ax: Axes) -> None:
    """Two spines, a pale grid, small labels."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    ax.tick_params(colors=GREY, labelcolor=INK, labelsize=8)
    ax.grid(axis="both", color=PALE, linewidth=0.5)
    ax.set_axisbelow(True)


def sentence(text: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    figure = Figure(figsize=(6.0, 1.2))
    figure.text(0.5, 0.5, textwrap.fill(text, 70), ha="center", va="center", fontsize=10, color=INK)
    return figure
