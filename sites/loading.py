"""Loading a case: read, checked, seen by the scanner, prepared, cropped or whole, kept in memory and on disk."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedmerge import evaluation, shapes
from fedmerge.errors import ConfigError
from fedmerge.regions import Regions
from fedmerge.tasks import CaseScore
from sites import brain, foreground, intensities, labels, packing, pictures, preprocess, regrid, scanner, steps, volumes
from sites.draws import generator
from sites.folders import Found, modalities
from sites.foreground import Box
from sites.pictures import Picture
from sites.prepared import Disk, Memory, in_order
from sites.preprocess import Grid
from sites.progress import report
from sites.records import Data, Site
from sites.volumes import Frame, Volume

log = logging.getLogger("fedmerge.site")


@dataclass(frozen=True, eq=False)
class Case:
    """A case as the net sees it, and as it is scored.

    Attributes:
        id: the case's name at the site.
        image: (C, *patch) float32, each channel normalised; of a whole volume (C, *S), no side below the patch's.
        label: (1, *patch) int64, 0..K; of a whole volume (1, *S) uint8.
        truth: (X, Y, Z) uint8, 0..K, on the file's own voxels in canonical order.
        grid: how the patch lies to the volume, or to its box.
        frame: how the file lay, for writing label maps beside it.
        group: what parts and folds take in turn; all volumes are one group.
        regions: what scores are taken of, name -> values of `truth`; the labels, where there are none.
        box: the part of the volume that the patch lies in the middle of; None: the whole.
        regridded: how many files lay on other voxels than the first image.
        patch: what the net sees at once; empty: all of the image.
    """

    id: str
    image: Tensor
    label: Tensor
    truth: npt.NDArray[np.uint8]
    grid: Grid
    frame: Frame
    group: str = ""
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    box: Box | None = None
    regridded: int = 0
    patch: tuple[int, ...] = ()

    @property
    def window(self) -> tuple[int, ...]:
        """(X, Y, Z) of what the net sees at once."""
        return self.patch or tuple(self.image.shape[1:])

    @cached_property
    def voxels(self) -> tuple[npt.NDArray[np.int32], ...]:
        """Where each label is that the case shows: places in the flattened label map."""
        flat = self.label.numpy().ravel()
        shown = np.flatnonzero(flat).astype(np.int32)
        values = flat[shown]
        return tuple(shown[values == k] for k in np.unique(values))

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.image.nbytes + self.label.nbytes + self.truth.nbytes

    def score(
        self,
        probabilities: Tensor,
        labels: Sequence[str],
        keep: Path | None,
        measures: Sequence[str] = ("dice",),
        regions: Regions | None = None,
    ) -> CaseScore:
        """Dice of labels or regions on the original voxels, and what else is measured there.

        What is scored is the label map that is written, also where the net answers regions.

        Args:
            probabilities: (K + 1, *patch) of the net; of regions (R, *patch).
            labels: the names of 1..K.
            keep: a folder for the label map, as ID.nii.gz on the file's own grid and affine.
            measures: "dice", and of `shapes.SHAPES`.
            regions: what the net answers, where these are no labels.
        """
        found = preprocess.restore(probabilities, self.grid, regions)
        if self.box is not None:
            found = self.box.paste(found)
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            volumes.write_like(found, self.frame, keep / f"{self.id}.nii.gz")
        values = self.regions or {name: (k,) for k, name in enumerate(labels, start=1)}
        more = shapes.measure(found, self.truth, values, self.grid.spacing_mm, measures)
        return {"case": self.id, "dice": evaluation.dice(found, self.truth, values), **more}


Loaded = Case | Picture


def load(
    site: Site,
    found: Sequence[Found],
    *,
    patch: Sequence[int],
    field: str = "centre",
    progress: Callable[[int], None] | None = None,
) -> list[Loaded]:
    """Reads, checks, prepares and crops; what was loaded before is not read again.

    In this process it is in memory, and where the site keeps prepared cases (`cache_gb`) on its disk: the numbers are
    the same to the last digit. The site's `workers` threads prepare cases side by side.

    Args:
        site: whose labels, spacing, steps and scanner hold.
        found: the cases to load.
        patch: (X, Y, Z) of the net's input; of pictures (rows, columns).
        field: `"centre"`: the patch in each volume's middle; `"whole"`: the volume, from which patches are drawn.
        progress: told how many are done; without it, the log `fedmerge.progress` is.

    Returns:
        the cases in the order of `found`.

    Raises:
        DataError: a file cannot be used; the sentence names site and file.
        ConfigError: the patch is not of three whole numbers, or for pictures of two; or the field is unknown.
    """
    check_patch(site, patch)
    if field not in (("centre", "whole") if site.data.layout not in READERS else ("centre",)):
        raise ConfigError(f"{site.name}: 'field' of volumes expected centre or whole, of pictures centre, got {field}")
    work = partial(_one, site, patch=tuple(map(int, patch)), field=field, names=modalities(site.data))
    cases: list[Loaded] = []
    regridded = 0
    for done, (case, new) in enumerate(in_order(work, found, site.data.workers), 1):
        cases.append(case)
        regridded += new and isinstance(case, Case) and bool(case.regridded)
        if progress is not None:
            progress(done)
        elif new:
            report(site.name, "reading cases", done, len(found))
    if regridded:
        log.warning("%s: %d of %d cases had files on other voxels than their first image", site.name, regridded, done)
    return cases


def _one(
    site: Site, found: Found, *, patch: tuple[int, ...], field: str, names: tuple[str, ...]
) -> tuple[Loaded, bool]:
    """A case from memory, from the site's disk, or from its files; and whether it was not in memory."""
    key = (*_key(site, found, patch, names), field)
    if (there := _MEMORY.get(key)) is not None:
        return there, False
    make = READERS.get(site.data.layout, VOLUMES)[2]
    disk = Disk(site.work / "prepared", int(site.data.cache_gb * 1e9))
    kept = disk.get(key)
    case: Loaded
    if kept:
        case = Case(id=found.id, regions=_values(site.data), **packing.unpacked(*kept))
    else:
        case = prepare(site, found, patch, whole=True) if field == "whole" else make(site, found, patch)
        if isinstance(case, Case):
            disk.put(key, *packing.packed(case))
    _MEMORY.put(key, case)
    return case, True


