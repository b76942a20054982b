"""The campaign file as both sides find it: where it is, what its tables are, which sites live in it.

The server reads the plan out of these tables, a simulated hospital its own data; neither needs the other.
"""

import os
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

from fedmerge.errors import ConfigError


def built_in(name: str = "default") -> Path:
    """A campaign that comes with the package.

    `default` runs when none is given: two synthetic sources and a target. `anatomy` is a pattern, whose hospitals
    are made from label maps first.
    """
    return Path(str(files("fedmerge") / f"{name}.toml"))


def folder(out: str) -> Path:
    """The folder of a run's results; without a name, a folder below Flower's own home."""
    if out:
        return Path(out).absolute()
    home = os.environ.get("FLWR_HOME", "")
    return (Path(home) if home else Path.home() / ".flwr").absolute() / "fedmerge"


def locate(campaign: str, out: Path) -> tuple[Path, Path]:
    """The campaign file, and the folder that its relative paths start from.

    Args:
        campaign: path of a campaign file; empty for the built-in one, whose hospitals are made below `out`.
        out: the run's folder.
    """
    if not campaign:
        return built_in(), out
    path = Path(campaign).absolute()
    return path, path.parent


def read(path: Path) -> dict[str, Any]:
    """The file's tables.

    Raises:
        ConfigError: the file cannot be read, is no TOML, holds a number of more than 64 bits, or its sites are not a
            list of tables with names.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such campaign file") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # ValueError: no TOML, no UTF-8, a number of thousands of digits
        raise ConfigError(f"{path}: not a TOML file: {error}") from None
    _check_numbers(table, str(path))
    sites = table.get("site", [])
    if not isinstance(sites, list) or not sites:
        raise ConfigError(f"{path}: expected one [[site]] table for each site, got {repr(sites) if sites else 'none'}")
    for site in sites:
        if not isinstance(site, dict):
            raise ConfigError(f"{path}: [[site]] expected a list of tables, got {site!r} in it")
    names = [site.get("name") for site in sites]
    for name in names:
        if not isinstance(name, str) or not name.replace("-", "").replace("_", "").isalnum():
            raise ConfigError(f"{path}: a site's name is letters, digits, '-' and '_', got {name!r}")
        if names.count(name) > 1:
            raise ConfigError(f"{path}: two sites are called '{name}'")
    return table


def residents(table: dict[str, Any]) -> list[str]:
    """The sites that a simulation has to run, in the order of the file: those with data of their own."""
    return [site["name"] for site in table["site"] if "data" in site]


def _check_numbers(value: Any, where: str) -> None:  # noqa: ANN401 - whatever TOML can hold
    """Whole numbers have 64 bits, as TOML promises; larger ones would not reach the sites."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_numbers(inner, f"{where}: {key}")
    elif isinstance(value, list):
        for inner in value:
            _check_numbers(inner, where)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ConfigError(f"{where} expected a whole number of at most 64 bits, got one of {value.bit_length()}")
