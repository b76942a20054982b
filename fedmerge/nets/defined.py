"""Nets of MONAI as data: a class by its name, and its arguments. So they are built, and so a MONAI bundle has them.

Only the classes of `CLASSES` are built. A definition may come from another party, and `_target_` in a bundle's own
configuration could name any function of the machine that reads it.
"""

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from inspect import signature
from typing import Any, ParamSpec

from torch import nn

from fedmerge.errors import ConfigError

Definition = dict[str, Any]  # {"_target_": a name of CLASSES, argument: value}
P = ParamSpec("P")

CLASSES = {  # class -> its module in monai.networks.nets
    "UNet": "unet",
    "BasicUNet": "basic_unet",
    "AttentionUnet": "attentionunet",
    "SegResNet": "segresnet",
    "SegResNetDS": "segresnet_ds",
    "DynUNet": "dynunet",
    "VNet": "vnet",
    "UNETR": "unetr",
    "SwinUNETR": "swin_unetr",
}

MOST = 4096  # of a number in the arguments: a coordinator writes them, and a hospital's memory pays for them
LONGEST = 64  # of a list or a text
DEEPEST = 4


def building(define: Callable[P, Definition]) -> Callable[P, nn.Module]:
    """The function that builds what another one defines; `inspect.unwrap` has that one again."""

    @wraps(define)
    def build(*args: P.args, **kwargs: P.kwargs) -> nn.Module:
        return made(define(*args, **kwargs))

    return build


def made(told: Definition) -> nn.Module:
    """The net of a definition; a DynUNet with deep supervision is `supervised.Supervised`, with the same parameters."""
    arguments = {key: value for key, value in told.items() if key != "_target_"}
    make = class_of(told["_target_"])
    if told["_target_"] == "DynUNet" and arguments.get("deep_supervision"):
        make = import_module("fedmerge.nets.supervised").Supervised
    net: nn.Module = make(**arguments)
    return net


@building
def network(
    in_channels: int,
    out_channels: int,
    *,
    dims: int = 3,
    network: str = "UNet",
    arguments: dict[str, Any] = {},  # noqa: B006 - nobody writes to it
) -> Definition:
    """One of MONAI's nets with MONAI's own arguments.

    Raises:
        ConfigError: the class is none of `CLASSES`, or an argument is not the class's, or is not plain or too large.
    """
    if network not in CLASSES:
        raise ConfigError(f"net monai: network expected one of {', '.join(CLASSES)}, got {network!r:.80}")
    if dims not in (2, 3):
        raise ConfigError(f"net monai: dims expected 2 or 3, got {dims}")
    known = signature(class_of(network)).parameters
    fixed = {"in_channels": in_channels, "out_channels": out_channels, "spatial_dims": dims}
    for key, value in arguments.items():
        if key in fixed or key not in known:
            free = ", ".join(name for name in known if name not in fixed)
            raise ConfigError(f"net monai: arguments of {network} expected some of {free}, got '{key:.80}'")
        _check(value, f"net monai: arguments.{key}", DEEPEST)
    missing = [
        key for key, one in known.items() if one.default is one.empty and key not in arguments and key not in fixed
    ]
    if missing:
        raise ConfigError(f"net monai: arguments of {network} expected '{missing[0]}', got none")
    return {"_target_": network, **{key: value for key, value in fixed.items() if key in known}, **arguments}


def class_of(name: str) -> Callable[..., nn.Module]:
    """The class of a name of `CLASSES`; MONAI is imported here, which takes a second or two."""
    found: Callable[..., nn.Module] = getattr(import_module(f"monai.networks.nets.{CLASSES[name]}"), name)
    return found


def _check(value: Any, where: str, deep: int) -> None:  # noqa: ANN401 - whatever JSON can hold
    """Refuse what is no plain value of a reasonable size."""
    if isinstance(value, list | tuple | dict):
        if len(value) > LONGEST or not deep:
            raise ConfigError(f"{where} expected at most {LONGEST} values, {DEEPEST} deep")
        for one in value.values() if isinstance(value, dict) else value:
            _check(one, where, deep - 1)
    elif isinstance(value, str):
        if len(value) > LONGEST or value[:1] in ("$", "@", "%"):
            raise ConfigError(f"{where} expected a plain text of at most {LONGEST} characters, got {value!r:.80}")
    elif not isinstance(value, bool | int | float) or abs(value) > MOST:
        raise ConfigError(f"{where} expected numbers up to {MOST}, texts or lists of them, got {value!r:.80}")