def check_patch(site: Site, patch: Sequence[int]) -> None:
    """Whether a net with this patch reads what the site has: volumes, or pictures.

    Raises:
        ConfigError: it does not.
    """
    words, sides, _ = READERS.get(site.data.layout, VOLUMES)
    if len(patch) != sides or not all(size >= 1 for size in patch):
        raise ConfigError(f"{site.name}: 'patch' expected {words}, got {list(patch)}")


def prepare(site: Site, found: Found, patch: tuple[int, ...], *, whole: bool = False) -> Case:
    """One case from its files; see `load`."""
    data, names = site.data, modalities(site.data)
    images, regridded = regrid.read(found.images, len(names), data.grids, site.name)
    first = images[0]
    truth, moved = read_truth(found, first, data, site.name)
    seen = [shifted(image, site, found.id, c) for c, image in enumerate(images)]
    mask, mask_moved = brain.of(found, first, data, site.name)
    normal, box = intensities.apply(seen, names, steps.of(data), first.spacing_mm, site.name, mask)
    grid = grid_of(replace(first, data=normal[0]), data, patch, whole=whole)
    label = preprocess.crop_labels(box.cut(truth), grid, len(data.labels))
    if found.lent is not None:
        label = _lent(found.lent, data, grid.patch, len(names), site.name)
    if data.control == "shuffled-labels":
        label = generator("shuffled labels", site.name, found.id).permuted(label.ravel()).reshape(label.shape)
    return Case(
        id=found.id,
        image=torch.from_numpy(preprocess.crop(np.stack(normal), grid)),
        label=torch.from_numpy(label if whole else label.astype(np.int64))[None],
        truth=truth,
        grid=grid,
        frame=first.frame,
        regions=_values(data),
        box=box,
        regridded=regridded + moved + mask_moved,
        patch=patch,
    )


def _values(data: Data) -> dict[str, tuple[int, ...]]:
    """Of each region, what its labels are in a label map."""
    number = {label: k for k, label in enumerate(data.labels, start=1)}
    return {name: tuple(number[label] for label in parts) for name, parts in (data.regions or {}).items()}


def _lent(found: Found, data: Data, patch: tuple[int, ...], channels: int, who: str) -> npt.NDArray[np.uint8]:
    """Another case's labels in a box of this size around its own centre."""
    images, _ = regrid.read(found.images, channels, data.grids, who)
    truth, _ = read_truth(found, images[0], data, who)
    mask, _ = brain.of(found, images[0], data, who)
    box = foreground.box([image.data for image in images], data.crop, mask)
    return preprocess.crop_labels(
        box.cut(truth), grid_of(replace(images[0], data=box.cut(images[0].data)), data, patch), len(data.labels)
    )


def read_truth(found: Found, image: Volume, data: Data, who: str = "") -> tuple[npt.NDArray[np.uint8], bool]:
    """A case's label map on the image's canonical voxels, as 0..K, and whether it lay on other ones.

    Raises:
        DataError: the file cannot be read, is refused for its voxels, or holds a value that is not declared.
    """
    name = f"{who}: {found.label.parent.name}/{found.label.name}"
    own = volumes.read_labels(found.label, who=who)
    label = regrid.labels(own, image, data.grids, f"the image {found.images[0].name}", name)
    known = labels.remap(label.data, data.labels, data.background, never=dict(found.never), who=name)
    return known, label is not own


def grid_of(image: Volume, data: Data, patch: Sequence[int], *, whole: bool = False) -> Grid:
    """The image's grid with the patch in its middle, or all of it, at the site's spacing or at the image's own."""
    x, y, z = image.data.shape
    a, b, c = patch
    grid = Grid((x, y, z), image.spacing_mm, (a, b, c), data.spacing_mm or image.spacing_mm)
    return grid.whole() if whole else grid


def shifted(image: Volume, site: Site, case: str, channel: int) -> npt.NDArray[np.float32]:
    """A channel as the site's simulated scanner shows it, where there is one."""
    if site.scanner is None:
        return image.data
    drawn = scanner.draw(site.name, f"{case}/{channel}", image.data.shape)
    return scanner.apply(image.data, site.scanner, drawn, image.spacing_mm)


def _key(site: Site, found: Found, patch: tuple[int, ...], names: tuple[str, ...]) -> tuple[Any, ...]:
    """All that goes into a loaded case."""
    paths = (*found.paths, *(found.lent.paths if found.lent else ()))
    files = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in paths if p.exists()]
    data = site.data
    regions = tuple((data.regions or {}).items())
    meaning = (tuple(data.labels.items()), data.background, data.spacing_mm, data.control, names, regions)
    return (site.name, found.id, tuple(files), meaning, steps.of(data), site.scanner, patch)


Reader = tuple[str, int, Callable[[Site, Found, tuple[int, ...]], Loaded]]
VOLUMES: Reader = ("three numbers of voxels", 3, prepare)
READERS: dict[str, Reader] = {"classes": ("two numbers of pixels", 2, pictures.prepare)}

_MEMORY: Memory[tuple[Any, ...], Loaded] = Memory(max_bytes=2 << 30)
