"""What will be done to a site's cases, in words: for those who look before hours of training."""

import math
import zlib
from collections.abc import Callable, Iterable, Sequence

import nibabel as nib
import numpy as np

from fedmerge import regions
from fedmerge.errors import FedmergeError
from sites import bias_field, cases, pictures, volumes
from sites.records import Data, Site

SLOW_S = 600.0
"""N4 that takes longer than this, for all cases together, is worth a word about keeping its results."""


def explain(site: Site, patch: Sequence[int] | None, field: str = "centre") -> list[str]:
    """The steps and the geometry, a sentence each; none where the cases cannot be read, which the preflight tells."""
    try:
        chosen = cases.select(cases.scan(site.data)[0], site.data.cases)
        return [*steps(site, chosen), geometry(site, chosen, patch, field)] if chosen else []
    except (FedmergeError, *volumes.NOT_NIFTI, OSError, EOFError, zlib.error):
        return []


def steps(site: Site, chosen: Sequence[cases.Found]) -> list[str]:
    """The steps of preprocessing in words; of pictures there are none to choose."""
    if site.data.layout in GEOMETRIES:
        return []
    shapes = [nib.load(one.images[0]).shape[:3] for one in chosen]  # type: ignore[attr-defined]
    return sentences(site.data, cases.modalities(site.data), [math.prod(shape) for shape in shapes])


def geometry(site: Site, chosen: Sequence[cases.Found], patch: Sequence[int] | None, field: str = "centre") -> str:
    """The sizes of the images, and what of them the net sees."""
    return GEOMETRIES.get(site.data.layout, _volumes)(site, chosen, patch, field)


def sentences(data: Data, modalities: Sequence[str], voxels: Sequence[int]) -> list[str]:
    """A sentence for each step, in the order in which they are done.

    Args:
        data: the site's.
        modalities: the names of the channels.
        voxels: of each case's first image, how many it has.
    """
    told = []
    if len(modalities) > 1:
        told.append(_grids(data, modalities[0]))
    if data.crop:
        what = {
            "nonzero": "whatever is not 0, in any modality",
            "otsu": "whatever is brighter than Otsu's threshold, in any modality",
            "mask": f"whatever is not 0 in its mask {data.mask_file}",
        }[data.crop]
        told.append(f"each case is cut to the box around {what}; the patch lies in its middle")
    if data.bias_field:
        told.append(_n4(data, len(modalities), voxels))
    if data.landmarks:
        names = ", ".join(name for name, _ in data.landmarks.channels)
        told.append(
            f"histograms are laid onto the landmarks of {names}, which were learnt from {data.landmarks.cases} cases"
        )
    low, high = data.clip
    told.append(
        f"each modality is clipped at its percentiles {low:g} and {high:g}, then has mean 0 and standard deviation 1"
    )
    if data.spacing_mm:
        told.append("along an axis that becomes coarser voxels are averaged, along one that becomes finer interpolated")
    if data.outputs == "regions":
        told.append(_regions(data))
    if data.cache_gb:
        told.append(f"up to {data.cache_gb:g} GB of prepared cases are kept in the site's work folder")
    return told


def _regions(data: Data) -> str:
    """What a net answers that learns of regions, from the widest to the narrowest."""
    found = regions.of(tuple(data.labels), data.answered)
    rows = ", ".join(found.rows[k] for k in found.order)
    return f"a net answers regions, a channel each: {rows}; the narrowest that is on at a voxel says its label"


def _grids(data: Data, first: str) -> str:
    """What happens to modalities on other voxels."""
    if data.grids == "refuse":
        return f"all modalities and the label map have to lie on the voxels of {first}: others are an error"
    return (
        f"modalities on other voxels than {first} are brought onto its voxels by linear interpolation, a label map by"
        " nearest neighbours; scores are taken and predictions written there"
    )


def _n4(data: Data, channels: int, voxels: Sequence[int]) -> str:
    """What N4 will cost."""
    how = data.bias_field
    assert how is not None  # noqa: S101 - the caller asked
    seconds = channels * sum(bias_field.seconds(count, how) for count in voxels)
    many = f"{channels} modalities" if channels > 1 else "one modality"
    told = f"N4 corrects the bias field of {many}, on every {_nth(how.shrink)} voxel:"
    told += f" up to {_duration(seconds)} of one core for {len(voxels)} cases"
    if data.cache_gb:
        return f"{told}, once"
    again = "in every process that reads them: `cache_gb` would keep the results"
    return f"{told}, {again}" if seconds > SLOW_S else told


def _nth(shrink: int) -> str:
    return {1: "", 2: "second", 3: "third"}.get(shrink, f"{shrink}th") or "single"


def _duration(seconds: float) -> str:
    """Rounded up, in the unit that people use."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _volumes(site: Site, chosen: Sequence[cases.Found], patch: Sequence[int] | None, field: str) -> str:
    """Voxel sizes of the images, and what of them the net sees."""
    spacings = np.array([nib.load(one.images[0]).header.get_zooms()[:3] for one in chosen])  # type: ignore[attr-defined]
    least, most = (np.round(edge(spacings, axis=0), 2) for edge in (np.min, np.max))
    words = [f"voxels of {_mm(least)}" if np.array_equal(least, most) else f"voxels from {_mm(least)} to {_mm(most)}"]
    if site.data.spacing_mm:
        words.append(f"resampled to {_mm(site.data.spacing_mm)}")
    if patch is None:
        words.append("the net's patch is known with --campaign")
    elif field == "whole":
        words.append(f"the net sees whole volumes, {' x '.join(map(str, patch))} voxels at once")
    elif site.data.spacing_mm:
        size = [p * s for p, s in zip(patch, site.data.spacing_mm)]
        words.append(f"the net sees {_mm(size)} around the centre")
    else:
        words.append(f"the net sees {' x '.join(map(str, patch))} voxels around the centre")
    return "; ".join(words)


def _pixels(site: Site, chosen: Sequence[cases.Found], patch: Sequence[int] | None, field: str) -> str:
    """Sizes of the pictures, and what the net sees of them."""
    sizes = np.array([pictures.read(one.images[0], 1).shape[1:] for one in chosen])
    least, most = (" x ".join(map(str, edge(sizes, axis=0))) for edge in (np.min, np.max))
    seen = "the net's patch is known with --campaign"
    if patch is not None:
        seen = f"the net sees the whole in {' x '.join(map(str, patch))} pixels"
    return f"pictures of {least} pixels; {seen}" if least == most else f"pictures of {least} to {most} pixels; {seen}"


Geometry = Callable[[Site, Sequence[cases.Found], Sequence[int] | None, str], str]
GEOMETRIES: dict[str, Geometry] = {"classes": _pixels}


def _mm(lengths: Iterable[float]) -> str:
    return " x ".join(f"{length:g}" for length in lengths) + " mm"
