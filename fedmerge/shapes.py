"""Scores of a label's shape beside its Dice: how far its surface is off, and how well each lesion is found.

`None` means that there was nothing to find and nothing was found, as in `evaluation`; such a value is left out of every
mean.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Spacing = Sequence[float]
Score = Callable[[Mask, Mask, Spacing], float | None]

DILATIONS = 3  # voxels: lesions of the truth that lie so near to each other count as one
LEAST_MM3 = 50.0  # lesions of the truth up to this volume are not scored


def measure(
    prediction: npt.NDArray[np.integer],
    truth: npt.NDArray[np.integer],
    labels: Mapping[str, int | Sequence[int]],
    spacing_mm: Spacing,
    wanted: Sequence[str],
) -> dict[str, dict[str, float | None]]:
    """The scores that are wanted, of each label or region.

    Args:
        prediction: (X, Y, Z) whole numbers.
        truth: the same shape.
        labels: name -> value, or values that together make a region.
        spacing_mm: the voxel's sides.
        wanted: names of `SHAPES`; others are passed over.

    Returns:
        score -> label -> number or None.
    """
    found: dict[str, dict[str, float | None]] = {name: {} for name in SHAPES if name in wanted}
    for label, value in labels.items() if found else ():
        masks = np.isin(prediction, value), np.isin(truth, value)
        for name, scores in found.items():
            scores[label] = SHAPES[name](*masks, spacing_mm)
    return found


def hd95(prediction: Mask, truth: Mask, spacing_mm: Spacing) -> float | None:
    """The 95 % Hausdorff distance in mm: 95 % of either surface's voxels are no farther than this from the other one.

    A surface are the voxels with a side that does not belong to the mask; of the two directions' 95th percentiles the
    larger one counts (Huttenlocher et al. 1993, with a percentile in place of the maximum; as in MONAI).

    Args:
        prediction: (X, Y, Z).
        truth: the same shape.
        spacing_mm: the voxel's sides.

    Returns:
        None where both are empty; where one of them is, the diagonal of the image: no distance in it is larger.
    """
    if not prediction.any() and not truth.any():
        return None
    if not prediction.any() or not truth.any():
        return math.hypot(*(n * mm for n, mm in zip(truth.shape, spacing_mm, strict=True)))
    from scipy import ndimage  # half a second to import: only where it is asked for

    box = _box(prediction | truth, 0)
    ours, theirs = (mask[box] & ~ndimage.binary_erosion(mask[box]) for mask in (prediction, truth))
    distances = (
        ndimage.distance_transform_edt(~there, sampling=spacing_mm)[here]
        for here, there in ((ours, theirs), (theirs, ours))
    )
    return max(float(np.percentile(one, 95)) for one in distances)


def lesion_dice(prediction: Mask, truth: Mask, spacing_mm: Spacing) -> float | None:
    """The mean Dice over lesions, with 0 for each that was missed and each that is none, as in BraTS 2023.

    Lesions of the truth that grow together within three voxels are one. A lesion's prediction is every connected part
    (26 neighbours) of the prediction that reaches into its surroundings of three voxels; a part that is near no lesion
    is a false positive. Lesions of at most 50 mm^3 are not scored, and what was predicted of them is no mistake.

    After Saluja et al., BraTS 2023 metrics (github.com/rachitsaluja/BraTS-2023-Metrics; gliomas), who write 1 where
    this is None.

    Args:
        prediction: (X, Y, Z).
        truth: the same shape.
        spacing_mm: the voxel's sides.

    Returns:
        a number from 0 to 1; None where there is no lesion to score and no false positive.
    """
    if not prediction.any() and not truth.any():
        return None
    from scipy import ndimage  # as above

    box = _box(prediction | truth, DILATIONS)
    prediction, truth = prediction[box], truth[box]
    corners, edges = ndimage.generate_binary_structure(3, 3), ndimage.generate_binary_structure(3, 2)
    lesions, count = ndimage.label(ndimage.binary_dilation(truth, edges, DILATIONS), corners)
    lesions[~truth] = 0
    parts, total = ndimage.label(prediction, corners)
    volume = np.bincount(parts.ravel(), minlength=total + 1)  # of each part, in voxels
    near_some = np.zeros(total + 1, bool)
    scores = []
    for number in range(1, count + 1):
        here = _box(lesions == number, DILATIONS)
        lesion = lesions[here] == number
        near = np.unique(parts[here][ndimage.binary_dilation(lesion, edges, DILATIONS)])
        near = near[near > 0]
        near_some[near] = True
        if lesion.sum() * math.prod(spacing_mm) > LEAST_MM3:
            common = (np.isin(parts[here], near) & lesion).sum()
            scores.append(2 * common / (lesion.sum() + volume[near].sum()))
    false = total - int(near_some.sum())
    return float(sum(scores) / (len(scores) + false)) if scores or false else None


def _box(mask: Mask, margin: int) -> tuple[slice, ...]:
    """The smallest box around the mask, and a margin of voxels as far as the image goes."""
    box = []
    for axis, size in enumerate(mask.shape):
        filled = np.flatnonzero(mask.any(tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(max(0, int(filled[0]) - margin), min(size, int(filled[-1]) + 1 + margin)))
    return tuple(box)


SHAPES: dict[str, Score] = {"hd95": hd95, "lesion-dice": lesion_dice}
