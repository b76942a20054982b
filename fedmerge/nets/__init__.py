"""Nets by name, built from settings that a campaign file can hold.

A net maps images (B, C, *S) to logits (B, K, *S), background included, or a classifier to (B, K). All normalise each
image by itself (no running statistics: buffers do not travel) and have no in-place activation. Other packages may add
nets (`nets.foreign`); what they normalise by is their own affair.

    >>> from fedmerge import nets
    >>> settings = {"name": "isensee2017", "base_filters": 4, "depth": 2}
    >>> net = nets.build(settings, in_channels=1, out_channels=3, seed=0)
    >>> nets.heads(settings, in_channels=1, out_channels=3)
    ('heads.0.conv.weight', 'heads.0.conv.bias')
"""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from fedmerge import partition, plugins
from fedmerge.errors import ConfigError, NetError
from fedmerge.nets import defined, foreign, isensee2017, monai, resnet

NETS: dict[str, Callable[..., nn.Module]] = {
    "isensee2017": isensee2017.build,
    "unet": monai.unet,
    "segresnet": monai.segresnet,
    "dynunet": monai.dynunet,
    "monai": defined.network,
    "resnet": resnet.build,
}
CLASSIFIERS = ("resnet",)  # those that answer once an image
OWN = ("monai",)  # those whose modules draw their own weights, as nets of other packages do

LATER = ("coarse_heads",)  # settings that an older description lacks; one that is 0 is left out of a new one too
MOST = {"base_filters": 1024, "residual_units": 16}  # told before a net of such a size is built

DRAWN = (nn.modules.conv._ConvNd, nn.Linear)  # weights drawn at random
ONES = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)  # weights that begin at 1


def build(settings: Mapping[str, Any], *, in_channels: int, out_channels: int, seed: int | None = None) -> nn.Module:
    """A float32 net on the CPU, with He's initialisation (He et al. 2015) for every conv, or its own (`OWN`).

    Args:
        settings: `name`, one of `NETS`, and keyword arguments of its function, or what `canonical` returns.
        in_channels: image channels (modalities).
        out_channels: logits; those of segmentation include the background.
        seed: the weights are a function of (settings, channels, seed) alone; torch's global generator is
            neither read nor advanced. Without a seed they differ from call to call.

    Raises:
        ConfigError: an unknown net or key, an impossible value, or a net of another package than the settings say.
        NetError: a net of another package cannot be built.
    """
    arguments = canonical(settings, in_channels=in_channels, out_channels=out_channels)
    if _draws(arguments):
        return _drawn(arguments, seed)
    net = on_meta(settings, in_channels=in_channels, out_channels=out_channels)
    net.to_empty(device="cpu")
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    initialise(net, generator)
    return net


def initialise(net: nn.Module, generator: torch.Generator) -> None:
    """Draw every parameter anew: convs and linear layers from He's normal, norms 1 and 0, biases 0; buffers reset.

    Raises:
        NetError: a module with parameters or buffers is of a kind that is not known here.
    """
    for path, module in net.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if not own and not list(module.buffers(recurse=False)):
            continue
        if not isinstance(module, (*DRAWN, *ONES)):
            raise NetError(f"no initialisation is known for '{path}', a {type(module).__name__}")
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.reset_running_stats()
        for name, p in own.items():
            if name == "bias":
                nn.init.zeros_(p)
            elif isinstance(module, DRAWN):
                nn.init.kaiming_normal_(p, a=0.01, nonlinearity="leaky_relu", generator=generator)
            else:
                nn.init.ones_(p)


def names() -> tuple[str, ...]:
    """The nets that are built in, and those that installed packages add."""
    return (*NETS, *(name for name in plugins.names(foreign.GROUP) if name not in NETS))


def classifies(name: str) -> bool:
    """Whether a net answers once an image; an unknown one does not.

    Raises:
        ConfigError: it is of another package, which cannot be imported.
    """
    return name in CLASSIFIERS or getattr(_maker(name), "fedmerge_task", "segmentation") == "classification"


def stamp(name: str) -> str:
    """Package, version and digest of a net of another package; an empty text for others. Nothing is imported."""
    return foreign.stamp(name, NETS)


def as_here(settings: Mapping[str, Any], who: str) -> dict[str, Any]:
    """The settings of a model file for the code that is here; a warning tells where its package was another one.

    Args:
        settings: as `canonical` returns them.
        who: the file.

    Raises:
        ConfigError: as `stamp`.
    """
    here, made = stamp(str(settings.get("name"))), settings.get("package", "")
    if made and here and made != here:
        warnings.warn(f"{who}: made with {made}, and {here} is here", stacklevel=2)
    return {**settings, "package": here} if made and here else dict(settings)


def _maker(name: str) -> Callable[..., nn.Module] | None:
    """The function that builds the net of a name."""
    return foreign.find(name, NETS) or NETS.get(name)


def _draws(arguments: Mapping[str, Any]) -> bool:
    """Whether the net's modules draw their own weights."""
    return "package" in arguments or arguments["name"] in OWN


def _drawn(arguments: dict[str, Any], seed: int | None) -> nn.Module:
    """A net whose modules draw their own weights, from what `canonical` returns."""
    name = arguments.pop("name")
    arguments.pop("package", None)
    return foreign.build(_maker(name), name, seed, arguments)  # type: ignore[arg-type]  # canonical has found it


