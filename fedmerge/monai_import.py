"""A MONAI bundle as the start of a campaign: its net as settings, its weights as safetensors.

A bundle is a folder (https://monai.readthedocs.io/en/stable/mb_specification.html). Its configuration could name any
function of this machine, and hold expressions that MONAI evaluates; here nothing of it is run. `network_def` is read as
data: a class of `nets.defined`, or a function of `fedmerge.nets`, with plain arguments. Weights of a `model.pt` are
unpickled with `weights_only`, which builds tensors and nothing else.
"""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fedmerge import nets, params, wire
from fedmerge.errors import ConfigError, DataError, FedmergeError
from fedmerge.params import Params

CONFIGS = ("inference", "infer", "evaluate", "train")  # where a bundle may have its network_def, the best place first
WEIGHTS = ("model.safetensors", "model.pt", "model.pth")
NESTED = ("model", "state_dict", "model_state_dict", "network", "net")  # of checkpoints that hold more than weights
LINKS = 8  # references behind one another


@dataclass(frozen=True)
class Bundle:
    """What a campaign takes of a bundle.

    Attributes:
        settings: the net, as `nets.canonical` has it.
        weights: all its named parameters.
        facts: what the bundle says of itself: `name`, `version`, `labels`, `channels`, `patch`, as far as it does.
    """

    settings: dict[str, Any]
    weights: Params
    facts: dict[str, Any]


def read(folder: Path) -> Bundle:
    """The net and the weights of a bundle.

    Raises:
        DataError: it is no bundle, or a file of it cannot be read.
        ConfigError: its net is none of those that fedmerge builds, or is described by expressions.
        NetError: the weights are those of another net.
    """
    if not (folder / "configs").is_dir():
        raise DataError(f"{folder}: expected a MONAI bundle, which has a folder 'configs'")
    path, config = _config(folder)
    settings = _settings(_plain(config["network_def"], config, f"{path}: network_def"), str(path))
    channels = {key: settings[key] for key in ("in_channels", "out_channels")}
    try:
        settings = nets.canonical(settings, **channels)
        like = nets.build(settings, **channels, seed=0)
    except FedmergeError as error:
        raise ConfigError(f"{path}: {error}") from None
    return Bundle(settings, _weights(folder, like), _facts(folder))


def write(bundle: Bundle, path: Path) -> None:
    """Write the weights as a model file that `[net] weights` of a campaign can name.

    Raises:
        Refused: a number is not finite.
    """
    facts = {key: bundle.facts[key] for key in ("name", "version") if key in bundle.facts}
    wire.write_model(bundle.weights, {"net": bundle.settings, "bundle": facts}, path)


def table(bundle: Bundle, weights: str) -> dict[str, Any]:
    """The keys of `[net]` for a campaign that starts with the bundle; without `patch` where the bundle has none."""
    net = {key: value for key, value in bundle.settings.items() if key not in ("in_channels", "out_channels")}
    patch = {"patch": bundle.facts["patch"]} if "patch" in bundle.facts else {}
    return {**net, **patch, "weights": weights}


