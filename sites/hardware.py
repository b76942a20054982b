"""The table `hardware` of a site: how its machine is used for training."""

from typing import Any, Literal

from fedmerge import devices
from fedmerge.devices import RECOMPUTE, Hardware
from fedmerge.errors import ConfigError
from sites import toml


def read(table: dict[str, Any], where: str) -> Hardware:
    """The table as a record; `where` is its place for the errors.

    Raises:
        ConfigError: a key is unknown or impossible. Whether the device exists is seen where it is used.
    """
    toml.only(table, ("device", "compile", "recompute", "devices"), where)
    return Hardware(
        device=toml.take(table, "device", str, where, "auto"),
        compile=toml.take(table, "compile", bool, where, False),
        recompute=toml.choice(table, "recompute", RECOMPUTE, where, "auto"),
        devices=_count(table, where),
    )


def _count(table: dict[str, Any], where: str) -> int | Literal["all"]:
    value = table.get("devices", 1)
    if value != "all" and (type(value) is not int or value < 1):
        raise ConfigError(f"{where}: 'devices' expected a number of devices from 1, or all, got {value!r}")
    return value  # type: ignore[no-any-return]  # checked


def described(hardware: Hardware, precision: str = "auto") -> str:
    """What trainings will run on, in words.

    Raises:
        ConfigError: there is no such device on this machine, or not so many.
    """
    with devices.using(hardware):
        return devices.describe(wanted=precision)
