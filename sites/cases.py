"""A site's cases: chosen, split by patient, loaded as tensors, and dealt out in batches."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedmerge.errors import ConfigError, DataError
from sites import labels, preprocess, scanner, volumes
from sites.draws import generator, stable_seed
from sites.folders import Found, find, modalities, scan
from sites.preprocess import Grid
from sites.progress import report
from sites.records import Data, Scanner, Selection, Site
from sites.volumes import Frame, Volume

__all__ = [
    "Case",
    "Found",
    "Split",
    "batches",
    "contents",
    "digest",
    "find",
    "load",
    "modalities",
    "scan",
    "select",
    "split",
]


@dataclass(frozen=True)
class Split:
    """Who is for what; no patient is in two parts where `by_patient`, else no case is.

    `by_patient` is False as soon as one case's id does not tell its patient.
    """

    train: tuple[Found, ...]
    validate: tuple[Found, ...]
    test: tuple[Found, ...]
    by_patient: bool


@dataclass(frozen=True, eq=False)
class Case:
    """A case as the net sees it, and as it is scored.

    Attributes:
        id: the case's name at the site.
        image: (C, *patch) float32, each channel normalised.
        label: (1, *patch) int64, 0..K.
        truth: (X, Y, Z) uint8, 0..K, on the file's own voxels in canonical order.
        grid: how patch and volume lie to each other.
        frame: how the file lay, for writing label maps beside it.
    """

    id: str
    image: Tensor
    label: Tensor
    truth: npt.NDArray[np.uint8]
    grid: Grid
    frame: Frame


def select(found: Sequence[Found], chosen: Selection) -> list[Found]:
    """The cases that the site calls its own, in the order of its choice.

    Shuffling sorts by a hash of seed and id, so that a site's share does not depend on the machine.

    Raises:
        ConfigError: the slice reaches beyond the cases, or a listed id is not among them.
    """
    if chosen.ids is not None:
        return _listed(found, chosen.ids)
    order = list(found)
    if chosen.shuffle is not None:
        order.sort(key=lambda f: stable_seed("select", chosen.shuffle, f.id))
    if max(chosen.stop or 0, (chosen.start or 0) + 1) > len(order):
        asked = f"{chosen.start or 0}:{'' if chosen.stop is None else chosen.stop}"
        raise ConfigError(f"the slice '{asked}' reaches beyond the {len(order)} cases that there are")
    return order[chosen.start : chosen.stop]


def split(found: Sequence[Found], data: Data, *, seed: int, target_cases: int | None = None) -> Split:
    """Parts for validation and test, which never change, and training cases drawn by the seed.

    The first cases, in the order of `found`, validate; the next ones test; all others are the pool, from which
    `seed` draws. A smaller number of training cases is a prefix of a larger one. A patient's files go to one
    part; what a full part has no room for is left out.

    Args:
        found: the selected cases.
        data: how many to validate, test and train (None: the whole pool).
        seed: of the training cases' order.
        target_cases: replaces `data.train`.

    Raises:
        ConfigError: there are not enough cases.
    """
    parts: dict[str, list[Found]] = {"validate": [], "test": [], "train": []}
    room = {"validate": data.validate, "test": data.test, "train": len(found)}
    part_of: dict[str, str] = {}
    for case in found:
        who = case.patient or case.id
        part = part_of.setdefault(who, next(p for p in parts if p == "train" or len(parts[p]) < room[p]))
        if len(parts[part]) < room[part]:
            parts[part].append(case)
    pool = sorted(parts["train"], key=lambda f: stable_seed("train", seed, f.id))
    wanted = target_cases if target_cases is not None else data.train
    needs = {**room, "train": 1 if wanted is None else wanted}
    for part, need in needs.items():
        if len(parts[part]) < need:
            raise ConfigError(
                f"{data.folder.name}: expected {need} cases to {part}, got {len(parts[part])}"
                f" of {len(found)} ({data.validate} validate, {data.test} test)"
            )
    return Split(
        train=tuple(pool[:wanted]),
        validate=tuple(parts["validate"]),
        test=tuple(parts["test"]),
        by_patient=all(f.patient is not None for f in found),
    )


def load(
    site: Site,
    found: Sequence[Found],
    *,
    patch: Sequence[int],
    progress: Callable[[int], None] | None = None,
) -> list[Case]:
    """Reads, checks, normalises and crops; what was loaded before in this process is not read again.

    Args:
        site: whose labels, spacing and scanner hold.
        found: the cases to load.
        patch: (X, Y, Z) of the net's input.
        progress: told how many are done; without it, the log `fedmerge.progress` is.

    Returns:
        the cases in the order of `found`.

    Raises:
        DataError: a file cannot be used; the sentence names site and file.
        ConfigError: the patch is not three whole numbers.
    """
    if len(patch) != 3 or not all(size >= 1 for size in patch):
        raise ConfigError(f"{site.name}: 'patch' expected three numbers of voxels, got {list(patch)}")
    size = (int(patch[0]), int(patch[1]), int(patch[2]))
    names = modalities(site.data)
    cases = []
    for done, one in enumerate(found, start=1):
        key = _key(site, one, size, names)
        case = _CACHE.get(key)
        if case is None:
            case = prepare(site, one, size, len(names))
            _CACHE.put(key, case)
            if progress is None:
                report(site.name, "reading cases", done, len(found))
        if progress is not None:
            progress(done)
        cases.append(case)
    return cases


def prepare(site: Site, found: Found, patch: tuple[int, int, int], channels: int) -> Case:
    """One case from its files; see `load`."""
    data = site.data
    images = read_images(found, channels, site.name)
    truth = read_truth(found, images[0], data, site.name)
    first = images[0]
    grid = grid_of(first, data, patch)
    normal = [preprocess.normalise(_shifted(image, site, found.id, c)) for c, image in enumerate(images)]
    label = preprocess.crop_labels(truth, grid, len(data.labels))
    if data.control == "shuffled-labels":
        label = generator("shuffled labels", site.name, found.id).permuted(label.ravel()).reshape(label.shape)
    return Case(
        id=found.id,
        image=torch.from_numpy(preprocess.crop(np.stack(normal), grid)),
        label=torch.from_numpy(label.astype(np.int64))[None],
        truth=truth,
        grid=grid,
        frame=first.frame,
    )


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


def grid_of(image: Volume, data: Data, patch: tuple[int, int, int]) -> Grid:
    """The image's grid with the patch in its middle, at the site's spacing or at the image's own."""
    x, y, z = image.data.shape
    return Grid((x, y, z), image.spacing_mm, patch, data.spacing_mm or image.spacing_mm)