def _config(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The configuration that describes the net."""
    for name in CONFIGS:
        path = folder / "configs" / f"{name}.json"
        if path.exists():
            config = _json(path)
            if "network_def" in config:
                return path, config
    names = ", ".join(f"{name}.json" for name in CONFIGS)
    raise DataError(f"{folder / 'configs'}: expected 'network_def' in one of {names}")


def _json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(read, dict):
        raise DataError(f"{path}: expected a table, got a {type(read).__name__}")
    return read


def _plain(value: Any, config: Mapping[str, Any], where: str, links: int = LINKS) -> Any:  # noqa: ANN401 - JSON
    """A value with its references to other plain values resolved.

    Raises:
        ConfigError: it holds an expression, or a reference that leads nowhere.
    """
    if isinstance(value, dict):
        return {key: _plain(one, config, f"{where}.{key}", links) for key, one in value.items() if key != "_desc_"}
    if isinstance(value, list):
        return [_plain(one, config, where, links) for one in value]
    if isinstance(value, str) and value[:1] in ("$", "%"):
        raise ConfigError(f"{where} is an expression, and none is evaluated here: {value!r:.80}")
    if not isinstance(value, str) or not value.startswith("@"):
        return value
    found: Any = config
    for step in value[1:].replace("::", "#").split("#"):
        if isinstance(found, list) and step.isdigit() and int(step) < len(found):
            found = found[int(step)]
        elif isinstance(found, dict) and step in found:
            found = found[step]
        else:
            raise ConfigError(f"{where} refers to {value!r:.80}, which is not there")
    if not links:
        raise ConfigError(f"{where}: more than {LINKS} references behind one another")
    return _plain(found, config, where, links - 1)


def _settings(told: Any, where: str) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """The settings of a net's definition, channels included."""
    if not isinstance(told, dict) or not isinstance(told.get("_target_"), str):
        raise ConfigError(f"{where}: network_def expected a table with '_target_', got {told!r:.80}")
    arguments = dict(told)
    target = str(arguments.pop("_target_"))
    for key in ("in_channels", "out_channels"):
        if type(arguments.get(key)) is not int:
            raise ConfigError(f"{where}: network_def expected a whole number as {key}, got {arguments.get(key)!r:.80}")
    for name, make in nets.NETS.items():
        if name not in nets.OWN and target == nets.target(make):
            return {"name": name, **arguments}
    package, _, cls = target.rpartition(".")
    if cls not in nets.defined.CLASSES or (package and not f"{package}.".startswith("monai.networks.nets.")):
        known = ", ".join(nets.defined.CLASSES)
        raise ConfigError(f"{where}: network_def expected a net of fedmerge, or MONAI's {known}, got {target!r:.80}")
    channels = {key: arguments.pop(key) for key in ("in_channels", "out_channels")}
    dims = arguments.pop("spatial_dims", arguments.pop("dimensions", 3))
    own = inspect.signature(nets.defined.class_of(cls)).parameters
    for key in [key for key, value in arguments.items() if value is None]:
        if key in own and own[key].default is None:
            del arguments[key]  # TOML has no word for it, and the class has it anyway
    return {"name": "monai", **channels, "dims": dims, "network": cls, "arguments": arguments}


def _weights(folder: Path, net: nn.Module) -> Params:
    """The net's named parameters in the bundle's weights; its buffers are left aside."""
    paths = [folder / "models" / name for name in WEIGHTS]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        raise DataError(f"{folder / 'models'}: expected {', '.join(WEIGHTS[:-1])} or {WEIGHTS[-1]}")
    try:
        state = _unpickled(path) if path.suffix != ".safetensors" else load_file(path)
        found = {name: state[name].detach().to(torch.float32) for name in params.shapes(net) if name in state}
        missing = [name for name in params.shapes(net) if name not in found]
        if missing:
            raise DataError(f"expected '{missing[0]}' and {len(missing) - 1} more, which are not there")
        params.load(net, found)
    except (FedmergeError, SafetensorError) as error:
        raise DataError(f"{path}: not the weights of the bundle's net: {error}") from None
    return params.of(net)


def _unpickled(path: Path) -> dict[str, Tensor]:
    """The tensors by name of a file that torch wrote; no other object of it is ever built.

    Raises:
        DataError: it holds something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile pickle raises whatever it likes
        words = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError(f"it cannot be read as bare tensors: {words}") from None
    while isinstance(state, Mapping) and not all(isinstance(value, Tensor) for value in state.values()):
        inner = [key for key in NESTED if isinstance(state.get(key), Mapping)]
        if not inner:
            raise DataError("expected tensors by name")
        state = state[inner[0]]
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise DataError(f"expected tensors by name, got a {type(state).__name__}")
    return {name.removeprefix("module."): value for name, value in state.items()}


def _facts(folder: Path) -> dict[str, Any]:
    """What `configs/metadata.json` says, as far as it is there and plain."""
    path = folder / "configs/metadata.json"
    told = _json(path) if path.exists() else {}
    facts = {"name": told.get("name", folder.resolve().name), "version": told.get("version")}
    data = told.get("network_data_format")
    data = data if isinstance(data, dict) else {}
    image, pred = (_first(data.get(part)) for part in ("inputs", "outputs"))
    if isinstance(defined := image.get("channel_def"), dict):
        facts["channels"] = list(defined.values())
    if isinstance(defined := pred.get("channel_def"), dict):
        names = list(defined.values())
        facts["labels"] = names[1:] if names[:1] == ["background"] else names  # regions have no background
    shape = image.get("spatial_shape")
    if isinstance(shape, list) and shape and all(type(side) is int for side in shape):
        facts["patch"] = shape
    return {key: value for key, value in facts.items() if value is not None}


def _first(told: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """The first of several tables; an empty one where there is none."""
    tables = [one for one in told.values() if isinstance(one, dict)] if isinstance(told, dict) else []
    return tables[0] if tables else {}
