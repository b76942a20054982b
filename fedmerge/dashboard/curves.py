"""Learning curves while they grow: `curves/*.jsonl` of sites, and the rows that are over at a server."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedmerge.dashboard.files import Lines, tables

KINDS = ("loss", "lr", "validation")
MOST_POINTS = 400  # of a curve that is sent to the page
MOST_CURVES = 200  # those that changed last

Curve = dict[str, Any]


class Curves:
    """The curves in the files below a folder.

    Args:
        root: the folder.
        pattern: of the files, as `*/curves/*.jsonl`.
    """

    def __init__(self, root: Path, pattern: str) -> None:
        self._root, self._pattern = root, pattern
        self._files: dict[Path, Lines] = {}
        self._found: dict[Path, dict[int, Mapping[str, Any]]] = {}
        self._drawn: dict[Path, Curve] = {}

    def now(self) -> dict[str, Curve]:
        """Name -> the curve, of those that changed last: `site`, `run`, `time`, and for each kind its points.

        Of a step that was written again the last record counts, and a file that was begun anew is read anew.
        """
        for path in sorted(self._root.glob(self._pattern)):
            lines, follows = self._files.setdefault(path, Lines(path, None)).more()
            if not follows:
                self._found[path] = {}
            if records := [record for table in tables(lines) if (record := _record(table))]:
                self._found.setdefault(path, {}).update((record["step"], record) for record in records)
                self._drawn[path] = drawn(self._found[path])
        latest = sorted(self._drawn.items(), key=lambda item: float(item[1]["time"]))[-MOST_CURVES:]
        return {f"curve/{path.relative_to(self._root)}": curve for path, curve in latest}


def drawn(records: Mapping[int, Mapping[str, Any]]) -> Curve:
    """A curve of at most `MOST_POINTS` points a kind, from records by step."""
    order = [records[step] for step in sorted(records)]
    last = max(order, key=lambda record: float(record["time"]))
    points = {
        kind: thin([[record["step"], record[kind]] for record in order if _is_number(record.get(kind))])
        for kind in KINDS
    }
    return {"site": last["site"], "run": last["run"], "time": last["time"], "points": points}


def thin(points: list[list[float]], most: int = MOST_POINTS) -> list[list[float]]:
    """At most about so many points: of each stretch its lowest and its highest, and the last one.

    Example:
        >>> thin([[0, 5], [1, 9], [2, 1], [3, 4], [4, 4], [5, 6]], most=4)
        [[1, 9], [2, 1], [3, 4], [5, 6]]
    """
    if len(points) <= most:
        return points
    size = -(-len(points) // (most // 2))
    kept: list[list[float]] = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        ends = {id(one): one for one in (min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1]))}
        kept += sorted(ends.values())
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def of_rows(lines: Iterable[Mapping[str, Any]]) -> dict[str, Curve]:
    """The validation curves of rows that are over, by method, seed and chain."""
    found: dict[str, Curve] = {}
    for line in lines:
        if line["stage"] != "fine-tuned" or not line["curve"]:
            continue
        label = f"{line['method']}, seed {line['seed']}, chain {line['chain']}"
        points = [list(point) for point in line["curve"] if _is_number(point[1])]
        curve = {"site": line["target"], "run": label, "time": line["time"]}
        found[f"curve/row/{line['target']}/{label}"] = {
            **curve,
            "points": {"loss": [], "lr": [], "validation": thin(points)},
        }
    return dict(list(found.items())[-MOST_CURVES:])


def _record(table: dict[str, Any]) -> dict[str, Any] | None:
    """A record of a curve; None for a line that is none."""
    try:
        facts = {"step": int(table["step"]), "time": float(table["time"])}
        return {**table, **facts, "site": str(table["site"]), "run": str(table["run"])}
    except (ValueError, KeyError, TypeError):
        return None


def _is_number(value: Any) -> bool:  # noqa: ANN401 - whatever JSON holds
    return isinstance(value, int | float) and math.isfinite(value)
