"""Loading a case: read, checked, seen by the scanner, normalised, cropped or whole, and kept while memory lasts."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedmerge import evaluation, shapes
from fedmerge.errors import ConfigError
from fedmerge.tasks import CaseScore
from sites import labels, pictures, preprocess, scanner, volumes
from sites.draws import generator
from sites.folders import Found, modalities
from sites.pictures import Picture
from sites.preprocess import Grid
from sites.progress import report
from sites.records import Data, Site
from sites.volumes import Frame, Volume


@dataclass(frozen=True, eq=False)
class Case:
    """A case as the net sees it, and as it is scored.

    Attributes:
        id: the case's name at the site.
        image: (C, *patch) float32, each channel normalised; of a whole volume (C, *S), no side below the patch's.
        label: (1, *patch) int64, 0..K; of a whole volume (1, *S) uint8.
        truth: (X, Y, Z) uint8, 0..K, on the file's own voxels in canonical order.
        grid: how patch and volume lie to each other.
        frame: how the file lay, for writing label maps beside it.
        group: what parts and folds take in turn; all volumes are one group.
        regions: what scores are taken of, name -> values of `truth`; the labels, where there are none.
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
        self, probabilities: Tensor, labels: Sequence[str], keep: Path | None, measures: Sequence[str] = ("dice",)
    ) -> CaseScore:
        """Dice of labels or regions on the original voxels, and what else is measured there.

        Args:
            probabilities: (K + 1, *patch) of the net.
            labels: the names of 1..K.
            keep: a folder for the label map, as ID.nii.gz on the file's own grid and affine.
            measures: "dice", and of `shapes.SHAPES`.
        """
        found = preprocess.restore(probabilities, self.grid)
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
    """Reads, checks, normalises and crops; what was loaded before in this process is not read again.

    Args:
        site: whose labels, spacing and scanner hold.
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
    prepared, size = READERS.get(site.data.layout, VOLUMES)[2], tuple(map(int, patch))
    if field == "whole" and prepared is prepare:
        prepared = partial(prepare, whole=True)
    elif field != "centre":
        raise ConfigError(f"{site.name}: 'field' of volumes expected centre or whole, of pictures centre, got {field}")
    names = modalities(site.data)
    cases: list[Loaded] = []
    for done, one in enumerate(found, start=1):
        key = (*_key(site, one, size, names), field)
        case = _CACHE.get(key)
        if case is None:
            case = prepared(site, one, size)
            _CACHE.put(key, case)
            if progress is None:
                report(site.name, "reading cases", done, len(found))
        if progress is not None:
            progress(done)
        cases.append(case)
    return cases


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
    data, channels = site.data, len(modalities(site.data))
    images = read_images(found, channels, site.name)
    truth = read_truth(found, images[0], data, site.name)
    first = images[0]
    grid = grid_of(first, data, patch, whole=whole)
    normal = [preprocess.normalise(_shifted(image, site, found.id, c)) for c, image in enumerate(images)]
    label = preprocess.crop_labels(truth, grid, len(data.labels))
    if found.lent is not None:
        label = _lent(found.lent, data, grid.patch, channels, site.name)
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
        patch=patch,
    )


def _values(data: Data) -> dict[str, tuple[int, ...]]:
    """Of each region, what its labels are in a label map."""
    number = {label: k for k, label in enumerate(data.labels, start=1)}
    return {name: tuple(number[label] for label in parts) for name, parts in (data.regions or {}).items()}


def _lent(found: Found, data: Data, patch: tuple[int, ...], channels: int, who: str) -> npt.NDArray[np.uint8]:
    """Another case's labels in a box of this size around its own centre."""
    image = read_images(found, channels, who)[0]
    truth = read_truth(found, image, data, who)
    return preprocess.crop_labels(truth, grid_of(image, data, patch), len(data.labels))


def read_images(found: Found, channels: int, who: str = "") -> list[Volume]:
    """A case's channels, all on the voxels of the first.

    Raises:
        DataError: a file cannot be read, or its shape or affine differs from the first one's.
    """
    if len(found.images) == 1:
        return volumes.read_channels(found.images[0], channels, who=who)
    images = [volumes.read(path, who=who) for path in found.images]
    for path, image in zip(found.images[1:], images[1:], strict=True):
        volumes.same_grid(images[0], image, f"the image {found.images[0].name}", f"{who}: {path.name}")
    return images


def read_truth(found: Found, image: Volume, data: Data, who: str = "") -> npt.NDArray[np.uint8]:
    """A case's label map on the image's canonical voxels, as 0..K.

    Raises:
        DataError: the file cannot be read, lies on other voxels, or holds a value that is not declared.
    """
    name = f"{who}: {found.label.parent.name}/{found.label.name}"
    label = volumes.read_labels(found.label, who=who)
    volumes.same_grid(image, label, f"the image {found.images[0].name}", name)
    return labels.remap(label.data, data.labels, data.background, who=name)


def grid_of(image: Volume, data: Data, patch: Sequence[int], *, whole: bool = False) -> Grid:
    """The image's grid with the patch in its middle, or all of it, at the site's spacing or at the image's own."""
    x, y, z = image.data.shape
    a, b, c = patch
    grid = Grid((x, y, z), image.spacing_mm, (a, b, c), data.spacing_mm or image.spacing_mm)
    return grid.whole() if whole else grid


def _shifted(image: Volume, site: Site, case: str, channel: int) -> npt.NDArray[np.float32]:
    if site.scanner is None:
        return image.data
    drawn = scanner.draw(site.name, f"{case}/{channel}", image.data.shape)
    return scanner.apply(image.data, site.scanner, drawn, image.spacing_mm)


def _key(site: Site, found: Found, patch: tuple[int, ...], names: tuple[str, ...]) -> tuple[Any, ...]:
    """All that goes into a loaded case."""
    files = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in (*found.images, found.label) if p.exists()]
    data = site.data
    regions = tuple((data.regions or {}).items())
    meaning = (tuple(data.labels.items()), data.background, data.spacing_mm, data.control, names, regions)
    lent = str(found.lent.label) if found.lent else None
    return (site.name, found.id, lent, tuple(files), meaning, site.scanner, patch)


Reader = tuple[str, int, Callable[[Site, Found, tuple[int, ...]], Loaded]]
VOLUMES: Reader = ("three numbers of voxels", 3, prepare)
READERS: dict[str, Reader] = {"classes": ("two numbers of pixels", 2, pictures.prepare)}


class _Cache:
    """The cases loaded last, up to a number of bytes; sites of one simulation may ask from several threads."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.cases: OrderedDict[tuple[Any, ...], Loaded] = OrderedDict()
        self.lock = Lock()

    def get(self, key: tuple[Any, ...]) -> Loaded | None:
        with self.lock:
            if key in self.cases:
                self.cases.move_to_end(key)
            return self.cases.get(key)

    def put(self, key: tuple[Any, ...], case: Loaded) -> None:
        with self.lock:
            if key in self.cases:
                return
            self.cases[key] = case
            self.bytes += case.nbytes
            while self.bytes > self.max_bytes and len(self.cases) > 1:
                _, old = self.cases.popitem(last=False)
                self.bytes -= old.nbytes


_CACHE = _Cache(max_bytes=2 << 30)
