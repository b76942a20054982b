"""The tables of a site's file, `data`, `policy` and `scanner`, read into their records."""

import math
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from fedmerge.errors import ConfigError
from fedmerge.trust import keys
from sites import declared, steps, toml, volumes
from sites.records import (
    CONTROLS,
    FISHER,
    LAYOUTS,
    REUSE,
    ROLES,
    TRUST,
    Data,
    Layout,
    Outputs,
    Part,
    Policy,
    Scanner,
    Selection,
)

MASKS = {"folders": None, "freesurfer": "brainmask", "bids": "desc-brain_mask"}  # layout -> name of a case's mask
PREPARATION = ("grids", "crop", "bias_field", "landmarks", "clip", "cache_gb", "workers")
# Keys that say nothing in a layout: those that speak of voxels and label maps, or choose among a case's files.
UNUSED = {
    "msd": ("files", "derivative"),
    "phantom": ("files", "derivative"),
    "classes": ("spacing_mm", "control", "label_file", "files", "derivative", *PREPARATION),
    "folders": ("derivative",),
    "brats": ("label_file", "files", "derivative"),
    "freesurfer": ("derivative",),
}


def data(table: dict[str, Any], where: str, base: Path) -> Data:
    """The table `data`; `where` is its place for the errors, `base` what relative paths are relative to."""
    toml.only(table, [f.name for f in fields(Data)], where)
    layout = toml.choice(table, "layout", LAYOUTS, where, "msd")
    for key in UNUSED.get(str(layout), ()):
        if key in table:
            raise ConfigError(f"{where}: '{key}' means nothing in the layout '{layout}'")
    labels, known, regions = declared.labels(table, "labels", where, str(layout))
    pooled_labels = declared.labels(table, "pooled_labels", where, str(layout))[0] if "pooled_labels" in table else None
    background = tuple(declared.values_of(str(layout))(table.get("background", []), "background", where))
    declared.distinct(labels, background, "labels", where)
    modalities, files = toml.texts(table, "modalities", where), _files(table, where)
    done = steps.read(table, where, base)
    mask_file = _mask_file(table, done.crop, str(layout), where)
    if modalities and (strange := [name for name in files if name not in modalities]):
        raise ConfigError(f"{where}: 'files' expected modalities of {', '.join(modalities)}, got '{strange[0]}'")
    scored = declared.regions(table["regions"], labels, str(layout), where) if "regions" in table else regions or None
    return Data(
        folder=base / toml.take(table, "folder", str, where),
        layout=cast(Layout, layout),
        labels=labels,
        modalities=modalities or tuple(files),
        background=tuple(dict.fromkeys((*background, *known))),
        cases=_selection(table.get("cases", "all"), where, base),
        train=toml.count(table, "train", where, None),
        validate=_part(table, "validate", where),
        test=_part(table, "test", where),
        spacing_mm=_spacing(table.get("spacing_mm"), where),
        pooled_labels=pooled_labels,
        regions=scored,
        outputs=cast(Outputs, declared.outputs(table, labels, scored, str(layout), where)),
        control=toml.choice(table, "control", CONTROLS, where) if "control" in table else None,
        meaningless=toml.take(table, "meaningless", int, where, None),
        phantom=_phantom(table.get("phantom"), layout, where),
        patient=_pattern(table.get("patient"), where),
        label_file=_stem(toml.take(table, "label_file", str, where)) if "label_file" in table else None,
        files=files,
        derivative=toml.take(table, "derivative", str, where, None),
        grids=done.grids,
        crop=done.crop,
        mask_file=mask_file,
        bias_field=done.bias_field,
        landmarks=done.landmarks,
        clip=done.clip,
        cache_gb=_cache_gb(table, where),
        workers=_workers(table, where),
    )


def _files(table: dict[str, Any], where: str) -> dict[str, str]:
    """The name of a modality's file, by modality; an ending of volumes may stand behind it or not."""
    raw = toml.take(table, "files", dict, where, {})
    return {name: _stem(toml.take(raw, name, str, f"{where}, files")) for name in raw}


