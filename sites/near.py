"""Checkpoints of an adaptation beside the data: the run of S, the state of the fit, and the curve, all of one step.

near-STEP.safetensors          the run, as `training.Run.save` writes it
near-STEP.logits.safetensors   the state of the fit, where ratios are fitted
near-STEP.json                 the curve and the seconds so far; written last, so with it the other two are there
"""

import json
from pathlib import Path

from fedmerge import tasks, training, whole, wire
from fedmerge.params import Params


def every(steps: int) -> int:
    """Steps from one checkpoint to the next."""
    return max(100, steps // 4)


def save(folder: Path, run: training.Run, state: Params, curve: tasks.Curve, seconds: float) -> None:
    """Write a checkpoint, and throw the one before away.

    Args:
        folder: of the row.
        run: of S.
        state: of the fit after the same step (`fitting.fit_step`); empty where nothing is fitted.
        curve: so far.
        seconds: the adaptation's so far.
    """
    name = f"near-{run.step}"
    run.save(folder / f"{name}.safetensors")
    if state:
        whole.write(folder / f"{name}.logits.safetensors", wire.params_to_bytes(state))
    whole.write(folder / f"{name}.json", json.dumps({"curve": curve, "seconds": seconds}).encode())
    forget(folder, but=name)


def restore(folder: Path, run: training.Run) -> tuple[Params, tasks.Curve, float]:
    """Bring a run to the last checkpoint; (state of the fit, curve, seconds), all empty where there is none.

    Raises:
        ConfigError: the checkpoint was saved with other settings.
    """
    steps = [int(path.stem.removeprefix("near-")) for path in folder.glob("near-*.json")]
    if not steps:
        return {}, [], 0.0
    name = f"near-{max(steps)}"
    facts = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    run.restore(folder / f"{name}.safetensors")
    fitted = folder / f"{name}.logits.safetensors"
    state = wire.params_from_bytes(fitted.read_bytes()) if fitted.exists() else {}
    return state, [(step, score) for step, score in facts["curve"]], facts["seconds"]


def forget(folder: Path, but: str = "") -> None:
    """Throw the checkpoints away, all or all but one; the JSON first, which says that the others are there."""
    for path in sorted(folder.glob("near-*"), key=lambda path: path.suffix != ".json"):
        if not but or not path.name.startswith(f"{but}."):
            path.unlink(missing_ok=True)
