"""Landmarks of histogram standardisation as a small JSON file, which one site writes and another may read.

They are statistics of patients' images: the policy's `landmarks` says whether they may leave. The specification is in
`docs/preprocessing.md`.
"""

import json
import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from fedmerge import whole
from fedmerge.errors import ConfigError
from sites.records import FOREGROUNDS, Landmarks

FORMAT = "fedmerge landmarks 1"


def table(landmarks: Landmarks) -> dict[str, Any]:
    """The landmarks as a file, or a model's card, has them."""
    return {
        "format": FORMAT,
        "percentiles": list(landmarks.percentiles),
        "foreground": landmarks.foreground,
        "cases": landmarks.cases,
        "channels": {name: list(values) for name, values in landmarks.channels},
    }


def write(landmarks: Landmarks, path: Path) -> None:
    """Writes the file as a whole."""
    whole.write(path, json.dumps(table(landmarks), indent=1) + "\n")


def read(path: Path, where: str) -> Landmarks:
    """Landmarks from a file, its own or another site's.

    Raises:
        ConfigError: the file is missing or is not what the specification says.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{where}: the landmarks {path.name} cannot be read: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"{where}: {path.name} expected landmarks (JSON), got something else") from None
    return from_table(raw, f"{where}: {path.name}")


def from_table(raw: Any, where: str) -> Landmarks:  # noqa: ANN401 - anything may stand in a JSON file
    """What `table` undoes: landmarks from a file's or a card's table.

    Raises:
        ConfigError: names what was expected.
    """
    if not isinstance(raw, Mapping) or raw.get("format") != FORMAT:
        raise ConfigError(f"{where} expected the format '{FORMAT}'")
    kind, cases, channels = raw.get("foreground"), raw.get("cases"), raw.get("channels")
    percentiles = _growing(raw.get("percentiles"), f"{where}, percentiles")
    if percentiles[0] < 0 or percentiles[-1] > 100:
        raise ConfigError(f"{where}, percentiles expected numbers from 0 to 100")
    if kind not in FOREGROUNDS:
        raise ConfigError(f"{where}, foreground expected {' or '.join(FOREGROUNDS)}, got {kind!r}")
    if type(cases) is not int or cases < 1:
        raise ConfigError(f"{where}, cases expected a positive whole number, got {cases!r}")
    if not isinstance(channels, Mapping) or not channels:
        raise ConfigError(f"{where}, channels expected landmarks of at least one modality")
    found = [(str(name), _growing(values, f"{where}, {name}")) for name, values in channels.items()]
    for name, values in found:
        if len(values) != len(percentiles):
            raise ConfigError(f"{where}, {name} expected {len(percentiles)} landmarks, got {len(values)}")
    return Landmarks(percentiles, kind, cases, tuple(found))


def _growing(raw: Any, where: str) -> tuple[float, ...]:  # noqa: ANN401 - as above
    """At least two finite numbers, none smaller than the one before."""
    numbers = raw if isinstance(raw, list) and all(type(v) in (int, float) for v in raw) else []
    if len(numbers) < 2 or not all(map(math.isfinite, numbers)) or any(a > b for a, b in pairwise(numbers)):
        raise ConfigError(f"{where} expected at least two finite numbers in growing order")
    return tuple(map(float, numbers))
