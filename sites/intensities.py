"""A case's intensities on their way to the net: box, bias field, histogram, clip and normalise, in this order.

`docs/preprocessing.md` says why this is the order.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fedmerge.errors import DataError
from sites import bias_field, foreground, histogram, preprocess
from sites.foreground import Box, Mask
from sites.records import Landmarks
from sites.steps import Steps


def apply(
    channels: Sequence[npt.NDArray[np.float32]],
    names: Sequence[str],
    steps: Steps,
    spacing_mm: tuple[float, float, float],
    who: str = "",
    mask: Mask | None = None,
) -> tuple[list[npt.NDArray[np.float32]], Box]:
    """The channels as the net's patch is cut from them, and the box of the volume that they are.

    Args:
        channels: (X, Y, Z) each, on the first one's voxels.
        names: of the modalities.
        steps: what is done.
        spacing_mm: voxel size.
        who: the site, for the error.
        mask: bool (X, Y, Z) on the same voxels, where `steps` crop by one.

    Returns:
        (*box) float32 each, normalised; and where the box lies.

    Raises:
        DataError: a modality has no landmarks.
    """
    box = foreground.box(channels, steps.crop, mask)
    standard = (
        _standard(_even(box.cut(channel), steps, spacing_mm), name, steps.landmarks, who)
        for channel, name in zip(channels, names, strict=True)
    )
    return [preprocess.normalise(channel, steps.clip) for channel in standard], box


def quantiles(
    channel: npt.NDArray[np.float32],
    steps: Steps,
    spacing_mm: tuple[float, float, float],
    kind: str,
    box: Box,
) -> npt.NDArray[np.float64]:
    """(P,) quantiles that landmarks are learnt from: those of a channel before it is standardised."""
    even = _even(box.cut(channel), steps, spacing_mm)
    return histogram.quantiles(even, foreground.mask(even, kind), histogram.PERCENTILES)


def _even(
    image: npt.NDArray[np.float32], steps: Steps, spacing_mm: tuple[float, float, float]
) -> npt.NDArray[np.float32]:
    return bias_field.correct(image, steps.bias_field, spacing_mm) if steps.bias_field else image


def _standard(
    image: npt.NDArray[np.float32], name: str, landmarks: Landmarks | None, who: str
) -> npt.NDArray[np.float32]:
    if landmarks is None:
        return image
    known = dict(landmarks.channels)
    if name not in known:
        raise DataError(f"{who}: 'landmarks' expected the modality '{name}', got landmarks of {', '.join(known)}")
    where = foreground.mask(image, landmarks.foreground)
    return histogram.apply(image, histogram.quantiles(image, where, landmarks.percentiles), known[name])
