"""What a target keeps of a row, for itself: `results/CAMPAIGN/LABEL.json` in its working folder.

    {"format": "fedmerge-row/1", "campaign": ..., "label": ..., "method": ..., "sources": {site: digest},
     "ratios": {"kind": ..., "grain": ..., "groups": {group: numbers}} or null, "model": path below the working folder,
     "stages": {"start": [case, ...], "adapted": ..., "fine-tuned": ...}, "curve": [[step, score], ...],
     "steps": {stage: steps until then}, "seconds": ..., "seed": ..., "target_cases": ...,
     "net": its settings and patch, "trust": ..., "fold": whether it only helped to choose}

Scores are those of single cases under their own ids: the file never leaves.
"""

import json
import re
from pathlib import Path
from typing import Any

from fedmerge import tasks, whole, wire
from fedmerge.fusion import mixing
from sites.records import Site

FORMAT = "fedmerge-row/1"


def results(site: Site, campaign: str) -> Path:
    """The folder of a campaign's results at this site."""
    return site.work / "results" / (re.sub(r"[^A-Za-z0-9._-]+", "-", campaign).strip("-.")[:64] or "campaign")


def keep(site: Site, row: tasks.Row, told: tasks.Finetuned) -> Path:
    """Write what a finished row came to.

    Args:
        site: the target.
        row: the row.
        told: how its fine-tuning ended.
    """
    folder = site.work / "rows" / row.key
    adapted = _adapted(site, folder)
    before = adapted.steps if adapted else 0
    stages = {"start": told.start, "fine-tuned": told.finetuned}
    if adapted is not None:
        stages = {"start": adapted.start, "adapted": adapted.adapted, "fine-tuned": told.finetuned}
    text = json.dumps(
        {
            "format": FORMAT,
            "campaign": row.campaign,
            "label": row.label,
            "method": row.method["name"],
            "sources": dict(zip(row.sources, row.digests)),
            "ratios": _ratios(site, row, folder),
            "model": f"rows/{row.key}/fine-tuned.safetensors",
            "stages": stages,
            "curve": [*(adapted.curve if adapted else []), *told.curve],
            "steps": {"start": 0, "adapted": before, "fine-tuned": before + told.steps},
            "seconds": (adapted.seconds if adapted else 0.0) + told.seconds,
            "seed": row.seed,
            "target_cases": row.target_cases,
            "net": {**row.net.settings, "patch": list(row.net.patch)},
            "trust": row.trust,
            "fold": row.folds > 0,
        },
        indent=1,
    )
    path = results(site, row.campaign) / f"{row.label}.json"
    whole.write(path, text.encode())
    return path


def _adapted(site: Site, folder: Path) -> tasks.Adapted | None:
    path = folder / "adapted.json"
    return tasks.from_table(tasks.Adapted, json.loads(path.read_bytes()), site.name) if path.exists() else None


def _ratios(site: Site, row: tasks.Row, folder: Path) -> dict[str, Any] | None:
    """The ratios of the fitted (or drawn) logits; None where nothing was mixed with any."""
    path = folder / "logits.safetensors"
    if not path.exists():
        return None
    found = mixing.ratios(wire.open_params(path, site=site.name), row.ratios)  # type: ignore[arg-type]  # two words
    groups = {name: value.tolist() for name, value in found.items()}
    return {"kind": row.ratios, "grain": row.method["grain"], "groups": groups}
