"""What of an image is not background, and the box around it."""

# SimpleITK is typed, but most of its functions are not annotated.
# mypy: disable-error-code="no-untyped-call"

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK

from sites.volumes import Array

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Box:
    """A box of whole voxels in a volume.

    Attributes:
        shape: the volume's (X, Y, Z).
        start: the box's first voxel along each axis.
        stop: one after its last.
    """

    shape: tuple[int, ...]
    start: tuple[int, ...]
    stop: tuple[int, ...]

    @property
    def slices(self) -> tuple[slice, ...]:
        """The box as an index."""
        return tuple(map(slice, self.start, self.stop))

    def cut(self, array: Array) -> Array:
        """The box of an array of the volume's shape."""
        return np.ascontiguousarray(array[self.slices])

    def paste(self, array: Array) -> Array:
        """An array of the box's shape in a volume of zeros: what `cut` undoes."""
        if array.shape == self.shape:
            return array
        whole = np.zeros(self.shape, array.dtype)
        whole[self.slices] = array
        return whole


def mask(image: npt.NDArray[np.floating], kind: str) -> Mask:
    """The foreground of one channel.

    Args:
        image: (X, Y, Z).
        kind: "nonzero": all that is not exactly 0, for images whose skull was stripped. "otsu": what is brighter than
            Otsu's threshold (1979) between the two classes of a histogram of 128 bins.

    Returns:
        bool (X, Y, Z); all of it, where nothing would be left.
    """
    if kind == "otsu":
        filled = SimpleITK.GetImageFromArray(np.ascontiguousarray(image, np.float32))
        found = SimpleITK.GetArrayFromImage(SimpleITK.OtsuThreshold(filled, 0, 1, 128)) > 0
    else:
        found = image != 0
    return found if found.any() else np.ones_like(found)


def whole(shape: Sequence[int]) -> Box:
    """The box that is the volume."""
    return Box(tuple(shape), (0,) * len(shape), tuple(shape))


def box(channels: Sequence[npt.NDArray[np.floating]], kind: str | None, given: Mask | None = None) -> Box:
    """The smallest box that holds the foreground of every channel; the whole volume where `kind` is None.

    Args:
        channels: (X, Y, Z) each, all of one shape.
        kind: as for `mask`; or "mask", the foreground is `given`.
        given: bool (X, Y, Z), not empty.
    """
    shape = channels[0].shape
    if kind is None:
        return whole(shape)
    union = np.zeros(shape, bool) if given is None else given
    for channel in channels if given is None else ():
        union |= mask(channel, kind)
    rows = [np.flatnonzero(union.any(tuple(b for b in range(union.ndim) if b != a))) for a in range(union.ndim)]
    return Box(shape, tuple(int(row[0]) for row in rows), tuple(int(row[-1]) + 1 for row in rows))
