"""One case looked at before training: its files on one grid, and what of it the net's patch holds."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedmerge.errors import FedmergeError
from sites import brain, foreground, loading, preprocess, regrid
from sites.folders import Found
from sites.foreground import Mask
from sites.records import Data, Landmarks, Site
from sites.volumes import Volume


@dataclass
class Tally:
    """What the cases of a site show, counted over all of them.

    Attributes:
        labels: number of a label -> cases that show it.
        values: all values of the label maps, as they stand in the files.
        regridded: modality, "the label map" or "the mask" -> cases where it lies on other voxels than the first image.
    """

    labels: Counter[int] = field(default_factory=Counter)
    values: set[int] = field(default_factory=set)
    regridded: Counter[str] = field(default_factory=Counter)

    def told(self, first: str, cases: int) -> str:
        """What is resampled, in words; "" where nothing is."""
        what = ", ".join(f"{name} in {count} of {cases} cases" for name, count in self.regridded.items() if count)
        return what and f"on other voxels than {first} lies {what}; it is resampled onto those of {first}"


def lay(
    found: Found, images: list[tuple[Path, Volume]], names: Sequence[str], site: Site, seen: Tally
) -> Iterator[tuple[Path, str]]:
    """Puts the images onto the voxels of the first, in place; those that cannot be are left out, and told why.

    Args:
        found: the case.
        images: (file, its volume), a volume for each channel that could be read.
        names: of the modalities.
        site: whose `grids` holds.
        seen: counts those that lay on other voxels.
    """
    (path, first), *others = images
    del images[1:]
    for other, volume in others:
        try:
            there = regrid.image(volume, first, site.data.grids, f"the image {path.name}", f"{site.name}: {other.name}")
        except FedmergeError as error:
            yield other, str(error)
            continue
        images.append((other, there))
        if there is not volume:
            seen.regridded[names[found.images.index(other)]] += 1


def lay_labels(found: Found, label: Volume, first: Volume, site: Site, seen: Tally) -> Volume:
    """The label map on the voxels of the first image; as `regrid.labels`."""
    name = f"{site.name}: {found.label.parent.name}/{found.label.name}"
    there = regrid.labels(label, first, site.data.grids, f"the image {found.images[0].name}", name)
    if there is not label:
        seen.regridded["the label map"] += 1
    return there


def lay_mask(found: Found, first: Volume, site: Site, seen: Tally) -> Mask | None:
    """The mask on the voxels of the first image, where the site crops by one; as `brain.of`."""
    mask, moved = brain.of(found, first, site.data, site.name)
    seen.regridded["the mask"] += moved
    return mask


def without_landmarks(data: Data, names: Sequence[str]) -> str:
    """The modalities whose histograms cannot be standardised, in words; "" where all is well."""
    known = dict(data.landmarks.channels) if data.landmarks else dict.fromkeys(names)
    missing = [one for one in names if one not in known]
    return (
        f"'landmarks' expected the modalities {', '.join(names)}, got none of {', '.join(missing)}" if missing else ""
    )


def outside(
    truth: npt.NDArray[np.uint8], images: Sequence[Volume], mask: Mask | None, site: Site, patch: Sequence[int]
) -> float:
    """The share of the labelled voxels that the patch does not hold, wherever the images' box puts it."""
    x, y, z = (int(size) for size in patch)
    box = foreground.box([image.data for image in images], site.data.crop, mask)
    grid = loading.grid_of(replace(images[0], data=box.cut(images[0].data)), site.data, (x, y, z))
    inside = (1 - preprocess.outside(box.cut(truth), grid)) * np.count_nonzero(box.cut(truth))
    return float(1 - inside / np.count_nonzero(truth))


def n4(data: Data) -> str:
    """The settings of the bias field correction in words; "" without one."""
    how = data.bias_field
    return f"shrink {how.shrink}, iterations {list(how.iterations)}, mask {how.mask}" if how else ""


def name(landmarks: Landmarks | None) -> str:
    """Landmarks in a few letters, to tell whether two sites have the same."""
    return hashlib.sha256(repr(landmarks).encode()).hexdigest()[:8] if landmarks else ""
