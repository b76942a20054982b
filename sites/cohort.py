"""Hospitals whose patients come from label maps of real heads: folders in the layout of the Decathlon.

A brain belongs to one hospital, and its name is in the ids of its cases, so that no brain is in two tasks or in two
parts of a split. A case is a brain in a pose of its own, with a tumour or without. A case depends on its settings and
its brain only, not on the other cases or on the number of processes; one that is there with the same settings is kept.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedmerge.errors import ConfigError, DataError
from sites import contrasts, freesurfer, lesions, synthesis, volumes
from sites.draws import generator, stable_seed
from sites.phantom import PROFILES

VERSION = 1
"""Goes up when the same settings make other images."""

TUMOUR = ("oedema", "core", "enhancing")
MARGIN_MM = 34.0
"""How far a tumour may reach from its centre: a crop around it is shifted by no more than what is left."""


@dataclass(frozen=True, eq=False)
class Made:
    """A case: an image of each contrast, the label map on the same voxels, their affine; the tumour in words."""

    images: list[npt.NDArray[np.int16]]
    labels: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]
    tumour: dict[str, Any]


@dataclass(frozen=True)
class Hospital:
    """What a hospital's cases are made of.

    Attributes:
        name: of `phantom.PROFILES`, whose contrast, bias field, noise and scale its scanner has.
        brains: name -> label map; they take turns.
        cases: how many.
        labels: the structures that the hospital annotates; crops lie around them, and where they are those of a
            tumour, each case has one.
        contrasts: the channels.
        crop: voxels along each side of an image; 0: whole heads.
        spacing_mm: side of a voxel.
        seed: of the cases.
    """

    name: str
    brains: Mapping[str, Path]
    cases: int
    labels: tuple[str, ...]
    contrasts: tuple[str, ...] = ("T1", "T2")
    crop: int = 48
    spacing_mm: float = 2.0
    seed: int = 0

    @property
    def ids(self) -> dict[str, str]:
        """The cases, in the order of a sorted folder -> the brain of each."""
        names = list(self.brains)
        made = [(names[k % len(names)], k // len(names) + 1) for k in range(self.cases)]
        return {f"sub-{brain}_scan{scan:03d}": brain for brain, scan in sorted(made)}


def find(folder: Path) -> dict[str, Path]:
    """The label maps of a folder (NIfTI or MGH), or the aseg of each subject of a SUBJECTS_DIR: name -> file.

    Raises:
        DataError: there are none, or two have the same letters and digits in their names.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    files = [(volumes.stem(path), path) for path in sorted(folder.iterdir()) if path.name.endswith(volumes.SUFFIXES)]
    files += [(path.parents[1].name, path) for path in sorted(folder.glob("*/mri/aseg.mgz"))]
    brains: dict[str, Path] = {}
    for name, path in files:
        plain = re.sub(r"[^A-Za-z0-9]", "", name)
        if name.startswith("."):
            continue
        if not plain or plain in brains:
            raise DataError(f"{path} expected a name with letters and digits of its own, got '{plain}' a second time")
        brains[plain] = path
    if not brains:
        raise DataError(f"{folder} holds no label map: expected {', '.join(volumes.SUFFIXES)} or SUBJECT/mri/aseg.mgz")
    return brains


def share(brains: Mapping[str, Path], seed: int) -> list[dict[str, Path]]:
    """Brains for two sources and a target, which gets three sevenths of them; every brain belongs to one.

    Raises:
        ConfigError: fewer than five brains.
    """
    if len(brains) < 5:
        raise ConfigError(f"expected at least 5 label maps, three of them for the target, got {len(brains)}")
    order = sorted(brains, key=lambda name: stable_seed("share", seed, name))
    last = max(3, round(len(order) * 3 / 7))
    first = (len(order) - last + 1) // 2
    parts = (order[:first], order[first : len(order) - last], order[len(order) - last :])
    return [{name: brains[name] for name in sorted(part)} for part in parts]


def parts(hospital: Hospital, *, target: bool) -> tuple[list[str], list[str]]:
    """The cases that validate and those that test, by whole brains; the others train.

    At a target one brain validates and three fifths of the others test. A source keeps one brain to measure
    forgetting, where it has two.
    """
    names = list(hospital.brains)
    validating = 1 if target else 0
    testing = max(1, round(0.6 * (len(names) - 1))) if target else min(1, len(names) - 1)
    held = names[:validating], names[validating : validating + testing]
    first, second = ([case for case, brain in hospital.ids.items() if brain in part] for part in held)
    return first, second


