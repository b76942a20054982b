"""Curves and scores of what lies on a machine, and TensorBoard's event files of them (`fedmerge[tensorboard]`).

    campaign/TARGET/METHOD-seed0-chain0-n4    the curve of the target's validation, and test scores, of `results.json`
    sites/SITE/training/CAMPAIGN/...          loss, learning rate and validation, of a site's own `curves/`

At a server there are only results, which hold what the policies let out. A site has its own curves. A simulation has
both. `fedmerge/tracking.py` gives the same points to MLflow.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedmerge import measures, results
from fedmerge.errors import ConfigError, DataError

CURVES = ("loss", "lr", "validation")
FACTS = ("method", "seed", "chain", "target", "target_cases")


@dataclass(frozen=True)
class Point:
    """One number of a run.

    Attributes:
        run: what the number belongs to; a folder that TensorBoard shows as a run.
        tag: what it is.
        step: when it was.
        value: the number.
        time: seconds of the clock; None: now.
        facts: of the run, the same for all its points: method, seed, chain, target, versions; or site and training.
    """

    run: str
    tag: str
    step: int
    value: float
    time: float | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


def read(folder: Path) -> list[Point]:
    """All points of a run's folder, of a hospital's home, or of a site's working folder.

    Raises:
        DataError: there is nothing to draw, or the results cannot be read.
    """
    points = list(_campaign(results.read(folder))) if (folder / "results.json").exists() else []
    for path in _files(folder):
        points += _curve(path)
    if not points:
        raise DataError(f"{folder}: expected results.json or a folder 'curves', got neither, or nothing in them")
    return points


def by_run(points: Iterable[Point]) -> dict[str, list[Point]]:
    """Run -> its points, in their order."""
    runs: dict[str, list[Point]] = {}
    for point in points:
        runs.setdefault(point.run, []).append(point)
    return runs


def write(points: list[Point], out: Path) -> int:
    """Write event files in place of those that are there; the number of runs.

    Raises:
        ConfigError: TensorBoard's package is not installed.
    """
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        raise ConfigError("TensorBoard is not installed: pip install fedmerge[tensorboard]") from None
    runs = by_run(points)
    for run, own in runs.items():
        folder = out.joinpath(*map(_folder, run.split("/")))
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        with SummaryWriter(str(folder)) as writer:
            for point in own:
                writer.add_scalar(point.tag, point.value, point.step, walltime=point.time)
    return len(runs)


def _campaign(found: results.Results) -> Iterator[Point]:
    """The rows of a run's results."""
    measure = measures.of(found)
    campaign = found["campaign"].get("campaign", found["campaign"])
    around = {"campaign": campaign.get("name"), **{key: found["environment"][key] for key in results.ENVIRONMENT}}
    for row in found["rows"]:
        if row["status"] != "ok":
            continue
        label = f"{row['method'].replace('/', '-')}-seed{row['seed']}-chain{row['chain']}-n{row['target_cases']}"
        run = f"campaign/{row['target']}/{label}"
        facts = {**{key: str(row[key]) for key in FACTS}, **around}
        if row["stage"] == "fine-tuned":
            for step, value in row["curve"]:
                if value is not None:
                    yield Point(run, f"validation {measure.name}", step, value, facts=facts)
        for key, name in {measure.key: measure.name, **measure.more}.items():
            if row[key] is not None:
                yield Point(run, f"test {name}", row["target_steps"], row[key], facts=facts)


def _files(folder: Path) -> list[Path]:
    """The curves of sites at or below a folder: of its own, of `private/work`, or of a simulation's `sites/NAME`."""
    return [path for pattern in ("", "*/", "*/*/") for path in sorted(folder.glob(f"{pattern}curves/*.jsonl"))]


def _curve(path: Path) -> list[Point]:
    """The records of one training; the last of each step counts, and a line that is not whole yet is left out."""
    found: dict[int, Mapping[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
            found[int(record["step"])] = record
        except (ValueError, KeyError, TypeError):
            continue
    return [
        Point(
            f"sites/{record['site']}/{record['run']}",
            tag,
            step,
            record[tag],
            record["time"],
            {"site": record["site"], "training": record["run"]},
        )
        for step, record in sorted(found.items())
        for tag in CURVES
        if record.get(tag) is not None
    ]


def _folder(name: str) -> str:
    """A name as a folder: what a path would read becomes a dash."""
    return re.sub(r"[^\w .,+-]", "-", name).strip(". ") or "-"