def batches(cases: Sequence[Case], batch_size: int, seed: int) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Batches as a pure function of the step: each epoch deals all cases in an order of its own.

    The last batch of an epoch is filled up from the epoch's beginning.

    Args:
        cases: at least one, all of one patch size.
        batch_size: cases a batch.
        seed: of the orders.

    Returns:
        step -> image (B, C, *patch) float32, label (B, 1, *patch) int64.

    Raises:
        DataError: there is no case.
    """
    if not cases:
        raise DataError("batches expected at least one case, got none")
    per_epoch = -(-len(cases) // batch_size)

    @lru_cache(maxsize=2)
    def order(epoch: int) -> npt.NDArray[np.intp]:
        dealt = generator("batches", seed, epoch).permutation(len(cases))
        return np.resize(dealt, per_epoch * batch_size)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        epoch, k = divmod(step, per_epoch)
        chosen = [cases[i] for i in order(epoch)[k * batch_size : (k + 1) * batch_size]]
        return torch.stack([case.image for case in chosen]), torch.stack([case.label for case in chosen])

    return batch


def digest(found: Sequence[Found], data: Data, scan_shift: Scanner | None = None) -> str:
    """SHA-256 over the files' names and contents and all settings that shape the cases: `"sha256:<hex>"`.

    Where the folder lies, and how many cases are for what, is not part of it.
    """
    settings = asdict(data)
    for key in ("folder", "cases", "train", "validate", "test", "phantom", "pooled_labels"):
        del settings[key]
    settings["scanner"] = asdict(scan_shift) if scan_shift else None
    settings["labels"] = list(data.labels.items())
    total = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for case in found:
        for path in (*case.images, case.label):
            total.update(f"\0{path.relative_to(data.folder)}\0".encode())
            total.update(contents(path))
    return f"sha256:{total.hexdigest()}"


def contents(path: Path) -> bytes:
    """The SHA-256 of a file's bytes."""
    stat = path.stat()
    return _contents(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1 << 16)
def _contents(path: Path, size: int, mtime_ns: int) -> bytes:
    """Taken again when size or time have changed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _shifted(image: Volume, site: Site, case: str, channel: int) -> npt.NDArray[np.float32]:
    if site.scanner is None:
        return image.data
    drawn = scanner.draw(site.name, f"{case}/{channel}", image.data.shape)
    return scanner.apply(image.data, site.scanner, drawn, image.spacing_mm)


def _listed(found: Sequence[Found], path: Path) -> list[Found]:
    try:
        ids = path.read_text(encoding="utf-8").split()
    except OSError as error:
        raise ConfigError(f"the list of cases {path} cannot be read: {error.strerror}") from None
    by_id = {case.id: case for case in found}
    for case in ids:
        if case not in by_id:
            raise ConfigError(f"{path.name} lists the case '{case}', which is not among the site's files")
        if ids.count(case) > 1:
            raise ConfigError(f"{path.name} lists the case '{case}' twice")
    return [by_id[case] for case in ids]


def _key(site: Site, found: Found, patch: tuple[int, int, int], names: tuple[str, ...]) -> tuple[Any, ...]:
    """All that goes into a loaded case."""
    files = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in (*found.images, found.label) if p.exists()]
    data = site.data
    meaning = (tuple(data.labels.items()), data.background, data.spacing_mm, data.control, names)
    return (site.name, found.id, tuple(files), meaning, site.scanner, patch)


class _Cache:
    """The cases loaded last, up to a number of bytes; sites of one simulation may ask from several threads."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.cases: OrderedDict[tuple[Any, ...], Case] = OrderedDict()
        self.lock = Lock()

    def get(self, key: tuple[Any, ...]) -> Case | None:
        with self.lock:
            if key in self.cases:
                self.cases.move_to_end(key)
            return self.cases.get(key)

    def put(self, key: tuple[Any, ...], case: Case) -> None:
        with self.lock:
            if key in self.cases:
                return
            self.cases[key] = case
            self.bytes += _size(case)
            while self.bytes > self.max_bytes and len(self.cases) > 1:
                _, old = self.cases.popitem(last=False)
                self.bytes -= _size(old)


def _size(case: Case) -> int:
    return case.image.nbytes + case.label.nbytes + case.truth.nbytes


_CACHE = _Cache(max_bytes=2 << 30)
