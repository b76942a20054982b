"""Histogram standardisation: one intensity for one tissue, whichever scanner made the image.

Nyul, Udupa and Zhang (IEEE TMI 19, 2000), with the percentiles of Shah et al. (Medical Image Analysis 15, 2011). Each
training image's percentiles are laid linearly onto 0 to 100 and averaged to landmarks; an image is then mapped piece by
piece, so that its own percentiles come to lie on the landmarks. Percentiles are taken of the foreground; the one map
that they give holds for foreground and background alike.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fedmerge.errors import ConfigError

PERCENTILES = (1.0, *(float(p) for p in range(10, 100, 10)), 99.0)
RANGE = (0.0, 100.0)
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


def quantiles(image: npt.NDArray[np.floating], where: Mask, percentiles: Sequence[float]) -> Floats:
    """(P,) percentiles of the voxels of a mask, each a value of the image itself (no interpolation).

    So that they go with every map that keeps the order: the percentile of a mapped image is the mapped percentile.
    """
    values = image[where]
    ranks = [round(p / 100 * (values.size - 1)) for p in percentiles]
    return np.asarray(np.partition(values, sorted(set(ranks)))[ranks], np.float64)


def learn(rows: Sequence[Floats]) -> Floats:
    """(P,) landmarks: the mean over images of (P,) percentiles that were laid linearly onto `RANGE`.

    Args:
        rows: of each image that is not constant, its quantiles.

    Raises:
        ConfigError: there is no such image.
    """
    low, high = RANGE
    kept = [low + (high - low) * (p - p[0]) / (p[-1] - p[0]) for p in rows if p[-1] > p[0]]
    if not kept:
        raise ConfigError("landmarks expected an image that is not the same everywhere, got none")
    return np.asarray(np.mean(kept, axis=0), np.float64)


def apply(image: npt.NDArray[np.floating], own: Floats, landmarks: Sequence[float]) -> npt.NDArray[np.float32]:
    """The image with its own quantiles on the landmarks: linear in between, the outermost pieces go on beyond.

    Args:
        image: any shape.
        own: (P,) the image's quantiles.
        landmarks: (P,).

    Returns:
        float32 of the same shape. Of equal quantiles the last one's landmark holds; a constant image becomes 0.
    """
    last = np.append(np.flatnonzero(np.diff(own)), len(own) - 1)
    x, y = own[last], np.asarray(landmarks, np.float64)[last]
    if len(x) < 2:
        return np.zeros(image.shape, np.float32)
    slope = np.diff(y) / np.diff(x)
    piece = np.clip(np.searchsorted(x, image, side="right") - 1, 0, len(slope) - 1)
    return np.asarray(y[piece] + slope[piece] * (image.astype(np.float64) - x[piece]), np.float32)
