"""A net at work: label maps on the hospital's own grid, classes of pictures, and their scores."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedmerge import devices
from fedmerge.errors import ConfigError, DataError
from sites import intensities, pictures, preprocess, regrid, steps, volumes
from sites.cases import Loaded
from sites.preprocess import Grid

log = logging.getLogger("fedmerge.site")


def segment(net: nn.Module, images: Tensor, device: str | torch.device = "auto", precision: str = "auto") -> Tensor:
    """Class probabilities in evaluation mode, which is undone afterwards.

    Args:
        net: (B, C, *patch) -> logits (B, K + 1, *patch); it is moved to the device.
        images: (B, C, *patch) float32.
        device: as for training.
        precision: as for training.

    Returns:
        (B, K + 1, *patch) float32 on the CPU; the channels of a voxel sum to 1. Of a classifier (B, K).
    """
    where = devices.resolve(device)
    dtype = devices.precision(where, precision)
    training = net.training
    net.to(where).eval()
    try:
        with (
            torch.inference_mode(),
            torch.autocast(where.type, dtype or torch.bfloat16, enabled=dtype is not None),
        ):
            logits = net(images.to(where))
        return torch.softmax(logits.float(), dim=1).cpu()
    finally:
        net.train(training)


def score(
    net: nn.Module,
    cases: Sequence[Loaded],
    labels: Sequence[str],
    *,
    batch: int = 4,
    device: str | torch.device = "auto",
    precision: str = "auto",
    keep: Path | None = None,
) -> list[dict[str, Any]]:
    """The score of each case: see `loading.Case` and `pictures.Picture`.

    Args:
        net: as for `segment`.
        cases: the cases to score.
        labels: the names of the labels.
        batch: cases that run through the net together.
        device: as for training.
        precision: as for training.
        keep: a folder for what was predicted.

    Returns:
        a scored case (`fedmerge.measures`) for each, in order.
    """
    scores: list[dict[str, Any]] = []
    for start in range(0, len(cases), batch):
        some = cases[start : start + batch]
        probabilities = segment(net, torch.stack([case.image for case in some]), device, precision)
        scores += [case.score(one, labels, keep) for case, one in zip(some, probabilities, strict=True)]
    return scores


def predict_file(
    net: nn.Module,
    info: Mapping[str, Any],
    images: Sequence[Path],
    out: Path,
    *,
    device: str | torch.device = "auto",
) -> None:
    """Segments one patient's images and writes the label map on their own grid and affine.

    Args:
        net: the model.
        info: what its file says of it: `channels`, `patch`, `spacing_mm` (None: the image's own voxels), and what was
            done to the images that it learnt from (`preparation`, see `steps`).
        images: one file a channel, in the model's order, or one 4D file with all channels.
        out: the label map, .nii or .nii.gz.
        device: as for training.

    Raises:
        DataError: a file cannot be read, or the channels lie on different voxels, which the model refuses.
        ConfigError: the number of images is not the model's.
    """
    channels = list(info["channels"])
    if len(images) not in (1, len(channels)):
        raise ConfigError(f"the model expected {len(channels)} images ({', '.join(channels)}), got {len(images)}")
    done = steps.read(info.get("preparation", {}), "the model's card")
    read, regridded = regrid.read(images, len(channels), done.grids)
    if regridded:
        log.warning("%s: %d images lay on other voxels, and were brought onto its own", images[0].name, regridded)
    if out.resolve() in {path.resolve() for path in images}:
        raise DataError(f"{out} is one of the images; choose another place for the label map")
    first = read[0]
    normal, box = intensities.apply([one.data for one in read], channels, done, first.spacing_mm, "the model's card")
    grid = Grid(
        shape=_three(normal[0].shape),
        spacing_mm=first.spacing_mm,
        patch=_three(info["patch"]),
        patch_spacing_mm=tuple(info["spacing_mm"]) if info.get("spacing_mm") else first.spacing_mm,
    )
    image = preprocess.crop(np.stack(normal), grid)
    (probabilities,) = segment(net, torch.from_numpy(image)[None], device)
    out.parent.mkdir(parents=True, exist_ok=True)
    volumes.write_like(box.paste(preprocess.restore(probabilities, grid)), first.frame, out)


def classify_file(
    net: nn.Module,
    info: Mapping[str, Any],
    images: Sequence[Path],
    out: Path,
    *,
    device: str | torch.device = "auto",
) -> None:
    """Says which class a picture is of: `{"prediction": class, "probabilities": {class: 0..1}}`.

    Args:
        net: the model.
        info: as for `predict_file`.
        images: the picture.
        out: a JSON file.
        device: as for training.

    Raises:
        DataError: the file cannot be read as a picture.
    """
    image = pictures.seen(pictures.read(images[0], len(info["channels"])), tuple(info["patch"]))
    (probabilities,) = segment(net, torch.from_numpy(image)[None], device)
    pictures.write(probabilities, info["labels"], out)


def _three(numbers: Sequence[int]) -> tuple[int, int, int]:
    x, y, z = (int(n) for n in numbers)
    return x, y, z
