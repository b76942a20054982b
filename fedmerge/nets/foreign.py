"""Nets of other packages: entry points of the group `fedmerge.nets`. `docs/extending.md` is the contract.

Such a net, or one of MONAI's by its class, is built on the CPU with the initialisation of its own modules: nobody here
knows what their parameters should begin with. Torch's global generator is seeded meanwhile, and put back as it was.
"""

import inspect
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from fedmerge import plugins
from fedmerge.errors import ConfigError, FedmergeError, NetError

GROUP = "fedmerge.nets"
KINDS = (bool, int, float, str, list, dict)  # of settings: what a campaign file and a message can hold
RESERVED = (
    "name",
    "package",
    "patch",
    "field",
    "foreground",
    "weights",
    "specific",
    "fusable",
)  # keys of [net] that are no net's settings
SEEDED = threading.Lock()  # torch's global generator serves one build at a time

Make = Callable[..., nn.Module]


def find(name: str, taken: Collection[str]) -> Make | None:
    """The function that builds the net of a name; None where no installed package has one.

    Raises:
        ConfigError: as `plugins.find` and `Plugin.load`; or what is there breaks the contract.
    """
    found = plugins.find(GROUP, name, taken)
    if found is None:
        return None
    make = found.load()
    if not callable(make):
        raise ConfigError(f"{found}: expected a function that builds a net, got a {type(make).__name__}")
    try:
        first, second, *settings = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):
        raise ConfigError(f"{found}: expected the arguments in_channels, out_channels and settings") from None
    if (first.name, second.name) != ("in_channels", "out_channels"):
        raise ConfigError(f"{found}: expected the arguments in_channels, out_channels, got {first.name}, {second.name}")
    for one in settings:
        if type(one.default) not in KINDS or one.kind not in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD):
            raise ConfigError(
                f"{found}: the setting '{one.name}' expected a default that a campaign file can hold, got {one}"
            )
        if one.name in RESERVED:
            raise ConfigError(f"{found}: the setting '{one.name}' has the name of a key of [net]; name it otherwise")
    return make  # type: ignore[no-any-return]  # an entry point is untyped; what is callable is a function here


def stamp(name: str, taken: Collection[str]) -> str:
    """Package, version and digest of a net that is not built in; an empty text for others. Nothing is imported.

    Raises:
        ConfigError: as `plugins.find`, or its files are not found.
    """
    found = plugins.find(GROUP, name, taken)
    return found.stamp if found else ""


def build(make: Make, who: str, seed: int | None, arguments: Mapping[str, Any]) -> nn.Module:
    """The net, float32 on the CPU, without in-place activations; its weights depend on the seed alone.

    Args:
        make: from `find`.
        who: the net's name, for sentences.
        seed: as for `nets.build`.
        arguments: `in_channels`, `out_channels`, and settings.

    Raises:
        NetError: the function fails or gives no net; a parameter is not float32.
    """
    with SEEDED, torch.random.fork_rng(devices=[]), torch.device("cpu"):
        if seed is None:
            torch.seed()
        else:
            torch.manual_seed(seed)
        try:
            net = make(**arguments)
        except FedmergeError:
            raise
        except Exception as error:  # foreign code may raise anything at all
            raise NetError(f"net {who}: it cannot be built: {type(error).__name__}: {error}") from error
    if not isinstance(net, nn.Module) or not any(True for _ in net.parameters()):
        raise NetError(f"net {who}: expected a torch.nn.Module with parameters, got a {type(net).__name__}")
    for name, value in net.named_parameters():
        if value.dtype != torch.float32:
            raise NetError(f"net {who}: '{name}' expected torch.float32, got {value.dtype}")
    return out_of_place(net)


def out_of_place(net: nn.Module) -> nn.Module:
    """The net, with activations that write into their input told not to: hooks look at it after them."""
    for module in net.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]  # a flag of activations and dropouts, no tensor
    return net


def check_patch(net: nn.Module, who: str, channels: tuple[int, int], patch: Sequence[int], *, voxelwise: bool) -> None:
    """Refuse a patch that the net cannot take, by a pass without numbers.

    Nets whose pass needs real numbers are not looked at.

    Args:
        net: on the meta device.
        who: the net's name.
        channels: in and out.
        patch: voxels along each axis.
        voxelwise: whether it answers for each voxel; else once for the image.

    Raises:
        ConfigError: the pass fails, or the logits have another shape than they should.
    """
    got = "x".join(map(str, patch))
    inside, outside = channels
    try:
        with torch.no_grad():
            logits = net(torch.empty(2, inside, *patch, device="meta"))
    except Exception as error:  # foreign code may raise anything at all
        if isinstance(error, NotImplementedError) or "meta" in str(error):
            return
        raise ConfigError(f"net {who}: it does not take the patch {got}: {error}") from error
    want = (2, outside, *patch) if voxelwise else (2, outside)
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != want:
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
        raise ConfigError(f"net {who}: of two images of the patch {got}, logits expected the shape {want}, got {shape}")
