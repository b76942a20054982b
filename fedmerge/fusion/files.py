"""Fuse model files name by name, out of mapped memory.

The inputs are memory-mapped and the output is written as it is made, so that anonymous memory holds a few
blocks (`fusion.blocks`), whatever the size of the models.
"""

import json
import math
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedmerge import container
from fedmerge.container import Entry
from fedmerge.errors import ConfigError, Refused
from fedmerge.fusion import blocks, rules
from fedmerge.fusion.blocks import Blocks, Job, Output, as_bytes, workers

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Report:
    """What became of each name.

    Attributes:
        fused: names of the output that were fused.
        copied: names of the output that are no floats and equal in all files.
        left: name -> why it is not in the output.
        ratios: one a file, of sum 1.
    """

    fused: tuple[str, ...]
    copied: tuple[str, ...]
    left: dict[str, str]
    ratios: tuple[float, ...]


@dataclass(frozen=True)
class _Model:
    """One input: what it holds, and its mapped bytes."""

    path: Path
    weights: dict[str, Entry]
    fisher: dict[str, Entry]
    facts: dict[str, Any]
    data: Tensor
    fisher_data: Tensor

    def view(self, name: str) -> Tensor:
        return _view(self.data, self.weights[name])

    def fisher_view(self, name: str) -> Tensor:
        return _view(self.fisher_data, self.fisher[name])


