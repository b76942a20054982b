"""Heads whose four modalities lie on three grids: oblique voxels, thick slices, another field of view.

From the real label maps beside the checkout where they are, else from the phantom. Each head has a bright ball whose
place in mm is known: what a net finds there tells whether everything lies where it should.
"""

from pathlib import Path

import numpy as np
from made_cases import write
from scipy.spatial.transform import Rotation

from sites import anatomy, contrasts, freesurfer
from sites.draws import generator

ANATOMY = Path(__file__).parents[2] / "shared/anatomy"
MODALITIES = ("T1", "T1ce", "T2", "FLAIR")
RADIUS_MM = 26.0


def view(spacing_mm, shape, turn_deg=(0, 0, 0), centre_mm=(0, 0, 0)):
    """The affine of a field of view, and its shape."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", turn_deg, degrees=True).as_matrix() @ np.diag(spacing_mm)
    affine[:3, 3] = np.array(centre_mm) - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine, shape


VIEWS = {
    "T1": view((4, 4, 4), (42, 50, 44), (12, -8, 15)),  # oblique
    "T1ce": view((4, 4, 4), (42, 50, 44), (12, -8, 15)),
    "T2": view((3, 3, 5.5), (60, 70, 32)),  # thick slices, stored from left to right
    "FLAIR": view((-4, 4, 4), (34, 42, 36), (0, 5, 0), (6, -8, 4)),  # less of the head, from right to left
}


def of_the_phantom(seed):
    """A made-up head around the origin: (contrast, affine, shape) -> relative intensities."""
    patient = anatomy.draw(generator("three grids", seed), lesions=0)

    def seen(contrast, affine, shape):
        image, _ = anatomy.paint(patient, anatomy.place(patient, affine, shape), 4.0)
        return image if contrast.startswith("T1") else np.clip(1 - image, 0, 1) * (image > 0.05)

    return seen


def of_a_real_head(path, seed):
    """A head from a label map, its middle moved to the origin: likewise."""
    brain = freesurfer.read(path)

    def seen(contrast, affine, shape):
        means = contrasts.means(contrast, generator("three grids", seed, contrast))
        place = millimetres(affine, shape) + brain.middle_mm
        voxel = np.rint((place - brain.affine[:3, 3]) @ np.linalg.inv(brain.affine[:3, :3]).T).astype(int)
        inside = ((voxel >= 0) & (voxel < brain.structures.shape)).all(-1)
        x, y, z = np.moveaxis(np.where(inside[..., None], voxel, 0), -1, 0)
        return np.where(inside, means[brain.structures[x, y, z]], 0.02)

    return seen


def millimetres(affine, shape):
    """(*shape, 3) where each voxel lies."""
    return np.stack(np.indices(shape), -1) @ affine[:3, :3].T + affine[:3, 3]


def ball(centre_mm, affine, shape):
    """(*shape) bool: the voxels of the ball."""
    return ((millimetres(affine, shape) - centre_mm) ** 2).sum(-1) < RADIUS_MM**2


def write_case(folder, case, seed=0, path=None):
    """One case in the layout `folders`, its label map on the grid of T1.

    Args:
        folder: of the cases.
        case: its name.
        seed: of the head and of the ball's place.
        path: a real label map; None: the phantom's head.

    Returns:
        (3,) the ball's centre in mm.
    """
    seen = of_a_real_head(path, seed) if path else of_the_phantom(seed)
    dice = generator("three grids ball", seed)
    centre = dice.uniform(-14, 14, 3)
    for modality, (affine, shape) in VIEWS.items():
        image = seen(modality, affine, shape) + 0.02 * dice.standard_normal(shape)
        image[ball(centre, affine, shape)] = 2.5
        write(folder / case / f"{modality}.nii.gz", (1000 * image).astype(np.float32), affine)
    write(folder / case / "label.nii.gz", ball(centre, *VIEWS["T1"]).astype(np.uint8), VIEWS["T1"][0])
    return centre


def heads():
    """What cases are made of: a name, and the label map of a real head; None: the phantom's."""
    real = {"anatomy": sorted(ANATOMY.glob("*.nii.gz"))[0]} if ANATOMY.is_dir() else {}
    return {"phantom": None, **real}
