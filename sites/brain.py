"""The mask file of a case, such as an outline of the brain: what is not 0 in it, on the voxels of the first image."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from fedmerge.errors import DataError
from sites import regrid, volumes
from sites.folders import Found
from sites.foreground import Mask
from sites.records import Data
from sites.volumes import Volume


def read(path: Path, first: Volume, grids: str, name_first: str, who: str = "") -> tuple[Mask, bool]:
    """A mask on the first image's canonical voxels, and whether it lay on other ones.

    A mask may be an image whose skull was stripped, as FreeSurfer's `brainmask.mgz`.

    Args:
        path: of the file.
        first: the image whose voxels are wanted.
        grids: what follows where the mask has other voxels: "refuse", or "resample" by nearest neighbours.
        name_first: what errors call the first image.
        who: the site, for the errors.

    Raises:
        DataError: the file cannot be read, is refused for its voxels, or shows nothing of the image.
    """
    name = f"{who}: {path.parent.name}/{path.name}" if who else path.name
    own = volumes.read_labels(path, who=who)
    filled = replace(own, data=(own.data != 0).astype(np.uint8))
    laid = regrid.labels(filled, first, grids, name_first, name, least=0.0)
    if not laid.data.any():
        raise DataError(f"{name} expected a mask with voxels inside {name_first}, got none")
    return laid.data != 0, laid is not filled


def of(found: Found, first: Volume, data: Data, who: str) -> tuple[Mask | None, bool]:
    """A case's mask where the site crops by one, and whether it lay on other voxels than the first image.

    Raises:
        DataError: as `read`, or the case has none.
    """
    if data.crop != "mask":
        return None, False
    if found.mask is None:
        raise DataError(f"{who}: case '{found.id}' has no mask")
    return read(found.mask, first, data.grids, f"the image {found.images[0].name}", who)
