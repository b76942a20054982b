"""Images from label maps: a head is bent, seen by a scanner in each contrast, and averaged down to its voxels.

A generative model like SynthSeg's (Billot et al., Medical Image Analysis 86:102789, 2023), but with the brightness of
real contrasts. The structures are pulled on a grid of twice the resolution, so that a voxel of the image which a
border cuts gets its share of both sides. Coordinates are mm in the scanner's axes (x right, y front, z up) around the
middle of the brain.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from sites import anatomy, contrasts, lesions
from sites.freesurfer import LABEL_OF, LABELS, Brain
from sites.phantom import Profile, receive
from sites.scanner import smooth

Field = npt.NDArray[np.float32]
Structures = npt.NDArray[np.uint8]
Size = tuple[int, int, int]

TURN_DEG = 8.0
STRETCH = 0.08
SHIFT_MM = 3.0
BEND_MM = 2.0
"""Standard deviation along each axis: tissue moves by about 3 mm."""

BEND_KNOT_MM = 32.0
BLUR_MM = (0.5, 0.9)
GAMMA = 0.08
"""Standard deviation of the logarithm of an image's own gamma."""

BIAS_KNOT_MM = 60.0
WHOLE_MM = (176.0, 208.0, 176.0)
"""Field of view of a whole head."""


@dataclass(frozen=True, eq=False)
class Pose:
    """The dice of how a head lies: the same brain becomes another patient.

    Attributes:
        turn: (3, 3), rotation and scaling, from the scanner's axes to the head's.
        shift: (3,) mm.
        bend: (3, k, l, m) mm, knots of a smooth displacement over the field of view.
    """

    turn: Field
    shift: Field
    bend: Field


@dataclass(frozen=True, eq=False)
class View:
    """A field of view: `shape` voxels of `spacing_mm` around `centre`, along the scanner's axes."""

    centre: Field
    shape: Size
    spacing_mm: float

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """(4, 4), from voxel indices to mm."""
        matrix = np.diag([self.spacing_mm] * 3 + [1.0])
        matrix[:3, 3] = self.centre - self.spacing_mm * (np.array(self.shape) - 1) / 2
        return matrix

    @property
    def finer(self) -> "View":
        """The same field of view with twice the voxels along each axis."""
        x, y, z = (2 * size for size in self.shape)
        return View(self.centre, (x, y, z), self.spacing_mm / 2)

    def voxel(self, place: Field) -> Field:
        """(3,) mm -> (3,) voxel indices."""
        return np.asarray((place - self.affine[:3, 3]) / self.spacing_mm, np.float32)


def draw(dice: np.random.Generator, extent_mm: Sequence[float]) -> Pose:
    """How a head lies in a field of view of so many mm."""
    turn = anatomy.rotation(np.deg2rad(np.clip(dice.normal(0, TURN_DEG, 3), -20, 20)))
    stretch = np.clip(dice.normal(1, STRETCH, 3), 0.8, 1.2)
    count = [max(3, round(mm / BEND_KNOT_MM)) for mm in extent_mm]
    return Pose(
        turn=(turn / stretch[:, None]).astype(np.float32),
        shift=dice.normal(0, SHIFT_MM, 3).astype(np.float32),
        bend=dice.normal(0, BEND_MM, (3, *count)).astype(np.float32),
    )


def seen_at(brain: Brain, place: npt.NDArray[np.float64], pose: Pose) -> Field:
    """(3,) mm of the label map -> where the scanner has it, but for the bending."""
    return np.asarray(np.linalg.solve(pose.turn, place - brain.middle_mm) + pose.shift, np.float32)