def _mask_file(table: dict[str, Any], crop: str | None, layout: str, where: str) -> str | None:
    """The name of a case's mask, where the site crops by one."""
    if crop != "mask":
        if "mask_file" in table:
            raise ConfigError(f"{where}: 'mask_file' is read with crop = 'mask', got {crop or 'no crop'}")
        return None
    if layout not in MASKS:
        raise ConfigError(f"{where}: crop = 'mask' expected one of the layouts {', '.join(MASKS)}, got '{layout}'")
    name = _stem(toml.take(table, "mask_file", str, where)) if "mask_file" in table else MASKS[layout]
    if not name:
        raise ConfigError(f"{where}: crop = 'mask' in the layout '{layout}' expected 'mask_file', got none")
    return name


def _stem(name: str) -> str:
    return volumes.stem(Path(name))


def _cache_gb(table: dict[str, Any], where: str) -> float:
    size = float(toml.take(table, "cache_gb", float, where, 0.0))
    if not 0 <= size < math.inf:
        raise ConfigError(f"{where}: 'cache_gb' expected a size from 0, got {size}")
    return size


def _workers(table: dict[str, Any], where: str) -> int:
    threads = int(toml.take(table, "workers", int, where, 1))
    if threads < 1:
        raise ConfigError(f"{where}: 'workers' expected at least 1, got {threads}")
    return threads


def _part(table: dict[str, Any], key: str, where: str) -> Part:
    """A number of cases, or the ids of exactly those cases."""
    if not isinstance(table.get(key), list):
        return toml.count(table, key, where, 0) or 0
    ids = toml.texts(table, key, where)
    for case in ids:
        if ids.count(case) > 1:
            raise ConfigError(f"{where}: '{key}' names the case '{case}' twice")
    return ids


def _selection(raw: Any, where: str, base: Path) -> Selection:  # noqa: ANN401 - as above
    if isinstance(raw, dict):
        where = f"{where}, cases"
        toml.only(raw, ("shuffle", "slice"), where)
        several = raw["slice"] if isinstance(raw.get("slice"), list) else [toml.take(raw, "slice", str, where, ":")]
        if not several or not all(isinstance(text, str) for text in several):
            raise ConfigError(f"{where}: 'slice' expected one slice or a list of some, got {several!r}")
        (start, stop), *more = (_slice(text, where) for text in several)
        return Selection(start, stop, shuffle=toml.take(raw, "shuffle", int, where), more=tuple(more))
    if not isinstance(raw, str):
        raise ConfigError(f"{where}: 'cases' expected a slice, a table or a file of ids, got {raw!r}")
    if raw == "all":
        return Selection()
    if ":" in raw:
        start, stop = _slice(raw, where)
        return Selection(start, stop)
    return Selection(ids=base / raw)


def _slice(text: str, where: str) -> tuple[int | None, int | None]:
    match = re.fullmatch(r"\s*(\d*)\s*:\s*(\d*)\s*", text)
    if match is None:
        raise ConfigError(f"{where}: a slice of cases looks like '0:60', got '{text}'")
    start, stop = (int(part) if part else None for part in match.groups())
    if stop is not None and stop <= (start or 0):
        raise ConfigError(f"{where}: the slice '{text}' holds no case")
    return start, stop


def _spacing(raw: Any, where: str) -> tuple[float, float, float] | None:  # noqa: ANN401 - as above
    if raw is None:
        return None
    values = raw if isinstance(raw, list) else [raw] * 3
    if len(values) != 3 or not all(isinstance(v, int | float) and 0 < v < 1000 for v in values):
        raise ConfigError(f"{where}: 'spacing_mm' expected one or three positive lengths, got {raw!r}")
    x, y, z = (float(v) for v in values)
    return x, y, z


