"""A net at work: label maps on the hospital's own grid, classes of pictures, and their scores.

A volume that is larger than the net's patch is answered window by window (`sites.windows`).
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedmerge import answers
from fedmerge.errors import ConfigError, DataError
from fedmerge.regions import Regions
from sites import brain, intensities, patches, pictures, preprocess, regrid, steps, volumes, windows
from sites.cases import Loaded
from sites.preprocess import Grid
from sites.windows import segment

log = logging.getLogger("fedmerge.site")


def score(
    net: nn.Module,
    cases: Sequence[Loaded],
    labels: Sequence[str],
    *,
    batch: int = 4,
    measures: Sequence[str] = ("dice",),
    overlap: float = windows.OVERLAP,
    flips: bool = False,
    device: str | torch.device = "auto",
    precision: str = "auto",
    keep: Path | None = None,
    regions: Regions | None = None,
) -> list[dict[str, Any]]:
    """The score of each case: see `loading.Case` and `pictures.Picture`.

    Args:
        net: as for `segment`.
        cases: the cases to score.
        labels: the names of the labels.
        batch: cases that run through the net together, where it sees them at once.
        measures: what volumes are scored by.
        overlap: as for `windows.sweep`.
        flips: as for `windows.sweep`; pictures are never mirrored.
        device: as for training.
        precision: as for training.
        keep: a folder for what was predicted.
        regions: what the net answers, where these are no labels (`tasks.Net.task`).

    Returns:
        a scored case (`fedmerge.measures`) for each, in order.
    """
    scores: list[dict[str, Any]] = []
    each = regions is not None
    for start in range(0, len(cases), batch):
        some = cases[start : start + batch]
        answers: Iterable[Tensor]
        if not flips and all(map(patches.fits, some)):
            answers = segment(net, torch.stack([case.image for case in some]), device, precision, regions=each)
        else:  # one after the other: of whole volumes one fills the memory
            sweep = partial(
                windows.sweep, overlap=overlap, flips=flips, device=device, precision=precision, regions=each
            )
            answers = (sweep(net, case.image, case.window) for case in some)
        scores += [case.score(one, labels, keep, measures, regions) for case, one in zip(some, answers, strict=True)]
    return scores


def predict_file(
    net: nn.Module,
    info: Mapping[str, Any],
    images: Sequence[Path],
    out: Path,
    *,
    mask: Path | None = None,
    flips: bool = False,
    device: str | torch.device = "auto",
) -> None:
    """Segments one patient's images and writes the label map on their own grid and affine.

    Args:
        net: the model.
        info: what its file says of it: `channels`, `patch`, `spacing_mm` (None: the image's own voxels), what was
            done to the images that it learnt from (`preparation`, see `steps`), and where they differ from their
            defaults `field` and `overlap`; where it answers regions, `labels` and `regions`.
        images: one file a channel, in the model's order, or one 4D file with all channels.
        out: the label map, .nii or .nii.gz.
        mask: a file whose voxels that are not 0 the box is drawn around, for a model whose images were cut so.
        flips: as for `windows.sweep`.
        device: as for training.

    Raises:
        DataError: a file cannot be read, or the channels lie on different voxels, which the model refuses.
        ConfigError: the number of images is not the model's, or a mask is missing, or one too many.
    """
    channels = list(info["channels"])
    if len(images) not in (1, len(channels)):
        raise ConfigError(f"the model expected {len(channels)} images ({', '.join(channels)}), got {len(images)}")
    done = steps.read(info.get("preparation", {}), "the model's card")
    if (done.crop == "mask") != (mask is not None):
        wanted = ("a mask of each patient", "none") if done.crop == "mask" else ("no mask", str(mask))
        raise ConfigError(f"{images[0].name}: the model's images were prepared with {wanted[0]}, got {wanted[1]}")
    read, regridded = regrid.read(images, len(channels), done.grids)
    if regridded:
        log.warning("%s: %d images lay on other voxels, and were brought onto its own", images[0].name, regridded)
    if out.resolve() in {path.resolve() for path in images}:
        raise DataError(f"{out} is one of the images; choose another place for the label map")
    first = read[0]
    around = brain.read(mask, first, done.grids, images[0].name)[0] if mask else None
    normal, box = intensities.apply(
        [one.data for one in read], channels, done, first.spacing_mm, "the model's card", around
    )
    grid = Grid(
        shape=_three(normal[0].shape),
        spacing_mm=first.spacing_mm,
        patch=_three(info["patch"]),
        patch_spacing_mm=tuple(info["spacing_mm"]) if info.get("spacing_mm") else first.spacing_mm,
    )
    regions = answers.of(info.get("net", {}), info.get("labels", ()), info.get("regions")).regions
    each, whole = regions is not None, info.get("field") == "whole"
    grid = grid.whole() if whole else grid
    image = torch.from_numpy(preprocess.crop(np.stack(normal), grid))
    if whole or flips:
        overlap = info.get("overlap", windows.OVERLAP)
        probabilities = windows.sweep(
            net, image, info["patch"], overlap=overlap, flips=flips, device=device, regions=each
        )
    else:
        (probabilities,) = segment(net, image[None], device, regions=each)
    out.parent.mkdir(parents=True, exist_ok=True)
    volumes.write_like(box.paste(preprocess.restore(probabilities, grid, regions)), first.frame, out)


def classify_file(
    net: nn.Module,
    info: Mapping[str, Any],
    images: Sequence[Path],
    out: Path,
    *,
    mask: Path | None = None,
    flips: bool = False,
    device: str | torch.device = "auto",
) -> None:
    """Says which class a picture is of: `{"prediction": class, "probabilities": {class: 0..1}}`.

    Args:
        net: the model.
        info: as for `predict_file`.
        images: the picture.
        out: a JSON file.
        mask: refused: a picture is seen whole.
        flips: refused: a picture is classified as it lies.
        device: as for training.

    Raises:
        DataError: the file cannot be read as a picture.
        ConfigError: it was to be mirrored, or cut by a mask.
    """
    if mask is not None:
        raise ConfigError(f"masks are for volumes, and this model classifies pictures; got {mask}")
    if flips:
        raise ConfigError("flips are for volumes, and this model classifies pictures")
    image = pictures.seen(pictures.read(images[0], len(info["channels"])), tuple(info["patch"]))
    (probabilities,) = segment(net, torch.from_numpy(image)[None], device)
    pictures.write(probabilities, info["labels"], out)


def _three(numbers: Sequence[int]) -> tuple[int, int, int]:
    x, y, z = (int(n) for n in numbers)
    return x, y, z
