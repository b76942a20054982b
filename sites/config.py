"""What a site says about itself: its data, its policy and, in a simulation, its scanner.

The same `data` and `policy` tables are read from a campaign file (`[site.data]`, one simulation for all
sites) and from a hospital's own file (`[data]`, a deployment). They differ in what silence means: in a
hospital's own file a policy key that is missing forbids; a campaign without a `[site.policy]` table allows
what a simulation needs.
"""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedmerge.errors import ConfigError, DataError
from sites import folders, hardware, tables, toml
from sites.records import OPEN, Data, Labels, Policy, Scanner, Selection, Site

__all__ = [
    "OPEN",
    "Data",
    "Labels",
    "Policy",
    "Scanner",
    "Selection",
    "Site",
    "from_campaign",
    "from_file",
    "names",
    "pooled",
]

OWN = ("name", "role", "contribution", "data", "policy", "scanner", "hardware")


def names(path: Path) -> list[str]:
    """The names of a campaign's sites, in the file's order."""
    return [entry["name"] for entry in _entries(path)]


def from_campaign(path: Path, name: str, *, work: Path, data: Path | None = None, base: Path | None = None) -> Site:
    """One site of a campaign file, for a simulation.

    Args:
        path: the campaign file; only its `[[site]]` entries are read.
        name: the site's name there.
        work: the site's private working folder.
        data: replaces the site's folder (of phantoms: `data/NAME`).
        base: what a relative folder is relative to; the campaign file's own folder when it is not given.

    Raises:
        ConfigError: the site is not in the file, or a key is unknown, missing or impossible.
    """
    for entry in _entries(path):
        if entry["name"] == name:
            return _simulated(entry, path, work=work, data=data, base=base or path.parent)
    raise ConfigError(f"{path.name} has no site '{name}'; its sites are {', '.join(names(path)) or 'none'}")


def from_file(path: Path) -> Site:
    """A hospital's own site, from its own file with `[site]`, `[users]`, `[data]`, `[policy]` and `[hardware]`.

    Raises:
        ConfigError: a key is unknown, missing or impossible, or it belongs in simulations only.
    """
    table = toml.read(path)
    toml.only(table, ("site", "users", "data", "policy", "hardware"), path.name)
    head = toml.table_of(table, "site", path.name)
    toml.only(head, ("name", "role", "work"), f"{path.name}, [site]")
    name = tables.name(head, f"{path.name}, [site]")
    data = tables.data(toml.table_of(table, "data", path.name), f"{name}, [data]", path.parent)
    data = _with_modalities(data)
    for key in ("control", "meaningless"):
        if getattr(data, key) is not None:
            raise ConfigError(f"{name}, [data]: '{key}' is for simulations only")
    return Site(
        name=name,
        role=tables.role(head, f"{path.name}, [site]"),
        data=data,
        policy=tables.policy(table.get("policy", {}), f"{name}, [policy]"),
        scanner=None,
        work=path.parent / toml.take(head, "work", str, f"{path.name}, [site]", f"{name}-work"),
        simulation=False,
        home=path.parent.absolute(),
        hardware=hardware.read(toml.take(table, "hardware", dict, path.name, {}), f"{name}, [hardware]"),
    )


def pooled(
    path: Path, *, work: Path, data: Path | None = None, base: Path | None = None, target: str | None = None
) -> list[Site]:
    """The campaign's sources as if they had annotated the target's labels: the reference that life refuses.

    Args:
        path: the campaign file.
        work: the parent of the sites' working folders.
        data: as for `from_campaign`.
        base: as for `from_campaign`.
        target: the target whose labels, in whose order, are wanted; the first one when it is not given.

    Raises:
        ConfigError: a source has no `pooled_labels`, or they are not the target's labels.
    """
    roles = {entry["name"]: entry["role"] for entry in _entries(path)}
    target = target or next((name for name, role in roles.items() if role == "target"), "")
    wanted = from_campaign(path, target, work=work / target, data=data, base=base).data.labels
    sites = []
    for name in (name for name, role in roles.items() if role == "source"):
        site = from_campaign(path, name, work=work / name, data=data, base=base)
        sites.append(replace(site, data=_pool(site.data, wanted, name, target)))
    return sites


def _pool(data: Data, wanted: Labels, name: str, target: str) -> Data:
    """The source's data with `pooled_labels` in the target's order; what they leave out is background."""
    if data.pooled_labels is None:
        raise ConfigError(f"{name}: the method 'pooled' needs 'pooled_labels' in [site.data]")
    if set(data.pooled_labels) != set(wanted):
        got, want = ", ".join(sorted(data.pooled_labels)), ", ".join(sorted(wanted))
        raise ConfigError(f"{name}: 'pooled_labels' expected the labels of {target} ({want}), got {got}")
    labels = {label: data.pooled_labels[label] for label in wanted}
    declared = {*data.background, *(value for values in data.labels.values() for value in values)}
    rest = declared - {value for values in labels.values() for value in values}
    return replace(data, labels=labels, background=tuple(sorted(rest)), regions=None, outputs="labels")


def _simulated(entry: dict[str, Any], path: Path, *, work: Path, data: Path | None, base: Path) -> Site:
    name = entry["name"]
    where = f"{name} in {path.name}"
    read = tables.data(toml.table_of(entry, "data", where), f"{name}, [site.data]", base)
    if data is not None:
        read = replace(read, folder=data / name if read.phantom else data)
    read = _with_modalities(read)
    scanner = None
    if "scanner" in entry:
        scanner = tables.scanner(toml.table_of(entry, "scanner", where), f"{name}, [site.scanner]")
    policy = OPEN
    if "policy" in entry:
        policy = tables.policy(toml.table_of(entry, "policy", where), f"{name}, [site.policy]")
    machine = hardware.read(toml.take(entry, "hardware", dict, where, {}), f"{name}, [site.hardware]")
    return Site(name, entry["role"], read, policy, scanner, work, simulation=True, hardware=machine)


def _with_modalities(data: Data) -> Data:
    """The names of the channels as the files tell them; a folder that cannot be read is reported when it is."""
    with suppress(DataError, OSError):
        return replace(data, modalities=folders.modalities(data))
    return data


def _entries(path: Path) -> list[dict[str, Any]]:
    """The `[[site]]` entries, with names and roles checked."""
    entries = toml.read(path).get("site", [])
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{path.name} has no [[site]]")
    seen: set[str] = set()
    for entry in entries:
        name = tables.name(entry, f"{path.name}, [[site]]")
        toml.only(entry, OWN, f"{name} in {path.name}")
        tables.role(entry, f"{name} in {path.name}")
        if name in seen:
            raise ConfigError(f"{path.name} has two sites of the name '{name}'")
        seen.add(name)
    return entries
