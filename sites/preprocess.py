"""From a hospital's grid to the net's patch and back: intensities, resampling, cropping.

A patch shares its centre and its axes with the volume, so that resampling is separable: along each axis one
small matrix takes the volume's samples to the patch's, and another takes them back.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedmerge.regions import Regions
from sites.records import CLIP
from sites.volumes import Array

Size = tuple[int, int, int]
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Grid:
    """A volume's canonical grid, and the patch that lies in its middle.

    Attributes:
        shape: the volume's (X, Y, Z).
        spacing_mm: the volume's voxel size.
        patch: the patch's (X, Y, Z); of a whole volume as many voxels as it takes at the patch's spacing.
        patch_spacing_mm: the patch's voxel size; the volume's own means crop and pad by whole voxels.
    """

    shape: Size
    spacing_mm: Spacing
    patch: Size
    patch_spacing_mm: Spacing

    @property
    def resampled(self) -> tuple[bool, ...]:
        """Axis by axis: whether the patch's spacing differs from the volume's."""
        return tuple(abs(p / s - 1) > 1e-3 for p, s in zip(self.patch_spacing_mm, self.spacing_mm))

    def whole(self) -> "Grid":
        """The same with a patch that holds all of the volume, and is no smaller than this one along any axis."""
        lengths = zip(self.shape, self.spacing_mm, self.patch_spacing_mm, self.resampled)
        sides = [math.ceil(n * mm / to_mm - 1e-3) if resampled else n for n, mm, to_mm, resampled in lengths]
        x, y, z = map(max, sides, self.patch)
        return replace(self, patch=(x, y, z))


def normalise(image: npt.NDArray[np.floating], clip: tuple[float, float] = CLIP) -> npt.NDArray[np.float32]:
    """Clips at two percentiles, then mean 0 and standard deviation 1; a constant image becomes 0.

    Args:
        image: one channel, any shape.
        clip: the percentiles, 0 to 100.

    Returns:
        float32 of the same shape.
    """
    low, high = percentiles(image, clip)
    clipped = np.clip(image.astype(np.float32, copy=False), low, high)
    centred = clipped - clipped.mean(dtype=np.float64).astype(np.float32)
    deviation = float(np.sqrt(np.mean(np.square(centred), dtype=np.float64)))
    return centred / np.float32(deviation) if deviation > 0 else np.zeros_like(centred)


def percentiles(image: npt.NDArray[np.floating], which: tuple[float, float] = CLIP) -> tuple[float, float]:
    """Two percentiles, each a value of the image itself (no interpolation)."""
    ranks = [round(p / 100 * (image.size - 1)) for p in which]
    low, high = np.partition(image, ranks, axis=None)[ranks]
    return float(low), float(high)


def crop(array: Array, grid: Grid) -> npt.NDArray[np.float32]:
    """A volume on the patch: resampled where the spacing differs (see `interpolation`), else cropped or padded.

    Args:
        array: (..., X, Y, Z) of the grid's shape.
        grid: where the patch lies.

    Returns:
        float32 (..., *patch); outside the volume 0.
    """
    out = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    return np.asarray(_along_axes(out, _to_patch(grid)).numpy())


def crop_labels(labels: npt.NDArray[np.uint8], grid: Grid, count: int) -> npt.NDArray[np.uint8]:
    """A label map on the patch: each voxel takes the label that fills most of it.

    Args:
        labels: (X, Y, Z), values 0..count.
        grid: where the patch lies.
        count: number of labels without the background.

    Returns:
        uint8 (*patch); outside the volume 0.
    """
    one_hot = labels == np.arange(1, count + 1, dtype=np.uint8)[:, None, None, None]
    parts = crop(one_hot, grid)
    return _winner(torch.from_numpy(parts)).numpy()


def restore(probabilities: Tensor, grid: Grid, regions: Regions | None = None) -> npt.NDArray[np.uint8]:
    """A patch's probabilities as a label map on the volume's own canonical grid.

    Args:
        probabilities: (K + 1, *patch), channel 0 is the background; they sum to 1. Of regions (R, *patch).
        grid: where the patch lies.
        regions: what the channels are where they are no labels.

    Returns:
        uint8 (X, Y, Z) of values 0..K; background outside the patch.
    """
    if regions is not None:
        return np.asarray(regions.label_map(_along_axes(probabilities.float().cpu(), _to_volume(grid))).numpy())
    return _winner(_along_axes(probabilities[1:].float().cpu(), _to_volume(grid))).numpy()


def outside(labels: npt.NDArray[np.uint8], grid: Grid) -> float:
    """The share of a label map's foreground voxels that the patch does not hold, 0 to 1."""
    voxels = np.argwhere(labels)
    if not len(voxels):
        return 0.0
    spacing, patch_mm = np.array(grid.spacing_mm), np.array(grid.patch) * grid.patch_spacing_mm
    from_centre = (voxels + 0.5 - np.array(grid.shape) / 2) * spacing
    return float((np.abs(from_centre) > patch_mm / 2).any(1).mean())


