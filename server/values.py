"""What a key of a campaign file may hold: each function gives the value, or says where, what was expected, what came.

`where` is the file, the table and the key, as in `two.toml: [train] steps`.
"""

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fedmerge.errors import ConfigError

MOST = 2**31 - 1
SIDE = 4096  # voxels along one axis of a patch


def whole(value: Any, where: str, *, least: int = 0, most: int = MOST) -> int:  # noqa: ANN401 - whatever TOML can hold
    """A whole number from `least` to `most`; true and 3.0 are none."""
    if type(value) is not int or value < least:
        raise ConfigError(f"{where} expected a whole number of at least {least}, got {value!r}")
    if value > most:
        raise ConfigError(f"{where} expected a whole number of at most {most}, got {value!r}")
    return value


def number(
    value: Any,  # noqa: ANN401 - as above
    where: str,
    *,
    positive: bool = False,
    most: float = sys.float_info.max,
) -> float:
    """A finite number of at least 0, or above it."""
    if type(value) not in (int, float) or not 0 <= value <= most or (positive and value == 0):
        words = "a finite number above 0" if positive else "a finite number of at least 0"
        words = words if most == sys.float_info.max else f"a number from 0 to {most}"
        raise ConfigError(f"{where} expected {words}, got {value!r}")
    return float(value)


def truth(value: Any, where: str) -> bool:  # noqa: ANN401 - as above
    """True or false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{where} expected true or false, got {value!r}")
    return value


def text(value: Any, where: str) -> str:  # noqa: ANN401 - as above
    """A text with something in it."""
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where} expected a text that is not empty, got {value!r}")
    return value


def texts(value: Any, where: str) -> tuple[str, ...]:  # noqa: ANN401 - as above
    """A list of texts."""
    if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
        raise ConfigError(f"{where} expected a list of texts, got {value!r}")
    return tuple(value)


def groups(value: Any, where: str) -> tuple[tuple[str, ...], ...]:  # noqa: ANN401 - as above
    """A list of lists of texts."""
    if not isinstance(value, list) or not all(isinstance(item, list) for item in value):
        raise ConfigError(f"{where} expected a list of lists of texts, got {value!r}")
    return tuple(texts(item, where) for item in value)


def numbers(value: Any, where: str) -> tuple[float, ...]:  # noqa: ANN401 - as above
    """A list of numbers above 0, at least one."""
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{where} expected a list of numbers above 0, got {value!r}")
    return tuple(number(item, where, positive=True) for item in value)


def choice(value: Any, where: str, *, options: Sequence[str]) -> str:  # noqa: ANN401 - as above
    """One of several words."""
    if not isinstance(value, str) or value not in options:
        raise ConfigError(f"{where} expected one of {', '.join(options)}, got {value!r}")
    return value


def sides(value: Any, where: str) -> tuple[int, ...]:  # noqa: ANN401 - as above
    """The sides of a patch in voxels."""
    if not isinstance(value, list) or not all(type(side) is int and 1 <= side <= SIDE for side in value):
        raise ConfigError(f"{where} expected a list of whole numbers from 1 to {SIDE}, got {value!r}")
    return tuple(value)


def table(holder: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    """A copy of the table inside a table; an empty one where there is none."""
    value = holder.get(key, {})
    if not isinstance(value, dict):
        raise ConfigError(f"{where} expected a table, got {value!r}")
    return dict(value)


def only(given: Mapping[str, Any], where: str, known: Collection[str]) -> None:
    """Refuse a key that is not known."""
    for key in given:
        if key not in known:
            raise ConfigError(f"{where} has no key '{key}'; known are {', '.join(sorted(known))}")