def _phantom(raw: Any, layout: str, where: str) -> dict[str, Any] | None:  # noqa: ANN401 - as above
    if layout != "classes" and (raw is None) != (layout != "phantom"):
        raise ConfigError(f"{where}: the table 'phantom' and the layout 'phantom' belong together")
    if raw is not None:
        toml.only(raw, ("profile", "cases", "seed"), f"{where}, phantom")
        toml.take(raw, "profile", str, f"{where}, phantom")
        toml.take(raw, "cases", int, f"{where}, phantom")
        toml.take(raw, "seed", int, f"{where}, phantom", 0)
    return cast("dict[str, Any] | None", raw)


def _pattern(raw: Any, where: str) -> str | None:  # noqa: ANN401 - as above
    if raw is None:
        return None
    try:
        groups = re.compile(raw).groups
    except (re.error, TypeError):
        groups = 0
    if groups != 1:
        raise ConfigError(f"{where}: 'patient' expected a pattern with one group, got {raw!r}")
    return str(raw)


def policy(table: dict[str, Any], where: str) -> Policy:
    """The table `policy`; what it does not say, it forbids."""
    toml.only(table, [f.name for f in fields(Policy)], where)
    read: dict[str, Any] = {}
    for key in table:
        if key in ("roles", "campaigns", "nets", "labels", "trust", "receivers"):
            names = toml.texts(table, key, where)
            read[key] = None if "*" in names else names
        elif key in ("fisher", "reuse"):
            read[key] = toml.choice(table, key, FISHER if key == "fisher" else REUSE, where)
        elif key in ("max_contributions", "max_bytes") and table[key] == "*":
            read[key] = None
        elif key in ("min_cases", "max_contributions", "max_bytes"):
            read[key] = toml.count(table, key, where, None)
        elif key in ("epsilon", "delta"):
            read[key] = toml.take(table, key, float, where)
            if not read[key] >= 0:
                raise ConfigError(f"{where}: '{key}' expected no negative number, got {read[key]}")
        elif key == "max_attack_auc":
            read[key] = toml.take(table, key, float, where)
            if not 0 <= read[key] <= 1:
                raise ConfigError(f"{where}: '{key}' expected a number from 0 to 1, got {read[key]}")
        else:
            read[key] = toml.take(table, key, bool, where)
    for known in read.get("roles") or ():
        if known not in ROLES:
            raise ConfigError(f"{where}: 'roles' expected {' or '.join(ROLES)}, got '{known}'")
    for line in read.get("receivers") or ():
        name, _, pin = line.partition(" ")
        if not name or (pin and not keys.same_fingerprint(pin, pin)):
            raise ConfigError(f"{where}: 'receivers' expected NAME or 'NAME SHA256:FINGERPRINT', got {line!r:.80}")
    for known in read.get("trust") or ():
        if known not in TRUST:
            raise ConfigError(f"{where}: 'trust' expected some of {', '.join(TRUST)}, got '{known}'")
    return Policy(**read)


def scanner(table: dict[str, Any], where: str) -> Scanner:
    """The table `scanner` of a simulation."""
    toml.only(table, [f.name for f in fields(Scanner)], where)
    kinds = {f.name: bool if f.default is False else float for f in fields(Scanner)}
    scanner = Scanner(**{key: toml.take(table, key, kinds[key], where) for key in table})
    for key in ("gain", "gamma"):
        if not getattr(scanner, key) > 0:
            raise ConfigError(f"{where}: '{key}' expected a positive number, got {getattr(scanner, key)}")
    for key in ("bias", "noise", "blur"):
        if not getattr(scanner, key) >= 0:
            raise ConfigError(f"{where}: '{key}' expected no negative number, got {getattr(scanner, key)}")
    return scanner


def name(table: Mapping[str, Any], where: str) -> str:
    """A site's name: it becomes the name of folders, so it holds nothing that a path would read."""
    name = toml.take(table, "name", str, where)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ConfigError(f"{where}: a name is up to 64 letters, digits, dots and dashes, got '{name}'")
    return str(name)


def role(table: Mapping[str, Any], where: str) -> str:
    """A site's role."""
    return str(toml.choice(table, "role", ROLES, where))
