"""Label maps as FreeSurfer writes them: the paper's 14 classes, and the structures that images are made of.

Geyer et al. (MIDL 2019) segment 14 classes of the whole brain: task 1 is classes 1 to 7, task 2 classes 8 to 14.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedmerge.errors import DataError
from sites import volumes

MIDDLE = (251, 252, 253, 254, 255)  # the corpus callosum, which FreeSurfer's aseg takes out of the white matter

# In the paper's order, 1 to 14. Values that are in no row are no class of the paper's.
CLASSES: dict[str, tuple[int, ...]] = {
    "cerebellum-cortex": (8, 47),
    "cortex": (3, 42, 26, 58),
    "thalamus": (10, 49),
    "amygdala": (18, 54, 31, 63),
    "caudate": (11, 50),
    "pallidum": (13, 52),
    "csf": (24,),
    "cerebellum-white-matter": (7, 46),
    "white-matter": (2, 41, 77, 78, 79, *MIDDLE),
    "hippocampus": (17, 53),
    "ventricles": (4, 43, 5, 44, 14, 15, 72),
    "putamen": (12, 51),
    "ventral-dc": (28, 60),
    "brainstem": (16,),
}

LABELS: dict[str, int] = {name: k for k, name in enumerate(CLASSES, start=1)} | {
    "other-brain": 15,
    "oedema": 16,
    "core": 17,
    "enhancing": 18,
}
"""Values of the label maps that are made. Tumours nest: the whole is 16 and above, its core 17 and above."""

# What has an intensity of its own. The first six have no value of FreeSurfer's: they are added to a brain.
STRUCTURES: dict[str, tuple[int, ...]] = {
    "air": (0,),
    "oedema": (),
    "core": (),
    "enhancing": (),
    "vessel": (),
    "spot": (),
    "cortex": (3, 42),
    "accumbens": (26, 58),
    "white-matter": (2, 41, *MIDDLE),
    "white-matter-lesion": (77, 78, 79),
    "lesion": (25, 57, 80, 81, 82),
    "cerebellum-cortex": (8, 47),
    "cerebellum-white-matter": (7, 46),
    "thalamus": (10, 49),
    "caudate": (11, 50),
    "putamen": (12, 51),
    "pallidum": (13, 52),
    "hippocampus": (17, 53),
    "amygdala": (18, 54),
    "choroid-plexus": (31, 63),
    "ventral-dc": (28, 60),
    "brainstem": (16,),
    "ventricles": (4, 43, 5, 44, 14, 15, 72),
    "csf": (24,),
    "other-brain": (136, 137, 163, 164),
    "blood": (30, 62),
    "chiasm": (85,),
    "artery": (502,),
    "eye": (506,),
    "eye-muscle": (508,),
    "mucosa": (509,),
    "skin": (511,),
    "spinal-cord": (512,),
    "vein": (514,),
    "bone": (515,),
    "marrow": (516,),
    "optic-nerve": (530,),
    "soft-tissue": (507,),
}
INDEX: dict[str, int] = {name: k for k, name in enumerate(STRUCTURES)}

# First and last value -> structure, where a whole range has one meaning: the head outside the brain, and the parcels
# of cortex and white matter in aparc+aseg, aparc.a2009s+aseg and wmparc.
RANGES: tuple[tuple[int, int, str], ...] = (
    (500, 999, "soft-tissue"),
    (1000, 2999, "cortex"),
    (3000, 4999, "white-matter"),
    (5001, 5002, "white-matter"),
    (11100, 12175, "cortex"),
    (13100, 14175, "white-matter"),
)


@dataclass(frozen=True, eq=False)
class Brain:
    """One head as structures.

    Attributes:
        structures: (X, Y, Z) uint8 on canonical axes, each an index of `STRUCTURES`.
        affine: (4, 4), from voxel indices to mm.
    """

    structures: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]

    @cached_property
    def middle_mm(self) -> npt.NDArray[np.float64]:
        """(3,) the middle of the box around all that has a label but CSF."""
        brain = np.isin(LABEL_OF[self.structures], (0, LABELS["csf"]), invert=True)
        ends = [np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {a})))[[0, -1]] for a in range(3)]
        middle: npt.NDArray[np.float64] = self.affine @ [*(np.mean(end) for end in ends), 1.0]
        return middle[:3]


def read(path: Path) -> Brain:
    """A label map from a NIfTI or MGH file, in any orientation.

    Raises:
        DataError: the file cannot be read, holds values that FreeSurfer's table does not have here, or no brain.
    """
    volume = volumes.read_labels(path)
    values = volume.data
    whole = np.rint(values).astype(np.int64)
    present = np.unique(whole)
    unknown = ", ".join(str(v) for v in present if structure_of(int(v)) is None)
    if unknown or not np.array_equal(whole, values):
        got = f"the value {unknown}" if np.array_equal(whole, values) else "values that are not whole numbers"
        raise DataError(f"{path.name} expected a label map with FreeSurfer's values, got {got}")
    table = np.zeros(int(present.max()) + 1, np.uint8)
    for value in present:
        table[value] = INDEX[structure_of(int(value)) or "air"]
    structures = table[whole]
    if not np.isin(structures, (INDEX["white-matter"], INDEX["cortex"])).any():
        raise DataError(f"{path.name} expected a brain, got neither white matter (2, 41) nor cortex (3, 42)")
    return Brain(structures, volume.affine)


def parcelled(table: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """A table of structures, each with the parcels that it may be divided into besides: name -> values."""
    parcels: dict[str, tuple[int, ...]] = {}
    for first, last, name in RANGES:
        parcels[name] = (*parcels.get(name, ()), *range(first, last + 1))
    return {name: (*values, *parcels.get(name, ())) for name, values in table.items()}


def structure_of(value: int) -> str | None:
    """The structure that a value of FreeSurfer's means, None for one that has no row here."""
    for name, values in STRUCTURES.items():
        if value in values:
            return name
    return next((name for first, last, name in RANGES if first <= value <= last), None)


def label_of(structure: str) -> int:
    """The label that a structure has in the maps that are made; 0 outside the brain."""
    if structure in LABELS:
        return LABELS[structure]
    if structure in ("vessel", "spot"):  # both lie in white matter, and no annotator would cut them out
        return LABELS["white-matter"]
    values = STRUCTURES[structure]
    for name, members in CLASSES.items():
        if values[0] in members:
            return LABELS[name]
    return LABELS["other-brain"] if 0 < values[0] < 500 else 0


LABEL_OF = np.array([label_of(name) for name in STRUCTURES], np.uint8)
"""Index of a structure -> its label."""


def in_brain() -> tuple[int, ...]:
    """Every value of a structure of the brain: what a map may hold where some of it is asked for."""
    ranges = [(value, value, name) for name, row in STRUCTURES.items() for value in row]
    return tuple(
        value
        for first, last, name in sorted((*ranges, *RANGES))
        if LABEL_OF[INDEX[name]]
        for value in range(first, last + 1)
    )
