"""Contributions, parameters and models as bytes: wire format v1. `docs/wire-format.md` is the spec.

Three documents share one container: `fedmerge-contribution/1` (a site's contribution),
`fedmerge-params/1` (weights or gradients in a message) and `fedmerge-model/1` (a model file). All tensors
are float32. Writing is deterministic; reading checks everything before anything is used.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedmerge import container, regions, whole
from fedmerge.contribution import FISHER_LABELS, Contribution, check_finite, check_fisher, check_magnitude, slabs
from fedmerge.errors import ConfigError, Refused
from fedmerge.params import Params

CONTRIBUTION = "fedmerge-contribution/1"
PARAMS = "fedmerge-params/1"
MODEL = "fedmerge-model/1"

MAX_NAME = 256
MAX_TEXT = 1024
_TINY = torch.finfo(torch.float32).tiny


def to_bytes(c: Contribution) -> bytes:
    """A contribution as bytes; equal contributions give equal bytes.

    Raises:
        Refused: the contribution breaks a rule of the format (a name, a dtype, a value that is not finite).
    """
    tensors = {f"weights/{name}": value for name, value in c.weights.items()}
    tensors |= {f"fisher/{name}": value for name, value in c.fisher.items()}
    facts = {"format": CONTRIBUTION, **c.facts()}
    _contribution(facts, tensors, c.site)
    return _write(tensors, facts, c.site)


def from_bytes(data: bytes, *, max_bytes: int | None = None, site: str = "") -> Contribution:
    """The contribution in these bytes, in memory of its own.

    That its names and shapes are those of the campaign's net is for `contribution.check` to say.

    Args:
        data: the whole document.
        max_bytes: refuse more than this before looking at anything else.
        site: from whom it came, for the sentences.

    Raises:
        Refused: the bytes break a rule of the format.
    """
    facts, tensors = _read(data, CONTRIBUTION, max_bytes, site or "contribution")
    return _contribution(facts, tensors, site or "contribution")


def write(c: Contribution, path: Path) -> None:
    """Write a contribution to a file, which appears whole or not at all.

    Raises:
        Refused: as in `to_bytes`.
    """
    whole.write(path, to_bytes(c))


def read(path: Path, *, max_bytes: int | None = None, site: str = "") -> Contribution:
    """The contribution in a file; its tensors are memory-mapped, and writing to them leaves the file alone.

    Args:
        path: the file.
        max_bytes: as in `from_bytes`.
        site: from whom it came, for the sentences; the path unless given.

    Raises:
        Refused: as in `from_bytes`.
    """
    who = site or str(path)
    facts, tensors = _read(_mapped(path, who), CONTRIBUTION, max_bytes, who)
    return _contribution(facts, tensors, who)


def facts(path: Path, *, site: str = "") -> dict[str, Any]:
    """What the file of a contribution says of itself in its header; none of its numbers is looked at.

    Raises:
        Refused: the header breaks a rule of the format.
    """
    who = site or str(path)
    return _facts(container.read_header(path, who=who), CONTRIBUTION, who)


def params_to_bytes(params: Mapping[str, Tensor]) -> bytes:
    """Weights or gradients of a message as bytes.

    Raises:
        Refused: a name, dtype or value breaks a rule of the format.
    """
    return _write(params, {"format": PARAMS}, "params")


def params_from_bytes(data: bytes, *, max_bytes: int | None = None, site: str = "") -> Params:
    """The parameters in these bytes, in memory of their own.

    Raises:
        Refused: the bytes break a rule of the format.
    """
    facts, tensors = _read(data, PARAMS, max_bytes, site or "params")
    _keys(facts, {"format"}, site or "params")
    return tensors


def open_params(data: bytes | Path, *, site: str = "") -> Params:
    """The parameters in these bytes, or those in a file, memory-mapped.

    Raises:
        Refused: as in `params_from_bytes`.
    """
    if isinstance(data, bytes):
        return params_from_bytes(data, site=site)
    who = site or str(data)
    facts, tensors = _read(_mapped(data, who), PARAMS, None, who)
    _keys(facts, {"format"}, who)
    return tensors


def write_model(params: Mapping[str, Tensor], info: Mapping[str, Any], path: Path) -> None:
    """Write a model: its parameters under their own names, and `info` as JSON.

    Raises:
        Refused: a name, dtype or value breaks a rule of the format.
    """
    whole.write(path, _write(params, {**info, "format": MODEL}, str(path)))


def read_model(path: Path) -> tuple[Params, dict[str, Any]]:
    """The parameters (memory-mapped) and the info of a model file.

    A safetensors file of float32 tensors that fedmerge did not write is read too; its info is empty.

    Raises:
        Refused: names the file and what was wrong.
    """
    facts, tensors = _read(_mapped(path, str(path)), MODEL, None, str(path), foreign=True)
    facts.pop("format", None)
    return tensors, facts


def _write(tensors: Mapping[str, Tensor], facts: Mapping[str, Any], who: str) -> bytes:
    """The container of these tensors, by name, each without subnormals."""
    parts, entries = [], {}
    for name in sorted(tensors):
        value = tensors[name].detach().cpu()
        _check_tensor(name, value, who)
        if value.dtype != torch.float32:
            raise Refused(f"{who}: '{name}' expected torch.float32, got {value.dtype}")
        entries[name] = ("F32", tuple(value.shape))
        array = torch.where(value.abs() < _TINY, 0.0, value).contiguous().numpy()
        parts.append(array.astype("<f4", copy=False).data)
    try:
        text = container.canonical(dict(facts))
    except (ValueError, TypeError) as error:
        raise Refused(f"{who}: the metadata cannot be written as JSON: {error}") from None
    header = container.encode(entries, {"fedmerge": text})
    if len(header) - 8 > container.MAX_HEADER:
        raise Refused(f"{who}: the header expected at most {container.MAX_HEADER} bytes, got {len(header) - 8}")
    return b"".join([header, *parts])


def _read(
    data: bytes | np.ndarray[Any, np.dtype[np.uint8]],
    form: str,
    max_bytes: int | None,
    who: str,
    foreign: bool = False,
) -> tuple[dict[str, Any], Params]:
    """The metadata and the checked tensors of a document."""
    total = len(data)
    if max_bytes is not None and total > max_bytes:
        raise Refused(f"{who}: expected at most {max_bytes} bytes, got {total}")
    size = container.header_size(bytes(data[:8]), total, who)
    header = container.decode(bytes(data[: 8 + size]), total, who)
    facts = _facts(header, form, who) if not foreign or "fedmerge" in header.metadata else {}
    tensors = {}
    for name, entry in header.entries.items():
        if entry.dtype != "F32":
            raise Refused(f"{who}: '{name}' expected dtype F32, got {entry.dtype}")
        array = np.frombuffer(data, "<f4", (entry.stop - entry.start) // 4, entry.start)
        if not isinstance(data, np.ndarray) or array.dtype != np.float32 or not array.flags.aligned:
            array = array.astype(np.float32)  # of bytes: a copy; of a mapped file: left where it is
        value = torch.from_numpy(array).reshape(entry.shape)
        _check_tensor(name, value, who)
        for piece in slabs(value):
            subnormal = (piece != 0) & (piece.abs() < _TINY)
            if subnormal.any():  # slow on some processors, and no information
                piece[subnormal] = 0.0
        tensors[name] = value
    return facts, tensors


def _facts(header: container.Header, form: str, who: str) -> dict[str, Any]:
    """The metadata of a document."""
    if header.metadata.keys() != {"fedmerge"}:
        keys = sorted(header.metadata)
        raise Refused(f"{who}: __metadata__ expected the one key 'fedmerge', got {keys!r:.80}")
    facts = container.parse(header.metadata["fedmerge"], who)
    if not isinstance(facts, dict) or facts.get("format") != form:
        got = facts.get("format") if isinstance(facts, dict) else type(facts).__name__
        raise Refused(f"{who}: format expected '{form}', got {got!r:.80}")
    return facts


def _contribution(facts: Mapping[str, Any], tensors: Mapping[str, Tensor], who: str) -> Contribution:
    """Check the metadata and the names, and put the record together."""
    texts = {"site", "ancestor", "parent", "fisher_labels", "settings"}
    _keys(facts, texts | {"format", "net", "labels", "channels", "cases"} | ({"regions"} & facts.keys()), who)
    for key in sorted(texts):
        if not _is_text(facts[key]):
            raise Refused(f"{who}: {key} expected printable text, got {facts[key]!r:.80}")
    for key in ("labels", "channels"):
        names = facts[key]
        if not isinstance(names, list) or not all(_is_text(n) and n for n in names):
            raise Refused(f"{who}: {key} expected a list of names, got {names!r:.80}")
        if len(set(names)) != len(names):
            raise Refused(f"{who}: {key} expected each name once, got {names!r:.80}")
    if "regions" in facts:
        _check_regions(facts["regions"], facts["labels"], who)
    if not facts["site"]:
        raise Refused(f"{who}: site expected a name, got ''")
    if type(facts["cases"]) is not int or facts["cases"] < 1:
        raise Refused(f"{who}: cases expected a whole number from 1, got {facts['cases']!r:.40}")
    if not isinstance(facts["net"], dict):
        raise Refused(f"{who}: net expected settings by name, got {facts['net']!r:.80}")
    if facts["fisher_labels"] not in FISHER_LABELS:
        raise Refused(f"{who}: fisher_labels expected one of {FISHER_LABELS}, got '{facts['fisher_labels']}'")
    parts: dict[str, Params] = {"weights": {}, "fisher": {}}
    for full, value in tensors.items():
        part, _, name = full.partition("/")
        if part not in parts or not name:
            raise Refused(f"{who}: '{full}' expected a name under weights/ or fisher/")
        parts[part][name] = value
    weights, fisher = parts["weights"], parts["fisher"]
    if not weights:
        raise Refused(f"{who}: expected weights, got none")
    for name, value in fisher.items():
        if name not in weights:
            raise Refused(f"{who}: fisher['{name}'] belongs to no weight")
        if value.shape != weights[name].shape:
            want, got = tuple(weights[name].shape), tuple(value.shape)
            raise Refused(f"{who}: fisher['{name}'] expected shape {want}, got {got}")
    if bool(fisher) == (facts["fisher_labels"] == "none"):
        raise Refused(f"{who}: fisher_labels '{facts['fisher_labels']}' with {len(fisher)} Fisher tensors")
    for full, value in tensors.items():
        check_magnitude(value, f"'{full}'", who)
    check_fisher(fisher, who)
    return Contribution(
        site=facts["site"],
        net=dict(facts["net"]),
        labels=tuple(facts["labels"]),
        channels=tuple(facts["channels"]),
        cases=facts["cases"],
        ancestor=facts["ancestor"],
        parent=facts["parent"],
        weights=weights,
        fisher=fisher,
        fisher_labels=facts["fisher_labels"],
        settings=facts["settings"],
        regions={name: tuple(own) for name, own in facts.get("regions", {}).items()},
    )


def _check_regions(table: Any, labels: list[str], who: str) -> None:  # noqa: ANN401 - as it came
    """Regions are names of labels by name, and a label map can be made back from them."""
    if not isinstance(table, dict) or not table or not all(name and _is_text(name) for name in table):
        raise Refused(f"{who}: regions expected lists of labels by name, got {table!r:.80}")
    if not all(
        isinstance(own, list) and all(map(_is_text, own)) and len(set(own)) == len(own) for own in table.values()
    ):
        raise Refused(f"{who}: regions expected lists of labels by name, got {table!r:.80}")
    try:
        regions.of(labels, table)
    except ConfigError as error:
        raise Refused(f"{who}: regions: {error}") from None


def _check_tensor(name: str, value: Tensor, who: str) -> None:
    if not 0 < len(name) <= MAX_NAME or not name.isascii() or not name.isprintable():
        raise Refused(f"{who}: a tensor's name expected at most {MAX_NAME} ASCII characters, got {name!r:.80}")
    check_finite(value, f"'{name}'", who)


def _is_text(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, str) and len(value) <= MAX_TEXT and value.isprintable()


def _keys(facts: Mapping[str, Any], expected: set[str], who: str) -> None:
    for key in sorted(facts.keys() ^ expected):
        raise Refused(f"{who}: the metadata's '{key[:80]}' is {'missing' if key in expected else 'unknown'}")


def _mapped(path: Path, who: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The file's bytes, memory-mapped copy-on-write: what is written to them never reaches the file."""
    try:
        return np.asarray(np.memmap(path, dtype=np.uint8, mode="c"))
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise Refused(f"{who}: the file cannot be read: {error}") from None
