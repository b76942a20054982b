"""Reading TOML with sentences: a key that is unknown, missing or of another kind is named, with its place."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from fedmerge.errors import ConfigError

NEEDED = object()


def take(table: Mapping[str, Any], key: str, kind: type, where: str, default: Any = NEEDED) -> Any:  # noqa: ANN401 - as above
    """The value of `key`, of the wanted kind; a whole number serves as a float."""
    if key not in table:
        if default is NEEDED:
            raise ConfigError(f"{where}: '{key}' is missing")
        return default
    value = table[key]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        words = {
            str: "a text",
            int: "a whole number",
            float: "a number",
            bool: "true or false",
            dict: "a table",
        }
        raise ConfigError(f"{where}: '{key}' expected {words[kind]}, got {value!r}")
    return value


def only(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Refuses a key that is not known."""
    for key in table:
        if key not in known:
            raise ConfigError(f"{where}: unknown key '{key}'; known keys are {', '.join(known)}")


def read(path: Path) -> dict[str, Any]:
    """The file's tables; a ConfigError where there is no such file, or it is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name} is not TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path.name} cannot be read: {error.strerror}") from None


def choice(table: Mapping[str, Any], key: str, known: Sequence[str], where: str, default: Any = NEEDED) -> Any:  # noqa: ANN401 - as above
    """One of the known words."""
    value = take(table, key, str, where, default)
    if value not in known:
        raise ConfigError(f"{where}: '{key}' expected {' or '.join(known)}, got '{value}'")
    return value


def count(table: Mapping[str, Any], key: str, where: str, default: int | None) -> int | None:
    """A number of cases."""
    value: int | None = take(table, key, int, where, default)
    if value is not None and value < 0:
        raise ConfigError(f"{where}: '{key}' expected a number of cases, got {value}")
    return value


def texts(table: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """A list of texts; a single text is a list of one."""
    raw = table.get(key, [])
    raw = [raw] if isinstance(raw, str) else raw
    if not isinstance(raw, list) or not all(isinstance(item, str) for item in raw):
        raise ConfigError(f"{where}: '{key}' expected a list of names, got {raw!r}")
    return tuple(raw)


def table_of(table: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    """A table inside the table."""
    return cast("dict[str, Any]", take(table, key, dict, where))
