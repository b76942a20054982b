"""A simulated scanner: what differs between two hospitals' images of the same head, in simulations only."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from sites import preprocess
from sites.draws import generator
from sites.records import Scanner

BIAS_KNOTS = 4
"""A bias field is smooth: that many random values along each axis, spline-interpolated in between."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """The dice of one image.

    Attributes:
        field: (BIAS_KNOTS,) * 3 standard normal values, the knots of the logarithm of the bias field.
        noise: standard normal, of the image's shape.
    """

    field: npt.NDArray[np.float32]
    noise: npt.NDArray[np.float32]


def draw(site: str, case: str, shape: tuple[int, ...]) -> Drawn:
    """The dice of a site's case: the same patient at the same site always looks the same."""
    dice = generator("scanner", site, case)
    field = dice.standard_normal((BIAS_KNOTS,) * 3, dtype=np.float32)
    return Drawn(field, dice.standard_normal(shape, dtype=np.float32))


def apply(
    image: npt.NDArray[np.float32], scanner: Scanner, drawn: Drawn, spacing_mm: tuple[float, float, float]
) -> npt.NDArray[np.float32]:
    """The image as the scanner would have shown it.

    Args:
        image: (X, Y, Z), any scale; percentiles 1 and 99 become 0 and 1.
        scanner: the shift.
        drawn: the dice, for this image's shape.
        spacing_mm: voxel size, for the blur.

    Returns:
        float32 (X, Y, Z).
    """
    low, high = preprocess.percentiles(image)
    x = np.clip((image - low) / ((high - low) or 1.0), 0, 1).astype(np.float32)
    if scanner.blur:
        x = ndimage.gaussian_filter(x, [scanner.blur / mm for mm in spacing_mm])
    if scanner.invert:
        x = 1 - x
    x = scanner.gain * x**scanner.gamma
    if scanner.bias:
        x = x * np.exp(scanner.bias * smooth(drawn.field, image.shape))
    return np.asarray(x + scanner.offset + scanner.noise * drawn.noise, dtype=np.float32)


def smooth(knots: npt.NDArray[np.float32], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """A field through evenly spread knots, by cubic splines: (k, l, m) values -> (X, Y, Z).

    Splines on a lattice are products of splines along its axes, so that three small matrices do the work.
    """
    x, y, z = (_spline(count, size) for count, size in zip(knots.shape, shape, strict=True))
    # einsum and not a matrix product: BLAS sums in an order that depends on its number of threads
    field = np.einsum("zc,abc->abz", z, knots)
    field = np.einsum("yb,abz->ayz", y, field)
    return np.asarray(np.einsum("xa,ayz->xyz", x, field), np.float32)


@lru_cache(maxsize=256)
def _spline(count: int, size: int) -> npt.NDArray[np.float32]:
    """(size, count): the spline of each unit vector, at `size` points."""
    unit = np.eye(count, dtype=np.float32)
    return np.asarray(ndimage.zoom(unit, (size / count, 1), order=3, mode="nearest", grid_mode=True))
