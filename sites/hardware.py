"""The table `hardware` of a site: how its machine is used for training."""

from typing import Any

from fedmerge import devices
from fedmerge.devices import RECOMPUTE, Hardware
from sites import toml


def read(table: dict[str, Any], where: str) -> Hardware:
    """The table as a record; `where` is its place for the errors.

    Raises:
        ConfigError: a key is unknown or impossible. Whether the device exists is seen where it is used.
    """
    toml.only(table, ("device", "compile", "recompute"), where)
    return Hardware(
        device=toml.take(table, "device", str, where, "auto"),
        compile=toml.take(table, "compile", bool, where, False),
        recompute=toml.choice(table, "recompute", RECOMPUTE, where, "auto"),
    )


def described(hardware: Hardware, precision: str = "auto") -> str:
    """What trainings will run on, in words.

    Raises:
        ConfigError: there is no such device on this machine.
    """
    with devices.using(hardware):
        return devices.describe(wanted=precision)
