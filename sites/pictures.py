"""Pictures of one class each: PNG, JPEG, BMP, TIFF, or a NIfTI file of one slice; read, resized and scored."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from fedmerge.errors import DataError
from fedmerge.regions import Regions
from fedmerge.tasks import CaseScore
from sites import preprocess, scanner, volumes
from sites.folders import Found, modalities
from sites.records import Data, Site

CHANNELS = {1: "grey", 3: "red, green and blue"}
SPACING = (1.0, 1.0, 1.0)  # pixels: a picture knows no millimetres


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as the net sees it, and as it is scored.

    Attributes:
        id: CLASS/NAME, as the file lies at the site.
        image: (C, *patch) float32, each channel normalised.
        label: () int64, the class in training, from 0.
        truth: the name of its own class.
        group: likewise; parts and folds take the classes in turn.
    """

    id: str
    image: Tensor
    label: Tensor
    truth: str
    group: str

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.image.nbytes + self.label.nbytes

    @property
    def window(self) -> tuple[int, ...]:
        """(rows, columns): the net sees all of it at once."""
        return tuple(self.image.shape[1:])

    def score(
        self,
        probabilities: Tensor,
        labels: Sequence[str],
        keep: Path | None,
        measures: Sequence[str] = (),
        regions: Regions | None = None,
    ) -> CaseScore:
        """The class that the net takes it for, beside its own.

        Args:
            probabilities: (K,) of the net.
            labels: the names of the classes.
            keep: a folder for the answer, as ID.json with the probability of each class.
            measures: of volumes; a picture is right or wrong.
            regions: of volumes; a picture has one class.
        """
        if keep is not None:
            write(probabilities, labels, keep / f"{self.id}.json")
        return {"case": self.id, "truth": self.truth, "prediction": labels[int(probabilities.argmax())]}


def prepare(site: Site, found: Found, patch: tuple[int, ...]) -> Picture:
    """One picture from its file: seen by the scanner, resized to the patch as a whole, normalised.

    Raises:
        DataError: the file cannot be read as a picture.
    """
    channels = read(found.images[0], len(modalities(site.data)), who=site.name)
    image = seen([_shifted(channel, site, found.id, c) for c, channel in enumerate(channels)], patch)
    taught = found.lent or found
    return Picture(
        id=found.id,
        image=torch.from_numpy(image),
        label=torch.tensor(list(site.data.labels).index(class_of(taught.group, site.data))),
        truth=class_of(found.group, site.data),
        group=found.group,
    )


def class_of(folder: str, data: Data) -> str:
    """The class that a folder stands for."""
    return next(name for name, folders in data.labels.items() if folder in folders)


def read(path: Path, channels: int, *, who: str = "") -> npt.NDArray[np.float32]:
    """The pixels of a file.

    Args:
        path: of the picture; of a NIfTI file the one slice that it holds.
        channels: 1 makes colours grey, 3 makes grey three equal colours.
        who: the site, for the error.

    Returns:
        (channels, rows, columns) float32.

    Raises:
        DataError: the file is damaged or no picture, or that many channels cannot be read.
    """
    name = f"{who}: {path.name}" if who else path.name
    if channels not in CHANNELS:
        raise DataError(f"{name} expected 1 or 3 modalities ({' or '.join(CHANNELS.values())}), got {channels}")
    if path.name.endswith(volumes.SUFFIXES):
        data = volumes.read(path, who=who).data
        if 1 not in data.shape:
            raise DataError(f"{name} expected a single slice, got {' x '.join(map(str, data.shape))} voxels")
        return np.repeat(np.squeeze(data, data.shape.index(1))[None], channels, axis=0)
    try:
        with Image.open(path) as image:
            pixels = np.asarray(_plain(image, channels), np.float32)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{name} cannot be read as a picture: {error}") from None
    return pixels[None] if channels == 1 else np.moveaxis(pixels, 2, 0).copy()


def _plain(image: Image.Image, channels: int) -> Image.Image:
    """Grey or RGB; 16 bits of grey stay 16 bits, and a palette or alpha channel is resolved first."""
    if image.mode.startswith(("I", "F")):
        grey = image.convert("F")
        return grey if channels == 1 else Image.merge("RGB", [grey.convert("L")] * 3)
    return image.convert("RGB").convert("L" if channels == 1 else "RGB")


def seen(channels: Iterable[npt.NDArray[np.float32]], patch: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """What the net gets: (C, *patch), resized as a whole, each channel normalised."""
    return np.stack([preprocess.normalise(resize(channel, patch)) for channel in channels])


def write(probabilities: Tensor, labels: Sequence[str], path: Path) -> None:
    """A JSON file with the likeliest class and the probability (K,) of each."""
    told = dict(zip(labels, probabilities.double().tolist(), strict=True))
    text = json.dumps({"prediction": labels[int(probabilities.argmax())], "probabilities": told}, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


def resize(channel: npt.NDArray[np.float32], patch: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The whole picture in as many rows and columns as the patch has, by linear interpolation over the area."""
    rows, columns = patch
    image: Any = Image.fromarray(np.ascontiguousarray(channel, np.float32))
    return np.asarray(image.resize((columns, rows), Image.Resampling.BILINEAR), np.float32)


def _shifted(channel: npt.NDArray[np.float32], site: Site, case: str, number: int) -> npt.NDArray[np.float32]:
    if site.scanner is None:
        return channel
    slab = channel[:, :, None]
    return scanner.apply(slab, site.scanner, scanner.draw(site.name, f"{case}/{number}", slab.shape), SPACING)[:, :, 0]