def canonical(settings: Mapping[str, Any], *, in_channels: int, out_channels: int) -> dict[str, Any]:
    """The settings with the channels and every default but those of `LATER`: JSON-able, and enough to `build` again.

    Those of a net of another package hold the package's `stamp` under `package`.

    Raises:
        ConfigError: an unknown net or key, a value of another type than the default's, one that is too large to
            build, channels in the settings that contradict the arguments, or another `package` than is installed here.
    """
    given = dict(settings)
    name = given.pop("name", None)
    make = _maker(name) if isinstance(name, str) else None
    if make is None:
        raise ConfigError(f"net: name expected one of {', '.join(names())}, got {name!r}")
    fixed: dict[str, Any] = {"in_channels": in_channels, "out_channels": out_channels}
    for key, value in fixed.items():
        if value < 1:
            raise ConfigError(f"net {name}: {key} expected at least 1, got {value}")
    if name not in NETS:
        fixed["package"] = stamp(name)
    for key, value in fixed.items():
        if given.pop(key, value) != value:
            raise ConfigError(f"net {name}: {key} expected {value}, got {settings[key]}")
    defaults = {key: p.default for key, p in inspect.signature(make).parameters.items() if p.default is not p.empty}
    for key, value in given.items():
        if key not in defaults:
            raise ConfigError(f"net {name}: unknown setting '{key}', expected one of {', '.join(defaults)}")
        kind = type(defaults[key])
        if kind is float and type(value) is int and abs(value) < 2**53:  # TOML and JSON write 0 for 0.0
            given[key] = float(value)
        elif type(value) is not kind:
            raise ConfigError(f"net {name}: {key} expected {kind.__name__}, got {value!r}")
        if key in MOST and value > MOST[key]:
            raise ConfigError(f"net {name}: {key} expected at most {MOST[key]}, got {value}")
    whole = {"name": name, **fixed, **defaults, **given}
    return {key: value for key, value in whole.items() if value or key not in LATER}


def definition(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The net as a MONAI bundle has it: `_target_`, a class of MONAI or the function that builds it, and arguments.

    Args:
        settings: from `canonical`.
    """
    arguments = {key: value for key, value in settings.items() if key not in ("name", "package")}
    make = _maker(settings["name"])
    if settings["name"] in NETS and (define := inspect.unwrap(make)) is not make:  # type: ignore[arg-type]  # it is there
        told: dict[str, Any] = define(**arguments)
        return told
    return {"_target_": target(make), **arguments}  # type: ignore[arg-type]  # as above


def target(make: Callable[..., nn.Module]) -> str:
    """Where a function is, as `_target_` has it."""
    return f"{make.__module__}.{make.__qualname__}"


def on_meta(settings: Mapping[str, Any], *, in_channels: int, out_channels: int) -> nn.Module:
    """The net without storage: names and shapes only. One that draws its own weights has them for a moment.

    Raises:
        ConfigError: as `canonical`.
        NetError: as `build`.
    """
    arguments = canonical(settings, in_channels=in_channels, out_channels=out_channels)
    if _draws(arguments):
        return _drawn(arguments, 0).to("meta")
    make = NETS[arguments.pop("name")]
    with torch.device("meta"):
        return make(arguments.pop("in_channels"), arguments.pop("out_channels"), **arguments)


def heads(settings: Mapping[str, Any], *, in_channels: int, out_channels: int) -> tuple[str, ...]:
    """The parameters whose shape depends on the number of labels: found by building with one label more.

    A net that declares its partition may have more of them.

    Raises:
        ConfigError: as `canonical`.
        NetError: what the net declares is wrong (`partition.declared`).
    """
    plain = bare(settings)
    here = on_meta(plain, in_channels=in_channels, out_channels=out_channels)
    other = dict(on_meta(plain, in_channels=in_channels, out_channels=out_channels + 1).named_parameters())
    changing = tuple(name for name, p in here.named_parameters() if other[name].shape != p.shape)
    return partition.heads(here, changing)


def check_patch(settings: Mapping[str, Any], patch: Sequence[int]) -> None:
    """Refuse a patch that the net cannot take, before anything is read or trained.

    Args:
        settings: as for `build`.
        patch: voxels along each axis.

    Raises:
        ConfigError: the net cannot be built, not as many sides as it has dimensions, a side that cannot be halved
            between all of the levels, or a single voxel left at the coarsest level.
    """
    plain = bare(settings)
    net = canonical(plain, in_channels=1, out_channels=1)
    if _draws(net):
        like = on_meta(plain, in_channels=1, out_channels=2)
        foreign.check_patch(like, net["name"], (1, 2), patch, voxelwise=not classifies(net["name"]))
        return
    on_meta(plain, in_channels=1, out_channels=1)  # an impossible depth is told here, before it is an exponent
    factor = 2 ** (net.get("depth", 1) - 1)  # a net that somebody put into `NETS` may know no levels
    got = "x".join(map(str, patch))
    if len(patch) != net["dims"]:
        raise ConfigError(f"net {net['name']}: patch expected {net['dims']} sides, got {got}")
    if any(side < factor or side % factor for side in patch):
        raise ConfigError(f"net {net['name']}: every side of the patch must be divisible by {factor}, got {got}")
    if all(side == factor for side in patch):
        raise ConfigError(f"net {net['name']}: patch {got} leaves one voxel at the coarsest level")


def bare(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without the channels, for a net of other channels."""
    return {key: value for key, value in settings.items() if key not in ("in_channels", "out_channels")}
