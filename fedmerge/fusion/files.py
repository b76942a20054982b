"""Fuse model files name by name, in blocks that fit the processor's cache.

The inputs are memory-mapped and the output is written as it is made, so that anonymous memory holds a few
blocks, whatever the size of the models. One thread computes, because the work waits for memory and not for
arithmetic, while another one writes the block before.
"""

import json
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from fedmerge import container
from fedmerge.container import Entry
from fedmerge.errors import ConfigError, Refused
from fedmerge.fusion import rules

BLOCK = 2**18  # elements: 1 MiB of float32
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
FLOOR, CAP = 1e-3, 1e4  # as in `fisher.normalise`


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

    An input is a plain file of weights, or a contribution. Of contributions that carry a Fisher, what has
    none stays out under either rule: those are the heads, and each task has its own. Running statistics of
    batch norms stay out as well.

    Args:
        paths: the models.
        out: the model file to write; it appears whole or not at all.
        rule: `"mean"` or `"mode"`.
        ratios: one number a file, scaled to sum 1; equal if not given.
        fishers: for plain files, one safetensors file of Fishers each, under the weights' own names.
        metadata: goes into the output, as in `wire.write_model`.
        progress: is told how many names are done.

    Returns:
        Which names were fused, copied and left out.

    Raises:
        ConfigError: unknown rule, or ratios or Fisher files that do not match the models in number.
        Refused: a file that is no safetensors file, contributions without a common ancestor, rule mode
            without a Fisher, a value that is not finite, a negative Fisher; names file and tensor.
    """
    if rule not in rules.RULES:
        raise ConfigError(f"rule expected one of {', '.join(rules.RULES)}, got '{rule}'")
    shares = _shares(paths, ratios)
    if fishers is not None and len(fishers) != len(paths):
        raise ConfigError(f"expected {len(paths)} Fisher files, one a model, got {len(fishers)}")
    models = [_open(path, fishers[t] if fishers else None) for t, path in enumerate(paths)]
    _check_ancestors(models)
    fused, copied, left = _sort(models, rule)
    if not fused:
        raise Refused(f"{paths[0]}: no tensor can be fused with rule {rule}: {next(iter(left.values()), 'empty')}")
    facts = {**(metadata or {}), "format": "fedmerge-model/1"}
    entries = {name: models[0].weights[name] for name in sorted([*fused, *copied])}
    header = container.encode(
        {name: (entry.dtype, entry.shape) for name, entry in entries.items()},
        {"fedmerge": container.canonical(facts)},
    )
    users = [t for t, share in enumerate(shares) if share > 0]
    size = len(header) + sum(entry.stop - entry.start for entry in entries.values())
    with _Output(out, size) as file, _one_thread(), torch.no_grad():
        file.write(0, header)
        offset = len(header)
        fusion = _Fusion([models[t] for t in users], [shares[t] for t in users], rule, file)
        for done, (name, entry) in enumerate(entries.items(), start=1):
            if name in copied or len(users) == 1:
                file.write(offset, _bytes(models[users[0]].view(name)))
            else:
                fusion.fuse(name, offset)
            offset += entry.stop - entry.start
            if progress:
                progress(done)
        if rule == "mode" and len(users) > 1:
            for model, cared in zip(fusion.models, fusion.cared):
                if not cared:
                    raise Refused(f"{model.path}: the whole Fisher is zero")
    return Report(tuple(fused), tuple(copied), left, tuple(shares))


class _Fusion:
    """The work on one tensor after another, in four blocks of memory."""

    def __init__(self, models: list[_Model], shares: list[float], rule: str, file: "_Output") -> None:
        self.models, self.shares, self.rule, self.file = models, shares, rule, file
        self.cared = [False] * len(models)
        self.buffers = {
            dtype: [torch.empty(BLOCK, dtype=dtype) for _ in range(4)]  # never touched: no memory yet
            for dtype in (torch.float32, torch.float64)
        }
        self.turn = 0

    def fuse(self, name: str, offset: int) -> None:
        """One tensor: read T (2 T for rule mode) blocks, write one, at `offset` of the output."""
        given = [model.view(name) for model in self.models]
        # sums in an order that depends on the models alone, not on how they were listed
        order = sorted(range(len(given)), key=lambda t: (_look(given[t]), self.shares[t]))
        theta, shares = [given[t] for t in order], [self.shares[t] for t in order]
        precision: list[Tensor] = []
        means: list[float] = []
        if self.rule == "mode":
            for t in order:
                model = self.models[t]
                precision.append(model.fisher_view(name))
                means.append(_fisher_mean(precision[-1], name, model.path))
                self.cared[t] |= means[-1] > 0
                if means[-1] == 0:
                    warnings.warn(f"{model.path}: fisher['{name}'] is all zero and counts as flat", stacklevel=3)
        for start in range(0, theta[0].numel(), BLOCK):
            part = slice(start, start + BLOCK)
            fused = self._block(name, shares, [v[part] for v in theta], [p[part] for p in precision], means)
            self.file.write(offset + start * theta[0].element_size(), _bytes(fused))

    def _block(
        self, name: str, shares: list[float], stored: list[Tensor], precision: list[Tensor], means: list[float]
    ) -> Tensor:
        if all(torch.equal(stored[0], other) for other in stored[1:]):  # differs at the first element, mostly
            return self._finite(name, stored[0])
        dtype = torch.float64 if stored[0].dtype == torch.float64 else torch.float32
        theta = [value.to(dtype) for value in stored]
        weight, below, *results = (buffer[: len(theta[0])] for buffer in self.buffers[dtype])
        self.turn = 1 - self.turn
        fused = results[self.turn]  # the other one is being written
        if precision:
            # (sum_t a_t F_t)^-1 sum_t a_t F_t theta_t              Geyer 2019, eq. 2
            for t, share in enumerate(shares):
                scale = share * _clipped(precision[t], means[t], weight)
                if t == 0:
                    torch.mul(weight, scale, out=below)
                    torch.mul(below, theta[0], out=fused)
                else:
                    below.add_(weight, alpha=scale)
                    fused.addcmul_(weight, theta[t], value=scale)
            fused.div_(below)
        else:
            torch.mul(theta[0], shares[0], out=fused)
            for value, share in zip(theta[1:], shares[1:]):
                fused.add_(value, alpha=share)
        return self._finite(name, fused).to(stored[0].dtype)

    def _finite(self, name: str, fused: Tensor) -> Tensor:
        if not math.isfinite(_sum(fused)):
            bad = (model for model in self.models if not torch.isfinite(model.view(name)).all())
            path = next(bad, self.models[0]).path
            raise Refused(f"{path}: '{name}' expected finite values, got NaN or infinity")
        return fused


def _clipped(block: Tensor, mean: float, out: Tensor) -> float:
    """The block of a Fisher clipped to [floor, cap] of its mean, in `out`; returns what scales it to mean 1."""
    if mean == 0:  # zero everywhere: flat
        out.fill_(1.0)
        return 1.0
    if block.dtype == out.dtype and 1e-30 < mean < 1e30:
        torch.clamp(block, FLOOR * mean, CAP * mean, out=out)
        return 1 / mean
    out.copy_((block.double() / mean).clamp_(FLOOR, CAP))  # out of reach of float32's exponents, or a half
    return 1.0


def _fisher_mean(values: Tensor, name: str, path: Path) -> float:
    """The mean of a Fisher; refuses what is negative or not finite."""
    total = 0.0
    for start in range(0, values.numel(), BLOCK):
        block = values[start : start + BLOCK]
        part = _sum(block)
        if not math.isfinite(part):
            raise Refused(f"{path}: fisher['{name}'] expected finite values, got NaN or infinity")
        low = float(block.amin())
        if low < 0:
            raise Refused(f"{path}: fisher['{name}'] expected no negative value, got {low:.3g}")
        total += part
    return total / values.numel()


def _look(values: Tensor) -> bytes:
    """About a thousand values spread over a tensor: what models are told apart by."""
    sample = values[:: max(1, values.numel() // 1024)].double().numpy()
    return bytes(sample.tobytes())


def _sum(block: Tensor) -> float:
    """The sum, which is finite if and only if all values are."""
    total = float(block.sum())  # a float32 sum can overflow though all values are finite; it is far faster
    return total if math.isfinite(total) else float(block.sum(dtype=torch.float64))


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
    fisher_counts = rule == "mode" or any(model.facts and model.fisher for model in models)
    for name in names:
        first = models[0].weights.get(name)
        lacking = next((m for m in models if name not in m.weights), None)
        if first is None or lacking is not None:
            left[name] = f"it is missing in {lacking.path if lacking else models[0].path}"
            continue
        unlike = next((m for m in models if _kind(m.weights[name]) != _kind(first)), None)
        bare = next((m for m in models if name not in m.fisher), None)
        if unlike is not None:
            left[name] = f"{_kind(first)} in {models[0].path}, {_kind(unlike.weights[name])} in {unlike.path}"
        elif first.dtype not in FLOATS:
            if all(torch.equal(m.view(name), models[0].view(name)) for m in models):
                copied.append(name)
            else:
                left[name] = f"its dtype is {first.dtype}, and the files differ"
        elif name.endswith(("running_mean", "running_var")):
            left[name] = "statistics of a batch norm are not merged"
        elif fisher_counts and bare is not None:
            left[name] = f"it has no Fisher in {bare.path}"
        elif fisher_counts and any(m.fisher[name].shape != first.shape for m in models):
            left[name] = "its Fisher has another shape"
        elif fisher_counts and any(m.fisher[name].dtype not in FLOATS for m in models):
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


def _bytes(block: Tensor) -> memoryview:
    array: np.ndarray[Any, np.dtype[np.uint8]] = block.contiguous().view(torch.uint8).numpy()
    return array.data


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch's own threads off: to wait for each other after every block costs more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Output:
    """A file that is written beside `path` and takes its place at the end."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        self.temporary = Path(name)
        if hasattr(os, "posix_fallocate"):  # writing into space already there is twice as fast
            os.posix_fallocate(self.handle, 0, self.size)
        self.writer = ThreadPoolExecutor(1)
        self.pending: Future[None] = Future()
        self.pending.set_result(None)
        return self

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Begin to write all of `data` at `offset`; returns when the write before has ended."""
        self.pending.result()
        self.pending = self.writer.submit(self._write, offset, memoryview(data))

    def _write(self, offset: int, rest: memoryview) -> None:
        while rest:
            done = os.pwrite(self.handle, rest, offset)
            rest, offset = rest[done:], offset + done

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        whole = False
        try:
            if kind is None:
                self.pending.result()
                whole = True
        finally:
            self.writer.shutdown()
            os.close(self.handle)
            if whole:
                self.temporary.chmod(0o644)
                self.temporary.replace(self.path)
            else:
                self.temporary.unlink(missing_ok=True)