def case(hospital: Hospital, brain: freesurfer.Brain, name: str) -> Made:
    """One case, drawn by the hospital's name and seed and the case's name."""
    dice = generator("anatomy", hospital.name, hospital.seed, name)
    extent, spacing = _extent(hospital), hospital.spacing_mm
    x, y, z = (round(mm / spacing) for mm in extent)
    pose = synthesis.draw(dice, extent)
    tumour: tuple[npt.NDArray[np.float32], lesions.Lesion] | None = None
    facts: dict[str, Any] = {}
    if set(hospital.labels) & set(TUMOUR):
        lesion = lesions.draw(dice)
        place = synthesis.seen_at(brain, lesions.seed(brain, dice), pose)
        tumour = (place, lesion)
        facts = {"tumour_mm": [round(float(v), 1) for v in place], "radius_mm": round(lesion.radius_mm, 1)}
    centre = np.zeros(3, np.float32)
    if hospital.crop:
        room = float(np.clip(min(extent) / 2 - MARGIN_MM, 2, 12))
        away = dice.uniform(-room, room, 3)
        around = tumour[0] if tumour else synthesis.seen_at(brain, _inside(brain, hospital.labels, dice), pose)
        centre = (around + away).astype(np.float32)
    view = synthesis.View(centre, (x, y, z), spacing)
    structures = synthesis.pull(brain, pose, view.finer, tumour)
    structures = lesions.confounders(structures, view.finer.spacing_mm, dice)
    if tumour:
        structures = lesions.grow(structures, view.finer.voxel(tumour[0]), tumour[1], view.finer.spacing_mm)
    scanner = replace(PROFILES[hospital.name], spacing_mm=(spacing,) * 3, axes="RAS", tilt_deg=0.0)
    images = [
        synthesis.image(
            structures,
            contrast,
            scanner,
            spacing,
            generator("anatomy image", hospital.name, hospital.seed, name, contrast),
        )
        for contrast in hospital.contrasts
    ]
    return Made(images, synthesis.halve_labels(structures), view.affine, facts)


def _extent(hospital: Hospital) -> tuple[float, ...]:
    side = hospital.crop * hospital.spacing_mm
    return (side, side, side) if hospital.crop else synthesis.WHOLE_MM


def _inside(brain: freesurfer.Brain, labels: Sequence[str], dice: np.random.Generator) -> npt.NDArray[np.float64]:
    """(3,) mm: a voxel of one of the labels, each as likely as the other."""
    places = [np.flatnonzero(freesurfer.LABEL_OF[brain.structures] == freesurfer.LABELS[name]) for name in labels]
    present = [voxels for voxels in places if len(voxels)]
    if not present:
        return brain.middle_mm
    chosen = present[int(dice.integers(len(present)))]
    voxel = np.unravel_index(dice.choice(chosen), brain.structures.shape)
    place: npt.NDArray[np.float64] = brain.affine @ [*voxel, 1.0]
    return place[:3]


def check(hospital: Hospital) -> None:
    """Checks the settings.

    Raises:
        ConfigError: a contrast that there is not, a crop of a strange size, or fewer cases than brains.
    """
    for contrast in hospital.contrasts:
        if contrast not in contrasts.CONTRASTS:
            raise ConfigError(f"there is no contrast '{contrast}'; there are {', '.join(contrasts.CONTRASTS)}")
    if not hospital.contrasts or len(set(hospital.contrasts)) < len(hospital.contrasts):
        raise ConfigError(f"expected contrasts that differ, got {', '.join(hospital.contrasts) or 'none'}")
    if hospital.crop and not 16 <= hospital.crop <= 96:
        raise ConfigError(f"a crop expected 16 to 96 voxels a side, or 0 for whole heads, got {hospital.crop}")
    if hospital.cases < len(hospital.brains):
        raise ConfigError(
            f"'{hospital.name}' expected a case of each of its {len(hospital.brains)} brains or more,"
            f" got {hospital.cases}"
        )
