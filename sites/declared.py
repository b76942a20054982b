"""What a site's settings say about labels: their values, well-known tables by name, class folders, regions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedmerge import regions as nested
from fedmerge.errors import ConfigError
from sites import toml
from sites.labels import TABLES, Table
from sites.records import OUTPUTS, Labels

Values = Callable[[Any, str, str], Sequence[Any]]
Regions = dict[str, tuple[str, ...]]


def labels(table: dict[str, Any], key: str, where: str, layout: str) -> tuple[Labels, tuple[int, ...], Regions]:
    """The labels under a key, the other values that are known to be background, and the regions that go with them.

    Raises:
        ConfigError: there is no label, a label has no value, or a value means two things.
    """
    values = values_of(layout)
    if values is not _folders and (named := _by_name(table.get(key), f"{where}: '{key}'")):
        return named
    if values is _folders and isinstance(table.get(key), list):  # the folders' own names
        table = {**table, key: {name: name for name in toml.texts(table, key, where)}}
    raw = toml.take(table, key, dict, where)
    found = {name: tuple(values(value, f"{key}.{name}", where)) for name, value in raw.items()}
    if not found:
        raise ConfigError(f"{where}: '{key}' expected at least one label, got none")
    for name, own in found.items():
        if not own:
            raise ConfigError(f"{where}: '{key}.{name}' expected at least one value, got none")
    distinct(found, (), key, where)
    return found, (), {}


def _by_name(raw: Any, where: str) -> tuple[Labels, tuple[int, ...], Regions] | None:  # noqa: ANN401 - as in `toml`
    """A table by its name, `"brats"`, or some of it, `{ from = "freesurfer-14", classes = [1, 2] }`; else None."""
    if isinstance(raw, dict) and isinstance(raw.get("from"), str) and ":" not in raw["from"]:
        toml.only(raw, ("from", "classes"), where)
        name, classes = raw["from"], raw.get("classes")
    elif isinstance(raw, str):
        name, classes = raw, None
    else:
        return None
    if name not in TABLES:
        raise ConfigError(f"{where} expected a table of labels, or one of {', '.join(TABLES)}, got '{name}'")
    known = TABLES[name]
    chosen = tuple(known.labels) if classes is None else _classes(classes, known, where)
    found = {label: known.labels[label] for label in chosen}
    own = {value for values in found.values() for value in values}
    others = {*known.known, *(value for values in known.labels.values() for value in values)} - own - {0}
    regions = {name: parts for name, parts in known.regions.items() if set(parts) <= set(found)}
    return found, tuple(sorted(others)), regions


def _classes(raw: Any, table: Table, where: str) -> list[str]:  # noqa: ANN401 - as in `toml`
    """Names of a table's labels, or their numbers in its order from 1."""
    names = list(table.labels)
    numbered = dict(enumerate(names, start=1)) | {name: name for name in names}
    if not isinstance(raw, list) or not raw or any(isinstance(item, bool) for item in raw):
        raise ConfigError(f"{where}: 'classes' expected a list of names or numbers, got {raw!r}")
    for item in raw:
        if not isinstance(item, int | str) or item not in numbered:
            raise ConfigError(f"{where}: 'classes' expected 1 to {len(names)} or {', '.join(names)}, got {item!r}")
    chosen = [numbered[item] for item in raw]
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"{where}: 'classes' names a class twice, got {raw!r}")
    return chosen


def regions(raw: Any, own: Labels, layout: str, where: str) -> Regions:  # noqa: ANN401 - as in `toml`
    """Unions of labels, by name."""
    if layout in MEANINGS:
        raise ConfigError(f"{where}: 'regions' are unions of labels, and an image of layout '{layout}' has one class")
    if not isinstance(raw, dict) or not raw:
        raise ConfigError(f"{where}: 'regions' expected a table of lists of labels, got {raw!r}")
    found = {name: toml.texts(raw, name, f"{where}, regions") for name in raw}
    for name, parts in found.items():
        if strange := [part for part in parts if part not in own]:
            raise ConfigError(f"{where}: 'regions.{name}' expected labels of {', '.join(own)}, got '{strange[0]}'")
        if not parts:
            raise ConfigError(f"{where}: 'regions.{name}' expected at least one label, got none")
    return found


def outputs(table: dict[str, Any], own: Labels, known: Regions | None, layout: str, where: str) -> str:
    """Whether nets answer labels or regions; regions are such that a label map can be made back from them."""
    chosen = toml.choice(table, "outputs", OUTPUTS, where, "labels")
    if chosen == "labels":
        return "labels"
    if layout in MEANINGS:
        raise ConfigError(
            f"{where}: outputs = 'regions' is for label maps, and an image of layout '{layout}' has one class"
        )
    if not known:
        raise ConfigError(
            f"{where}: outputs = 'regions' expected 'regions', or labels of a table that has some, got none"
        )
    try:
        nested.of(tuple(own), known)
    except ConfigError as error:
        raise ConfigError(f"{where}: outputs = 'regions': {error}") from None
    return "regions"


def distinct(own: Mapping[str, Sequence[Any]], background: Sequence[Any], key: str, where: str) -> None:
    """No value means two things; 0 is always background."""
    owner: dict[Any, str] = {0: "background"} | dict.fromkeys(background, "background")
    for name, values in own.items():
        for value in values:
            if value in owner:
                raise ConfigError(f"{where}: value {value} of '{key}' is both '{owner[value]}' and '{name}'")
            owner[value] = name


def values_of(layout: str) -> Values:
    """How the layout's values of labels are read."""
    return MEANINGS.get(layout, _numbers)


def _numbers(raw: Any, key: str, where: str) -> list[int]:  # noqa: ANN401 - anything may stand in a TOML file
    """Whole numbers, or "TABLE:NAME" for the values that a known label table gives to a name."""
    values: list[int] = []
    for item in raw if isinstance(raw, list) else [raw]:
        table, _, name = item.partition(":") if isinstance(item, str) else ("", "", "")
        if isinstance(item, int) and not isinstance(item, bool):
            values.append(item)
        elif table in TABLES and name in TABLES[table].labels:
            values.extend(TABLES[table].labels[name])
        else:
            tables = ", ".join(TABLES)
            raise ConfigError(f"{where}: '{key}' expected whole numbers or TABLE:NAME ({tables}), got {item!r}")
    return values


def _folders(raw: Any, key: str, where: str) -> list[str]:  # noqa: ANN401 - as above
    """Names of class folders."""
    names = raw if isinstance(raw, list) else [raw]
    for name in names:
        if not isinstance(name, str) or not name or name.startswith(".") or "/" in name:
            raise ConfigError(f"{where}: '{key}' expected names of class folders, got {name!r}")
    return names


MEANINGS: dict[str, Values] = {"classes": _folders}  # what the values of labels are, where they are no numbers