def fuse_files(
    paths: Sequence[Path],
    out: Path,
    *,
    rule: str = "mean",
    ratios: Sequence[float] | None = None,
    fishers: Sequence[Path] | None = None,
    metadata: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Fuse T safetensors files into one; grain model.

    An input is a plain file of weights, or a contribution. Of a contribution that carries a Fisher, what has
    none stays out under either rule: those are the heads, and each task has its own. Rule mean asks no other
    file for a Fisher. Running statistics of batch norms stay out as well.

    Args:
        paths: the models.
        out: the model file to write; it appears whole or not at all.
        rule: `"mean"` or `"mode"`.
        ratios: one number a file, scaled to sum 1; equal if not given.
        fishers: for plain files under rule mode, one safetensors file of Fishers each, under the weights' own names.
        metadata: goes into the output, as in `wire.write_model`.
        progress: is told how many names are done.

    Returns:
        Which names were fused, copied and left out.

    Raises:
        ConfigError: unknown rule, ratios or Fisher files that do not match the models in number, or Fisher files
            for rule mean.
        Refused: a file that is no safetensors file, contributions without a common ancestor, rule mode
            without a Fisher, a value that is not finite, a negative Fisher; names file and tensor.
    """
    if rule not in rules.RULES:
        raise ConfigError(f"rule expected one of {', '.join(rules.RULES)}, got '{rule}'")
    shares = _shares(paths, ratios)
    if fishers is not None and rule == "mean":
        raise ConfigError(f"rule mean uses no Fisher: expected no Fisher files, got {len(fishers)}")
    if fishers is not None and len(fishers) != len(paths):
        raise ConfigError(f"expected {len(paths)} Fisher files, one a model, got {len(fishers)}")
    models = [_open(path, fishers[t] if fishers else None) for t, path in enumerate(paths)]
    _check_ancestors(models)
    fused, copied, left = _sort(models, rule)
    if not fused:
        raise Refused(f"{paths[0]}: no tensor can be fused with rule {rule}: {next(iter(left.values()), 'empty')}")
    facts = {**(metadata or {}), "format": "fedmerge-model/1"}
    entries = {name: models[0].weights[name] for name in [*fused, *copied]}
    # the widest numbers first, so that each tensor begins at a multiple of its numbers' size
    entries = dict(sorted(entries.items(), key=lambda item: (-container.SIZES[item[1].dtype], item[0])))
    header = container.encode(
        {name: (entry.dtype, entry.shape) for name, entry in entries.items()},
        {"fedmerge": container.canonical(facts)},
    )
    users = [t for t, share in enumerate(shares) if share > 0]
    size = len(header) + sum(entry.stop - entry.start for entry in entries.values())
    offsets = dict(zip(entries, accumulate((e.stop - e.start for e in entries.values()), initial=len(header))))
    with Output(out, size) as file, workers() as pool:
        file.write(0, header)
        own = threading.local()

        def work(name: str) -> Job | None:
            if name in copied or len(users) == 1:
                file.write(offsets[name], as_bytes(models[users[0]].view(name)))
                return None
            own.blocks = getattr(own, "blocks", None) or Blocks()
            job = _job(name, [models[t] for t in users], [shares[t] for t in users], rule)
            offset = offsets[name]
            for block in own.blocks.fuse(job):
                file.write(offset, as_bytes(block))
                offset += block.nbytes
            return job

        largest_first = sorted(entries, key=lambda name: entries[name].start - entries[name].stop)
        cared = [rule == "mean" or len(users) == 1] * len(users)
        for done, job in enumerate(pool.map(work, largest_first), start=1):
            if job is not None and job.means:
                cared = [before or mean > 0 for before, mean in zip(cared, job.means)]
                _warn(job)
            if progress:
                progress(done)
        for t, once in zip(users, cared):
            if not once:
                raise Refused(f"{paths[t]}: the whole Fisher is zero")
    return Report(tuple(fused), tuple(copied), left, tuple(shares))


def _job(name: str, models: Sequence[_Model], shares: Sequence[float], rule: str) -> Job:
    """What is needed to fuse one tensor; reads the Fishers once, for their means."""
    precision = [model.fisher_view(name) for model in models] if rule == "mode" else []
    return blocks.prepare(
        name, [model.path for model in models], shares, [model.view(name) for model in models], precision
    )


def _warn(job: Job) -> None:
    for path, mean in zip(job.paths, job.means):
        if mean == 0:
            warnings.warn(f"{path}: fisher['{job.name}'] is all zero and counts as flat", stacklevel=3)


def _shares(paths: Sequence[Path], ratios: Sequence[float] | None) -> list[float]:
    if not paths:
        raise ConfigError("a fusion needs at least one file, got none")
    given = list(ratios) if ratios is not None else [1.0] * len(paths)
    if len(given) != len(paths):
        raise ConfigError(f"ratios expected {len(paths)} numbers, one a file, got {len(given)}")
    if not all(math.isfinite(r) and r >= 0 for r in given) or not sum(given) > 0:
        raise ConfigError(f"ratios expected non-negative numbers, not all zero, got {given}")
    total = math.fsum(given)
    return [r / total for r in given]


def _open(path: Path, fisher_path: Path | None) -> _Model:
    header = container.read_header(path)
    try:
        facts = json.loads(header.metadata.get("fedmerge", "{}"))
    except ValueError:
        facts = {}
    data = _mapped(path)
    weights, fisher, fisher_data = header.entries, {}, data
    if isinstance(facts, dict) and str(facts.get("format", "")).startswith("fedmerge-contribution/"):
        parts: dict[str, dict[str, Entry]] = {"weights": {}, "fisher": {}}
        for full, entry in header.entries.items():
            part, _, name = full.partition("/")
            if part not in parts:
                raise Refused(f"{path}: '{full}' expected a name under weights/ or fisher/")
            parts[part][name] = entry
        weights, fisher = parts["weights"], parts["fisher"]
    else:
        facts = {}
    if fisher_path is not None:
        fisher, fisher_data = container.read_header(fisher_path).entries, _mapped(fisher_path)
    return _Model(path, weights, fisher, facts, data, fisher_data)


def _check_ancestors(models: Sequence[_Model]) -> None:
    known = [model for model in models if model.facts]
    for model in known[1:]:
        first, own = known[0].facts.get("ancestor"), model.facts.get("ancestor")
        if own != first:
            raise Refused(f"{known[0].path} and {model.path} share no ancestor: {first} and {own}")


def _sort(models: Sequence[_Model], rule: str) -> tuple[list[str], list[str], dict[str, str]]:
    """Names to fuse, names to copy, and name -> why not."""
    fused, copied, left = [], [], {}
    names = list(dict.fromkeys(name for model in models for name in model.weights))
    needing = [model for model in models if rule == "mode" or (model.facts and model.fisher)]
    for name in names:
        first = models[0].weights.get(name)
        lacking = next((m for m in models if name not in m.weights), None)
        if first is None or lacking is not None:
            left[name] = f"it is missing in {lacking.path if lacking else models[0].path}"
            continue
        unlike = next((m for m in models if _kind(m.weights[name]) != _kind(first)), None)
        bare = next((m for m in needing if name not in m.fisher), None)
        if unlike is not None:
            left[name] = f"{_kind(first)} in {models[0].path}, {_kind(unlike.weights[name])} in {unlike.path}"
        elif first.dtype not in FLOATS:
            if all(torch.equal(m.view(name), models[0].view(name)) for m in models):
                copied.append(name)
            else:
                left[name] = f"its dtype is {first.dtype}, and the files differ"
        elif name.endswith(("running_mean", "running_var")):
            left[name] = "statistics of a batch norm are not merged"
        elif bare is not None:
            left[name] = f"it has no Fisher in {bare.path}"
        elif any(m.fisher[name].shape != first.shape for m in needing):
            left[name] = "its Fisher has another shape"
        elif any(m.fisher[name].dtype not in FLOATS for m in needing):
            left[name] = "its Fisher is not of a float dtype"
        else:
            fused.append(name)
    return fused, copied, left


def _kind(entry: Entry) -> str:
    return f"{entry.dtype} {entry.shape}"


def _mapped(path: Path) -> Tensor:
    """The bytes of a file, memory-mapped (copy-on-write, because torch knows no read-only tensors)."""
    return torch.from_numpy(np.memmap(path, dtype=np.uint8, mode="c"))


def _view(data: Tensor, entry: Entry) -> Tensor:
    """A tensor of the file, flat; integers and booleans as bytes. A copy only where it is not aligned."""
    raw = data[entry.start : entry.stop]
    if entry.dtype not in FLOATS:
        return raw
    return (raw if entry.start % container.SIZES[entry.dtype] == 0 else raw.clone()).view(FLOATS[entry.dtype])
