"""Label maps like FreeSurfer's, of the made-up heads of `sites.anatomy`: what the tests have in place of real ones."""

from functools import cache
from pathlib import Path

import nibabel
import numpy as np

from sites import anatomy
from sites.draws import generator

SPACING_MM = 2.0
SHAPE = (88, 106, 92)

# surface of the made-up head -> FreeSurfer's values, left and right
VALUES = {
    "fat": (511, 511),
    "muscle": (507, 507),
    "bone": (515, 515),
    "csf": (24, 24),
    "cortex": (3, 42),
    "white-matter": (2, 41),
    "cerebellum": (8, 47),
    "arbor-vitae": (7, 46),
    "ventricles": (4, 43),
    "thalamus": (10, 49),
    "caudate": (11, 50),
    "putamen": (12, 51),
    "pallidum": (13, 52),
    "hippocampus": (17, 53),
    "brainstem": (16, 16),
}


@cache
def head(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Values (int16) and affine of one head, RAS."""
    affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    affine[:3, 3] = -SPACING_MM * (np.array(SHAPE) - 1) / 2 + [0, 0, -6]
    patient = anatomy.draw(generator("made head", number), lesions=0.0)
    where = anatomy.place(patient, affine, SHAPE)
    values = np.zeros(SHAPE, np.int16)
    for name, distance in anatomy.surfaces(patient, where):
        left, right = VALUES[name]
        values[(distance < 0) & (where[0] < 0)] = left
        values[(distance < 0) & (where[0] >= 0)] = right
    return values, affine


def save(path: Path, number: int, axes: str = "RAS") -> Path:
    """Writes a head as NIfTI or MGH, stored along the given axes."""
    values, affine = head(number)
    image = nibabel.MGHImage(values, affine) if path.name.endswith(".mgz") else nibabel.Nifti1Image(values, affine)
    to = nibabel.orientations.axcodes2ornt(axes)
    image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), to)).to_filename(path)
    return path


def folder(where: Path, count: int) -> Path:
    """A folder of heads."""
    where.mkdir()
    for number in range(count):
        save(where / f"head_{number}.nii.gz", number)
    return where