def pull(brain: Brain, pose: Pose, view: View, tumour: tuple[Field, lesions.Lesion] | None = None) -> Structures:
    """The structure at each voxel of the view: the nearest voxel of the label map, so no value is new.

    Args:
        brain: the label map.
        pose: how the head lies.
        view: the voxels.
        tumour: its centre in the scanner's mm and its dice; tissue moves out of its way.

    Returns:
        (X, Y, Z) uint8; air outside the label map.
    """
    where = np.empty((3, *view.shape), np.float32)
    axes = np.ix_(*(np.arange(size, dtype=np.float32) for size in view.shape))
    for a in range(3):
        where[a] = axes[a] * np.float32(view.spacing_mm) + np.float32(view.affine[a, 3])
    if tumour is not None:
        lesions.push(where, *tumour)
    to_voxel = np.linalg.inv(brain.affine)
    matrix = (to_voxel[:3, :3] @ pose.turn).astype(np.float32)
    start = (to_voxel[:3, :3] @ (brain.middle_mm - pose.turn @ pose.shift) + to_voxel[:3, 3]).astype(np.float32)
    bend = [smooth(knots, view.shape) for knots in pose.bend]
    bending = to_voxel[:3, :3].astype(np.float32)
    flat = np.zeros(view.shape, np.int64)
    inside = np.ones(view.shape, bool)
    for a, size in enumerate(brain.structures.shape):
        # one sum after the other, and no matrix product: its order would depend on the number of threads
        at = matrix[a, 0] * where[0] + matrix[a, 1] * where[1] + matrix[a, 2] * where[2] + start[a]
        for b in range(3):
            if bending[a, b]:
                at += bending[a, b] * bend[b]
        nearest = np.rint(at).astype(np.int32)
        inside &= (nearest >= 0) & (nearest < size)
        flat = flat * size + np.clip(nearest, 0, size - 1)
    return np.where(inside, brain.structures.ravel()[flat], 0).astype(np.uint8)


def image(
    structures: Structures, contrast: str, profile: Profile, voxel_mm: float, dice: np.random.Generator
) -> npt.NDArray[np.int16]:
    """One contrast of a head in a hospital's scanner.

    Args:
        structures: (2X, 2Y, 2Z), on voxels of half the size.
        contrast: a name of `contrasts.CONTRASTS`.
        profile: the scanner.
        voxel_mm: side of the image's voxels.
        dice: of the image.

    Returns:
        (X, Y, Z).
    """
    means = contrasts.means(contrast, dice, gamma=profile.gamma)
    seen = paint(structures, means, float(dice.uniform(*BLUR_MM)) / voxel_mm, dice)
    own = replace(profile, gamma=float(np.exp(dice.normal(0, GAMMA))))  # the hospital's own is in the means
    return receive(seen, own, dice, knots=max(2, round(max(seen.shape) * voxel_mm / BIAS_KNOT_MM)))


def paint(structures: Structures, means: Field, blur: float, dice: np.random.Generator) -> Field:
    """Relative intensities: a Gaussian for each structure, blurred, then averaged down.

    Args:
        structures: (2X, 2Y, 2Z).
        means: (structures,) of one contrast.
        blur: standard deviation, in voxels of the result.
        dice: of the tissue.

    Returns:
        (X, Y, Z).
    """
    fine = dice.standard_normal(structures.shape, dtype=np.float32)
    fine *= contrasts.spreads()[structures]
    fine += means[structures]
    return halve(ndimage.gaussian_filter(fine, 2 * blur, truncate=3.0))


def halve(fine: Field) -> Field:
    """(2X, 2Y, 2Z) -> (X, Y, Z): the mean of each 2 x 2 x 2 voxels."""
    x, y, z = (size // 2 for size in fine.shape)
    return np.asarray(fine.reshape(x, 2, y, 2, z, 2).mean((1, 3, 5)), np.float32)


def halve_labels(structures: Structures) -> Structures:
    """(2X, 2Y, 2Z) structures -> (X, Y, Z) labels: the label that most of 2 x 2 x 2 voxels have.

    A tie goes to a label and not to the background, then to a tumour and not to what it grows in, and else to either
    side by turns, so that no border moves.
    """
    fine = LABEL_OF[structures]
    eight = np.stack([fine[i::2, j::2, k::2] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    turns = sum(np.ix_(*(np.arange(size) for size in eight.shape[1:])))
    eight = np.where(turns % 2, eight[::-1], eight)
    best = np.zeros(eight.shape[1:], np.int16)
    won = np.zeros(eight.shape[1:], np.uint8)
    for one in eight:
        votes = 4 * (eight == one).sum(0, dtype=np.int16) + (one > 0) + (one >= LABELS["oedema"])
        ahead = votes > best
        best[ahead], won[ahead] = votes[ahead], one[ahead]
    return won
