"""N4 bias field correction (Tustison et al., IEEE TMI 29, 2010), by SimpleITK.

A coil's sensitivity multiplies an image by a smooth field. N4 estimates its logarithm as a B-spline, coarse to fine, on
an image that is shrunk to save time; the whole image is then divided by it.
"""

# SimpleITK is typed, but most of its functions are not annotated.
# mypy: disable-error-code="no-untyped-call"

import numpy as np
import numpy.typing as npt
import SimpleITK

from sites import foreground
from sites.records import BiasField

SECONDS_PER_MILLION = 0.12
"""Of one core, for a million voxels of the shrunk image in one iteration: what `check` tells beforehand."""


def correct(
    image: npt.NDArray[np.float32], how: BiasField, spacing_mm: tuple[float, float, float]
) -> npt.NDArray[np.float32]:
    """The image divided by its bias field.

    Args:
        image: (X, Y, Z), one channel; N4 takes logarithms, so that voxels of 0 or less say nothing of the field.
        how: shrink factor, iterations and mask.
        spacing_mm: voxel size.

    Returns:
        float32 (X, Y, Z); a constant image as it is.
    """
    if np.ptp(image) == 0:
        return image
    full = SimpleITK.GetImageFromArray(np.ascontiguousarray(image))  # its axes are z, y, x: N4 does not mind
    full.SetSpacing(spacing_mm[::-1])
    kind = foreground.mask(image, how.mask) if how.mask != "none" else np.ones(image.shape, bool)
    where = SimpleITK.GetImageFromArray(kind.astype(np.uint8))
    where.CopyInformation(full)
    factors = [min(how.shrink, n) for n in full.GetSize()]
    small, where = SimpleITK.Shrink(full, factors), SimpleITK.Shrink(where, factors)
    if not SimpleITK.GetArrayViewFromImage(where).any():
        return image
    n4 = SimpleITK.N4BiasFieldCorrectionImageFilter()
    n4.SetNumberOfThreads(1)  # the field must not depend on the machine's cores; cases run side by side instead
    n4.SetMaximumNumberOfIterations(how.iterations)
    n4.Execute(small, where)
    field = SimpleITK.GetArrayFromImage(n4.GetLogBiasFieldAsImage(full))
    return np.asarray(image / np.exp(field), np.float32)


def seconds(voxels: int, how: BiasField) -> float:
    """About how long one channel takes one core, from above: convergence ends a level early."""
    return SECONDS_PER_MILLION * voxels / how.shrink**3 / 1e6 * sum(how.iterations) + 2 * voxels / 1e6
