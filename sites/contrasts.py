"""How bright each structure is in T1, T2, T1 after a contrast agent (T1ce) and FLAIR: relative, air about 0."""

import numpy as np
import numpy.typing as npt

from sites.freesurfer import INDEX, STRUCTURES

CONTRASTS = ("T1", "T2", "T1ce", "FLAIR")
JITTER = 0.03
"""Standard deviation of a structure's mean from image to image."""

SPREAD = 0.035
"""Standard deviation of the tissue itself, from voxel to voxel."""

ROUGH = {"core": 0.06, "enhancing": 0.06, "oedema": 0.045, "soft-tissue": 0.09, "marrow": 0.07, "mucosa": 0.07}
"""Structures that are less even than `SPREAD`."""

# structure -> T1, T2, T1ce, FLAIR
MEANS: dict[str, tuple[float, float, float, float]] = {
    "air": (0.02, 0.02, 0.02, 0.02),
    "oedema": (0.62, 0.72, 0.61, 0.80),
    "core": (0.30, 0.85, 0.32, 0.52),
    "enhancing": (0.58, 0.60, 0.92, 0.66),
    "vessel": (0.50, 0.22, 0.88, 0.38),
    "spot": (0.66, 0.60, 0.66, 0.74),
    "cortex": (0.55, 0.56, 0.56, 0.58),
    "accumbens": (0.57, 0.52, 0.58, 0.57),
    "white-matter": (0.82, 0.33, 0.82, 0.42),
    "white-matter-lesion": (0.66, 0.60, 0.66, 0.74),
    "lesion": (0.66, 0.60, 0.66, 0.74),
    "cerebellum-cortex": (0.56, 0.54, 0.57, 0.56),
    "cerebellum-white-matter": (0.79, 0.36, 0.79, 0.44),
    "thalamus": (0.66, 0.46, 0.66, 0.51),
    "caudate": (0.58, 0.50, 0.59, 0.56),
    "putamen": (0.61, 0.48, 0.62, 0.53),
    "pallidum": (0.72, 0.32, 0.72, 0.42),
    "hippocampus": (0.55, 0.57, 0.56, 0.62),
    "amygdala": (0.56, 0.55, 0.57, 0.60),
    "choroid-plexus": (0.45, 0.70, 0.72, 0.55),
    "ventral-dc": (0.72, 0.40, 0.72, 0.47),
    "brainstem": (0.76, 0.39, 0.76, 0.47),
    "ventricles": (0.16, 0.95, 0.17, 0.15),
    "csf": (0.16, 0.95, 0.17, 0.15),
    "other-brain": (0.58, 0.52, 0.60, 0.52),
    "blood": (0.40, 0.30, 0.80, 0.35),
    "chiasm": (0.74, 0.40, 0.74, 0.46),
    "artery": (0.45, 0.14, 0.80, 0.22),
    "eye": (0.18, 0.92, 0.19, 0.20),
    "eye-muscle": (0.48, 0.34, 0.62, 0.44),
    "mucosa": (0.42, 0.62, 0.66, 0.52),
    "skin": (0.72, 0.42, 0.74, 0.48),
    "spinal-cord": (0.74, 0.42, 0.74, 0.48),
    "vein": (0.34, 0.24, 0.84, 0.30),
    "bone": (0.12, 0.10, 0.12, 0.11),
    "marrow": (0.62, 0.40, 0.64, 0.42),
    "optic-nerve": (0.72, 0.42, 0.72, 0.48),
    "soft-tissue": (0.50, 0.36, 0.54, 0.42),
}


def means(contrast: str, dice: np.random.Generator, *, gamma: float = 1.0) -> npt.NDArray[np.float32]:
    """(structures,): the mean of each structure in one image, jittered and then in the hospital's own contrast.

    Fluid is the same fluid everywhere: ventricles and CSF share one draw.

    Args:
        contrast: a name of `CONTRASTS`.
        dice: of the image.
        gamma: relative intensities are raised to it.
    """
    which = CONTRASTS.index(contrast)
    table = np.array([MEANS[name][which] for name in STRUCTURES])
    shift = dice.normal(0, JITTER, len(table))
    shift[INDEX["air"]] = 0
    shift[INDEX["csf"]] = shift[INDEX["ventricles"]]
    moved = np.clip(table + shift, 0.01, None) ** gamma
    return np.asarray(moved, np.float32)


def spreads() -> npt.NDArray[np.float32]:
    """(structures,): the standard deviation inside each structure."""
    wide = np.array([ROUGH.get(name, SPREAD) for name in STRUCTURES], np.float32)
    wide[INDEX["air"]] = 0
    return wide