def _winner(foreground: Tensor) -> Tensor:
    """(K, *S) shares of the foreground labels -> (*S) the largest one's number, 0 for the background's.

    A tie goes to the label: at half the resolution a voxel is often just half full, and were those lost a
    hippocampus would lose 15 % of its volume on the way to the patch and back.
    """
    best, label = foreground.max(0)
    return torch.where(best > 1 - foreground.sum(0) - 1e-6, label + 1, 0).to(torch.uint8)


def _along_axes(array: Tensor, matrices: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """(..., X, Y, Z) times one matrix an axis: the axis that shrinks most goes first, to save work."""
    for axis in sorted(range(3), key=lambda a: matrices[a].shape[0] / matrices[a].shape[1]):
        matrix = matrices[axis]
        rows, columns = matrix.shape
        if rows == columns and torch.equal(matrix, torch.eye(rows)):
            continue  # as it is; cropping by one voxel keeps the diagonal too
        if axis == 2:
            array = array @ matrix.T
        elif axis == 1:
            array = matrix @ array
        else:
            x, y, z = array.shape[-3:]
            flat = matrix @ array.reshape(*array.shape[:-3], x, y * z)
            array = flat.reshape(*array.shape[:-3], matrix.shape[0], y, z)
    return array


@lru_cache(maxsize=1024)
def _to_patch(grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    return _matrices(grid, grid.shape, grid.spacing_mm, grid.patch, grid.patch_spacing_mm)


@lru_cache(maxsize=1024)
def _to_volume(grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    return _matrices(grid, grid.patch, grid.patch_spacing_mm, grid.shape, grid.spacing_mm)


def _matrices(
    grid: Grid, shape: Size, spacing: Spacing, to_shape: Size, to_spacing: Spacing
) -> tuple[Tensor, Tensor, Tensor]:
    x, y, z = (
        interpolation(shape[a], spacing[a], to_shape[a], to_spacing[a])
        if grid.resampled[a]
        else shifting(shape[a], to_shape[a])
        for a in range(3)
    )
    return x, y, z


def shifting(count: int, to_count: int) -> Tensor:
    """(to_count, count) of zeros and ones: crops or pads in the middle by whole voxels.

    Where the difference is odd, the larger half of what is cut or padded lies at the end, so that padding undoes
    cropping.
    """
    offset = (count - to_count) // 2 if count >= to_count else -((to_count - count) // 2)
    source = torch.arange(to_count) + offset
    return (source[:, None] == torch.arange(count)).float()


def interpolation(count: int, spacing_mm: float, to_count: int, to_spacing_mm: float) -> Tensor:
    """(to_count, count): resampling between two centred rows of samples.

    To a finer row by linear interpolation, the outer half of the outermost voxels constant; to a coarser row by
    the mean over each new voxel, which keeps fine detail from aliasing. At equal spacing the two agree. What lies
    outside the source's voxels counts as 0.
    """
    centre = (torch.arange(to_count, dtype=torch.float64) - (to_count - 1) / 2) * to_spacing_mm
    edge = count * spacing_mm / 2
    if to_spacing_mm > spacing_mm:
        walls = torch.linspace(-edge, edge, count + 1, dtype=torch.float64)
        left = torch.maximum(walls[:-1], centre[:, None] - to_spacing_mm / 2)
        right = torch.minimum(walls[1:], centre[:, None] + to_spacing_mm / 2)
        return ((right - left).clamp_min(0) / to_spacing_mm).float()
    source = (torch.arange(count, dtype=torch.float64) - (count - 1) / 2) * spacing_mm
    nearest = centre.clamp(source[0], source[-1])
    weight = (1 - (nearest[:, None] - source).abs() / spacing_mm).clamp_min(0)
    return (weight * (centre.abs() <= edge + 1e-6)[:, None]).float()
