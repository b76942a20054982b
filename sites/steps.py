"""The steps of preprocessing as a record: a site's `data` and a model's card are read into the same one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedmerge.errors import ConfigError
from sites import landmarks, toml
from sites.records import BIAS_MASKS, CLIP, CROPS, GRIDS, BiasField, Data, Landmarks


@dataclass(frozen=True)
class Steps:
    """The steps before cropping to the patch; the defaults are clip and normalise alone.

    Attributes:
        grids: whether modalities (and a label map) on other voxels than the first one's are brought there, or refused.
        crop: what the box is drawn around: `foreground.mask`, or "mask", a file of each case; None: the whole volume.
        bias_field: how N4 works; None: not at all.
        landmarks: of histogram standardisation; None: none.
        clip: the percentiles that a modality is clipped at.
    """

    grids: Literal["refuse", "resample"] = "refuse"
    crop: Literal["nonzero", "otsu", "mask"] | None = None
    bias_field: BiasField | None = None
    landmarks: Landmarks | None = None
    clip: tuple[float, float] = CLIP


def of(data: Data) -> Steps:
    """The steps of a site."""
    return Steps(data.grids, data.crop, data.bias_field, data.landmarks, data.clip)


def read(table: Mapping[str, Any], where: str, base: Path | None = None) -> Steps:
    """The steps of a site's table `data`, or of a model's card; keys of other things are not looked at.

    Args:
        table: with some of the record's own names.
        where: the table's place, for the errors.
        base: what the path of `landmarks` is relative to; a card holds the landmarks themselves.

    Raises:
        ConfigError: a value is impossible, or the file of the landmarks is not what it should be.
    """
    known: Any = table.get("landmarks")
    if known is not None:
        if base is None:
            known = landmarks.from_table(known, f"{where}, landmarks")
        else:
            known = landmarks.read(base / toml.take(table, "landmarks", str, where), where)
    return Steps(
        grids=toml.choice(table, "grids", GRIDS, where, "refuse"),
        crop=toml.choice(table, "crop", CROPS, where) if table.get("crop") is not None else None,
        bias_field=_bias_field(table.get("bias_field"), where),
        landmarks=known,
        clip=_clip(table.get("clip", list(CLIP)), where),
    )


def _clip(raw: Any, where: str) -> tuple[float, float]:  # noqa: ANN401 - as below
    """Two percentiles, the lower one first."""
    numbers = isinstance(raw, list) and len(raw) == 2 and all(type(p) in (int, float) for p in raw)
    if not numbers or not 0 <= raw[0] < raw[1] <= 100:
        raise ConfigError(f"{where}: 'clip' expected two percentiles from 0 to 100, the lower one first, got {raw!r}")
    return float(raw[0]), float(raw[1])


def _bias_field(raw: Any, where: str) -> BiasField | None:  # noqa: ANN401 - anything may stand in a TOML file
    """True, false, or a table of N4's settings."""
    if raw is None or isinstance(raw, bool):
        return BiasField() if raw else None
    where = f"{where}, bias_field"
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where} expected true, false or a table, got {raw!r}")
    toml.only(raw, ("shrink", "iterations", "mask"), where)
    shrink = toml.take(raw, "shrink", int, where, BiasField.shrink)
    if shrink < 1:
        raise ConfigError(f"{where}: 'shrink' expected at least 1, got {shrink}")
    iterations = raw.get("iterations", list(BiasField.iterations))
    if not (isinstance(iterations, list) and iterations and all(type(n) is int and n > 0 for n in iterations)):
        raise ConfigError(f"{where}: 'iterations' expected a list of positive whole numbers, got {iterations!r}")
    mask = str(toml.choice(raw, "mask", BIAS_MASKS, where, BiasField.mask))
    return BiasField(shrink, tuple(iterations), mask)


def table(steps: Steps) -> dict[str, Any]:
    """The steps as a model's card has them: what `read` undoes. What is not done is left out."""
    found: dict[str, Any] = {"grids": steps.grids}
    if steps.crop:
        found["crop"] = steps.crop
    if n4 := steps.bias_field:
        found["bias_field"] = {"shrink": n4.shrink, "iterations": list(n4.iterations), "mask": n4.mask}
    if steps.landmarks:
        found["landmarks"] = landmarks.table(steps.landmarks)
    if steps.clip != CLIP:
        found["clip"] = list(steps.clip)
    return found
