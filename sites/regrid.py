"""Modalities of one case on one grid: a volume on other voxels is brought onto the first one's, by SimpleITK.

Two grids are related by their affines, so that oblique, flipped and sheared ones, thick slices and other fields of view
are all the same case: a voxel index of the first volume times `inverse(affine) @ first.affine` is a place between the
voxels of the other.
"""

# SimpleITK is typed, but most of its functions are not annotated.
# mypy: disable-error-code="no-untyped-call"

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK

from fedmerge.errors import DataError
from sites import volumes
from sites.volumes import SAME_AFFINE_MM, Array, Volume

LEAST_SHARED = 0.1
"""An image that shows less of the first one's voxels than this lies somewhere else, most likely by its header."""
LEAST_LABELLED = 0.95
"""A label map with less of its foreground inside the first image lies somewhere else."""


def same(volume: Volume, first: Volume) -> bool:
    """Whether both have the same canonical voxels, to `SAME_AFFINE_MM` at every corner."""
    if volume.data.shape != first.data.shape:
        return False
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(first.data.shape) - 1)
    apart = np.abs(_places(corners, first.affine) - _places(corners, volume.affine))
    return bool(apart.max() <= SAME_AFFINE_MM)


def read(paths: Sequence[Path], channels: int, grids: str, who: str = "") -> tuple[list[Volume], int]:
    """A case's channels on the voxels of the first, and how many of them had others.

    Args:
        paths: a file for each channel, or one with all of them in a fourth dimension.
        channels: how many there are.
        grids: what follows where a channel has other voxels: "refuse" or "resample".
        who: the site, for the errors.

    Raises:
        DataError: a file cannot be read, or has other voxels and is refused.
    """
    if len(paths) == 1:
        return volumes.read_channels(paths[0], channels, who=who), 0
    first, *others = (volumes.read(path, who=who) for path in paths)
    name = f"the image {paths[0].name}" if who else paths[0].name
    laid = [
        image(volume, first, grids, name, f"{who}: {path.name}" if who else path.name)
        for path, volume in zip(paths[1:], others, strict=True)
    ]
    return [first, *laid], sum(one is not volume for one, volume in zip(laid, others, strict=True))


def image(volume: Volume, first: Volume, grids: str, name_first: str, name: str) -> Volume:
    """An image on the first one's voxels: as it is, or by linear interpolation.

    Args:
        volume: (X', Y', Z') float32, on any voxels.
        first: the volume whose voxels are wanted.
        grids: "refuse" or "resample".
        name_first: what errors call the first one.
        name: what they call the other.

    Returns:
        (X, Y, Z) float32; what the image's field of view does not hold has the image's smallest value.

    Raises:
        DataError: it has other voxels and is refused, or the two show hardly anything in common.
    """
    if _stays(volume, first, grids, name_first, name):
        return volume
    there = shared(volume, first)
    if there < LEAST_SHARED:
        raise DataError(
            f"{name} expected to show at least {LEAST_SHARED:.0%} of the voxels of {name_first}, shows {there:.0%}"
        )
    return replace(first, data=_resampled(volume, first, SimpleITK.sitkLinear, float(volume.data.min())))


def labels(
    volume: Volume, first: Volume, grids: str, name_first: str, name: str, least: float = LEAST_LABELLED
) -> Volume:
    """A label map on the first image's voxels: as it is, or each takes the nearest voxel's value, and 0 outside.

    Args:
        volume: (X', Y', Z'), on any voxels.
        first: as for `image`, like the next three.
        grids: "refuse" or "resample".
        name_first: what errors call the first one.
        name: what they call the label map.
        least: the share of its foreground that has to lie inside the image.

    Raises:
        DataError: it has other voxels and is refused, or a part of its foreground lies outside the image.
    """
    if _stays(volume, first, grids, name_first, name):
        return volume
    foreground = np.argwhere(volume.data)
    place = _places(_places(foreground, volume.affine), np.linalg.inv(first.affine))
    inside = float(_within(place, first.data.shape).mean()) if len(foreground) else 1.0
    if inside < least:
        raise DataError(f"{name} expected its labels inside {name_first}, got {inside:.0%} of their voxels there")
    return replace(first, data=_resampled(volume, first, SimpleITK.sitkNearestNeighbor, 0.0))


def _stays(volume: Volume, first: Volume, grids: str, name_first: str, name: str) -> bool:
    """Whether it has the first one's voxels; where others are refused, an error says that it has not."""
    if grids == "refuse":
        volumes.same_grid(first, volume, name_first, name)
        return True
    return same(volume, first)


def shared(volume: Volume, first: Volume) -> float:
    """The share of the first one's voxels that the volume's field of view holds, on a lattice of 16 along each axis."""
    rows = [np.linspace(0, n - 1, min(n, 16)) for n in first.data.shape]
    lattice = np.stack(np.meshgrid(*rows, indexing="ij"), -1).reshape(-1, 3)
    place = _places(_places(lattice, first.affine), np.linalg.inv(volume.affine))
    return float(_within(place, volume.data.shape).mean())


def _places(points: npt.NDArray[Any], affine: Array) -> npt.NDArray[np.float64]:
    """(N, 3) points through a (4, 4) affine."""
    return np.asarray(points @ affine[:3, :3].T + affine[:3, 3], np.float64)


def _within(place: npt.NDArray[np.float64], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """(N,) whether a place, in voxel indices, lies in one of the voxels."""
    return np.asarray(((place > -0.5) & (place < np.array(shape) - 0.5)).all(1))


def _resampled(volume: Volume, first: Volume, kind: int, outside: float) -> Array:
    """The volume's values at the first one's voxels, in the space of voxel indices."""
    matrix = np.linalg.inv(volume.affine) @ first.affine  # the first one's index -> the volume's
    # SimpleITK's first axis is an array's last one, so that nothing has to be copied into another order
    turned, moved = matrix[:3, :3][::-1, ::-1], matrix[:3, 3][::-1]
    given = SimpleITK.GetImageFromArray(np.ascontiguousarray(volume.data))
    out = SimpleITK.Resample(
        given,
        first.data.shape[::-1],
        SimpleITK.AffineTransform(turned.ravel().tolist(), moved.tolist()),
        kind,
        (0.0, 0.0, 0.0),
        (1.0, 1.0, 1.0),
        np.eye(3).ravel().tolist(),
        outside,
    )
    return np.asarray(SimpleITK.GetArrayFromImage(out))
