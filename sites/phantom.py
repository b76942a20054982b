"""Synthetic hospitals: made-up patients, seen by a scanner of the hospital's own, written as NIfTI.

The folders have the layout of the Medical Segmentation Decathlon, one T1-weighted image and one label map with all
structures a patient. The same profile, number of cases and seed make the same files, byte for byte.
"""

# nibabel is typed, but most of its functions are not annotated.
# mypy: disable-error-code="no-untyped-call"

import json
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from fedmerge.errors import ConfigError, DataError
from sites import anatomy, scanner, volumes
from sites.draws import generator
from sites.progress import report

MODALITIES = ("T1",)
FIELD_OF_VIEW_MM = (168.0, 204.0, 174.0)
VERSION = 1
"""Goes up when the same settings make other images."""


@dataclass(frozen=True)
class Profile:
    """A hospital's scanner, and how often its patients have a lesion.

    Attributes:
        spacing_mm: voxel size along the scanner's x, y, z.
        axes: the order in which voxels are stored, as nibabel's axis codes.
        tilt_deg: turn of the field of view about the x axis.
        gamma: contrast: relative intensities are raised to it.
        bias: standard deviation of the logarithm of the bias field.
        noise: standard deviation of the noise in each of the two channels of the receiver (Rician).
        scale: intensity of the brightest tissue in the file.
        lesions: share of the patients that have one.
    """

    spacing_mm: tuple[float, float, float]
    axes: str = "RAS"
    tilt_deg: float = 0.0
    gamma: float = 1.0
    bias: float = 0.1
    noise: float = 0.03
    scale: float = 255.0
    lesions: float = 0.3


PROFILES: dict[str, Profile] = {
    "north": Profile(spacing_mm=(3.0, 3.0, 3.0), bias=0.15, noise=0.03),
    "south": Profile(spacing_mm=(2.8, 2.8, 4.5), axes="LPS", gamma=0.75, bias=0.25, noise=0.045, scale=1800.0),
    "harbour": Profile(
        spacing_mm=(3.3, 3.3, 3.3), tilt_deg=8.0, gamma=1.35, bias=0.2, noise=0.055, scale=24000.0, lesions=0.6
    ),
}


def ensure(folder: Path, profile: str, cases: int, seed: int = 0) -> None:
    """Writes the hospital unless it is there already; several threads or processes may ask at once.

    Raises:
        ConfigError: there is no such profile.
        DataError: the folder holds something else.
    """
    once(folder, record(profile, cases, seed), partial(write, profile=profile, cases=cases, seed=seed))


def once(folder: Path, wanted: dict[str, Any], make: Callable[[Path], None]) -> None:
    """Have a folder made unless it is there; `make` leaves a `dataset.json` whose key `phantom` is `wanted`.

    Raises:
        DataError: the folder holds something else.
    """
    if not folder.exists() or not any(folder.iterdir()):
        aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
        try:
            make(aside)
            folder.parent.mkdir(parents=True, exist_ok=True)
            aside.replace(folder)
        except OSError:  # somebody else was faster
            if not (folder / "dataset.json").is_file():
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    try:
        found = json.loads((folder / "dataset.json").read_text(encoding="utf-8")).get("phantom")
    except (OSError, ValueError, AttributeError):
        found = None
    if found != wanted:
        raise DataError(f"{folder} expected the synthetic hospital {_words(wanted)}, got {_words(found)}")


def write(folder: Path, profile: str, cases: int, seed: int = 0) -> None:
    """Writes a hospital: `imagesTr`, `labelsTr`, `dataset.json`.

    Args:
        folder: made where it is missing; files of the same names are replaced.
        profile: a name of `PROFILES`.
        cases: number of patients; a smaller number makes the first ones of a larger.
        seed: of the patients.

    Raises:
        ConfigError: there is no such profile, or the number is not positive.
    """
    made_from = record(profile, cases, seed)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    ids = [f"sub-{profile}{k:03d}" for k in range(1, cases + 1)]
    for k, case in enumerate(ids, start=1):
        image, labels, affine = scan(PROFILES[profile], generator("phantom", profile, seed, k))
        volumes.write(image, affine, folder / "imagesTr" / f"{case}.nii.gz")
        volumes.write(labels, affine, folder / "labelsTr" / f"{case}.nii.gz")
        report(profile, "making patients", k, cases)
    table = {
        "name": f"synthetic hospital '{profile}'",
        "modality": {str(k): name for k, name in enumerate(MODALITIES)},
        "labels": {"0": "background"} | {str(value): name for name, value in anatomy.LABELS.items()},
        "numTraining": cases,
        "training": [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in ids],
        "phantom": made_from,
    }
    (folder / "dataset.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def scan(
    profile: Profile, dice: np.random.Generator
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """One patient in one scanner: image and label map on the stored axes, and their affine."""
    patient = anatomy.draw(dice, lesions=profile.lesions)
    affine, shape = _field_of_view(profile)
    where = anatomy.place(patient, affine, shape)
    image, labels = anatomy.paint(patient, where, float(np.prod(profile.spacing_mm)) ** (1 / 3))
    return receive(image, profile, dice), labels, affine


def receive(
    image: npt.NDArray[np.float32], profile: Profile, dice: np.random.Generator, *, knots: int = 4
) -> npt.NDArray[np.int16]:
    """What a scanner makes of relative intensities (X, Y, Z): gamma, bias field, Rician noise, scale.

    `knots` is the number of random values of the bias field along each axis.
    """
    field = scanner.smooth(dice.standard_normal((knots,) * 3, dtype=np.float32), image.shape)
    image = np.clip(image, 0, None) ** np.float32(profile.gamma) * np.exp(np.float32(profile.bias) * field)
    real, imaginary = dice.normal(0, profile.noise, (2, *image.shape)).astype(np.float32)
    seen = np.hypot(image + real, imaginary) * np.float32(profile.scale)
    return np.asarray(np.clip(np.rint(seen), 0, 32767), np.int16)


def _field_of_view(profile: Profile) -> tuple[npt.NDArray[np.float64], tuple[int, int, int]]:
    """The affine and the shape of the stored voxels; the middle of the head is in the middle."""
    sizes = zip(FIELD_OF_VIEW_MM, profile.spacing_mm, strict=True)
    shape = np.array([round(extent / mm) for extent, mm in sizes])
    angle = np.deg2rad(profile.tilt_deg)
    affine = np.diag([*profile.spacing_mm, 1.0])
    affine[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]] @ affine[1:3, 1:3]
    affine[:3, 3] = -affine[:3, :3] @ (shape - 1) / 2 + [0, 0, -8]
    to = nib.orientations.axcodes2ornt(profile.axes)
    affine = affine @ nib.orientations.inv_ornt_aff(to, shape)
    x, y, z = (int(shape[int(axis)]) for axis, _ in to)
    return affine, (x, y, z)


def record(profile: str, cases: int, seed: int) -> dict[str, Any]:
    """What a folder of phantoms was made from.

    Raises:
        ConfigError: there is no such profile, or the number is not positive.
    """
    if profile not in PROFILES:
        raise ConfigError(f"there is no synthetic hospital '{profile}'; there are {', '.join(PROFILES)}")
    if cases < 1:
        raise ConfigError(f"the synthetic hospital '{profile}' expected at least one case, got {cases}")
    return {"profile": profile, "cases": cases, "seed": seed, "version": VERSION}


def _words(record: dict[str, Any] | None) -> str:
    return ", ".join(f"{key} {value}" for key, value in record.items()) if record else "other files"
