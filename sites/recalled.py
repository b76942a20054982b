"""A campaign's results out of what its target kept for itself (`keeping`), in the form of results.json.

They have the target's own names of cases, and ratios that nobody else got; traffic, times and the sources' side lie at
the server.
"""

import importlib.metadata
import json
import re
from pathlib import Path
from typing import Any

from fedmerge import devices, measures
from fedmerge.errors import DataError
from fedmerge.results import FORMAT, STAGES, Results, validate
from sites import keeping
from sites.records import Site


def campaigns(site: Site) -> dict[str, Path]:
    """The campaigns whose rows this site kept, and the folder of each; the newest first."""
    folders = [path for path in (site.work / "results").glob("*") if any(path.glob("*.json"))]
    newest = {path: max(file.stat().st_mtime for file in path.glob("*.json")) for path in folders}
    return {path.name: path for path in sorted(folders, key=lambda path: -newest[path])}


def results(site: Site, folder: Path) -> Results:
    """The results of one campaign.

    Args:
        site: the target.
        folder: one of `campaigns`.

    Raises:
        DataError: a row was kept by an older version, or is damaged.
    """
    kept = [one for path in sorted(folder.glob("*.json")) if not (one := _read(path))["fold"]]
    if not kept:
        raise DataError(f"{folder} holds no row of a table")
    first = kept[0]
    case: dict[str, Any] = next(
        (case for one in kept for cases in one["stages"].values() for case in cases or ()), {"dice": {}}
    )
    names = ("fedmerge", "flwr", "torch")
    found = {
        "format": FORMAT,
        "measure": measures.within(case).key,
        "campaign": {
            "campaign": {"name": first["campaign"], "trust": first["trust"], "task": _task(site)},
            "net": first["net"],
        },
        "environment": {name: importlib.metadata.version(name) for name in names} | {"device": devices.describe()},
        "sites": [{"name": site.name, "role": "target", "labels": list(site.data.labels), **_regions(site)}],
        "rows": [row for one in kept for row in _rows(one, site.name, measures.within(case))],
        "ratios": [_ratios(one, site.name) for one in kept if one["ratios"]],
        "forgetting": [],
        "traffic": [],
    }
    validate(found)
    return found


def _regions(site: Site) -> dict[str, Any]:
    """The regions that the site's nets answer, where they do."""
    return {"regions": site.data.answered} if site.data.outputs == "regions" else {}


def predictions(site: Site, folder: Path) -> dict[tuple[str, int, int, int], Path]:
    """(method, seed, chain, target cases) -> where a row's predictions lie."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        one = _read(path)
        if not one["fold"]:
            key = (one["method"], one["seed"], _chain(one), one["target_cases"])
            found[key] = site.work / "predictions" / one["label"]
    return found


def _task(site: Site) -> str:
    return "classification" if site.data.layout == "classes" else "segmentation"


def _read(path: Path) -> dict[str, Any]:
    try:
        one: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: expected JSON, got {error}") from None
    if one.get("format") != keeping.FORMAT or "steps" not in one:
        raise DataError(f"{path}: expected a row as this version keeps it, got an older one, or another file")
    return one


def _chain(one: dict[str, Any]) -> int:
    """The chain, which a row's label tells."""
    found = re.search(r"-chain(\d+)-n\d+$", one["label"])
    return int(found[1]) if found else 0


def _columns(one: dict[str, Any], target: str) -> dict[str, Any]:
    return {
        "method": one["method"],
        "seed": one["seed"],
        "chain": _chain(one),
        "target": target,
        "target_cases": one["target_cases"],
    }


def _rows(one: dict[str, Any], target: str, measure: measures.Measure) -> list[dict[str, Any]]:
    found = []
    stages = [stage for stage in STAGES if one["stages"].get(stage)]
    for stage in stages:
        cases = one["stages"][stage]
        found.append(
            _columns(one, target)
            | measure.numbers(cases)
            | {
                "stage": stage,
                "status": "ok",
                "error": None,
                "target_steps": one["steps"][stage],
                "cases": cases,
                "curve": one["curve"] if stage == stages[-1] else [],
                "seconds": one["seconds"],
            }
        )
    return found


def _ratios(one: dict[str, Any], target: str) -> dict[str, Any]:
    fitted = one["ratios"]
    return _columns(one, target) | {
        "sites": list(one["sources"]),
        "grain": fitted["grain"],
        "groups": fitted["groups"],
    }
