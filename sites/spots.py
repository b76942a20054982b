"""Synthetic hospitals for classification: grey pictures of a lesion, a folder for each class of its shape.

The scanners are those of the hospitals of `phantom`. The same profile, number of cases and seed make the same pictures.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sites import phantom, scanner
from sites.draws import generator
from sites.progress import report

SIDE = 48
MODALITIES = ("grey",)
SCALE = 170.0  # of 255: room for the bright end of the bias field

Array = npt.NDArray[np.float64]
Shape = Callable[[Array, Array, np.random.Generator], Array]


def _cyst(r: Array, angle: Array, dice: np.random.Generator) -> Array:
    return _inside(r, 1.0)


def _ring(r: Array, angle: Array, dice: np.random.Generator) -> Array:
    return _inside(r, 1.0) - _inside(r, dice.uniform(0.45, 0.6))


def _spiculated(r: Array, angle: Array, dice: np.random.Generator) -> Array:
    spikes, turn = dice.integers(6, 10), dice.uniform(0, 2 * np.pi)
    return _inside(r, 0.85 + 0.35 * np.cos(spikes * angle + turn))


def _mottled(r: Array, angle: Array, dice: np.random.Generator) -> Array:
    spots = scanner.smooth(dice.standard_normal((14, 14, 1), dtype=np.float32), (*r.shape, 1))[:, :, 0]
    return np.asarray(_inside(r, 1.0) * np.where(spots > 0, 1.0, 0.35))


def _normal(r: Array, angle: Array, dice: np.random.Generator) -> Array:
    return np.zeros_like(r)


CLASSES: dict[str, Shape] = {
    "normal": _normal, "cyst": _cyst, "ring": _ring, "spiculated": _spiculated, "mottled": _mottled,
}  # fmt: skip


def ensure(folder: Path, profile: str, cases: int, seed: int = 0) -> None:
    """Writes the hospital unless it is there already; see `phantom.ensure`.

    Raises:
        ConfigError: there is no such profile, or the number is not positive.
        DataError: the folder holds something else.
    """
    phantom.once(folder, _record(profile, cases, seed), partial(write, profile=profile, cases=cases, seed=seed))


def write(folder: Path, profile: str, cases: int, seed: int = 0) -> None:
    """Writes `CLASS/sub-PROFILEnnn.png`, the classes in turn, and a `dataset.json` that says how they were made."""
    record = _record(profile, cases, seed)
    for k in range(1, cases + 1):
        name = list(CLASSES)[(k - 1) % len(CLASSES)]
        (folder / name).mkdir(parents=True, exist_ok=True)
        picture = draw(name, phantom.PROFILES[profile], generator("spots", profile, seed, k))
        Image.fromarray(picture).save(folder / name / f"sub-{profile}{k:03d}.png")
    report(profile, "making pictures", cases, cases)
    table = {"name": f"synthetic hospital '{profile}', classes", "phantom": record}
    (folder / "dataset.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def draw(name: str, profile: phantom.Profile, dice: np.random.Generator) -> npt.NDArray[np.uint8]:
    """One patient's picture, (SIDE, SIDE): uneven tissue, the lesion of its class somewhere in it, the scanner."""
    x, y = np.meshgrid(*[np.arange(SIDE) - (SIDE - 1) / 2] * 2, indexing="ij")
    x, y = x - dice.uniform(-9, 9), y - dice.uniform(-9, 9)
    turn, stretch, radius = dice.uniform(0, np.pi), dice.uniform(0.8, 1.25), dice.uniform(7, 11)
    u, v = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    u, v = u * stretch / radius, v / stretch / radius
    lesion = CLASSES[name](np.hypot(u, v), np.arctan2(v, u), dice)
    tissue = scanner.smooth(dice.standard_normal((7, 7, 1), dtype=np.float32), (SIDE, SIDE, 1))[:, :, 0]
    seen = 0.45 + 0.06 * tissue + dice.uniform(0.2, 0.35) * lesion
    made = phantom.receive(seen[:, :, None].astype(np.float32), replace(profile, scale=SCALE), dice)[:, :, 0]
    return np.asarray(np.clip(made, 0, 255), np.uint8)


def _inside(r: Array, edge: Array | float) -> Array:
    """1 within the edge, 0 outside, over about two pixels."""
    return np.asarray(np.clip((edge - r) * 4 + 0.5, 0, 1))


def _record(profile: str, cases: int, seed: int) -> dict[str, Any]:
    return {**phantom.record(profile, cases, seed), "classes": list(CLASSES)}
