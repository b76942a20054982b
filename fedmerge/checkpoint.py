"""A run's state on disk: named tensors and a few plain values, in one safetensors file without pickle."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fedmerge.errors import ConfigError
from fedmerge.params import Params

FORMAT = "fedmerge-checkpoint/1"


def write(path: Path, kinds: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]) -> None:
    """Replace the file at one stroke: who is interrupted finds the old one or the new one, never a half.

    Args:
        path: its folder is made when it is missing.
        kinds: kind (weights, say; no slash) -> name -> tensor on any device.
        facts: JSON-able values.
    """
    own = {
        f"{kind}/{name}": value.detach().cpu().contiguous()
        for kind, tensors in kinds.items()
        for name, value in tensors.items()
    }
    told = json.dumps({"format": FORMAT, **facts}, sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(save(own, {"fedmerge": told}))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def read(path: Path) -> tuple[dict[str, Params], dict[str, Any]]:
    """What `write` was given, the tensors on the CPU; a kind without tensors is missing.

    Raises:
        ConfigError: the file is missing, damaged, or not a checkpoint of this format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("fedmerge", "{}"))
            kinds: dict[str, Params] = {}
            for key in file.keys():  # noqa: SIM118 - not a dictionary
                kind, _, name = key.partition("/")
                kinds.setdefault(kind, {})[name] = file.get_tensor(key)
    except (OSError, SafetensorError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a checkpoint: {error}") from error
    if facts.pop("format", None) != FORMAT:
        raise ConfigError(f"{path} is not a checkpoint of the format {FORMAT}")
    return kinds, facts
