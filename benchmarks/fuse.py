"""Fusing five model files of 30 million parameters, against copying the same arrays once.

Reference: `numpy.copyto` of every input array, mapped from its file as `fuse_files` maps it, and of the output
array, all into one piece of memory that has been written to before. `fuse_files` reads the Fishers twice (their
means come first) and writes a file. The files are in the page cache. Both are timed in turn, and the ratio is that
of the shortest times: whatever else runs on the machine only adds. The ratio of the medians is printed beside it, and
so is the ratio to the same copies from memory instead of files; neither has a bound.

    python benchmarks/fuse.py [FOLDER]

FOLDER holds about 1.3 GB while this runs (default: a temporary folder). Exits with 1 past the bound.
"""

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from safetensors.torch import save_file

from fedmerge.fusion.files import fuse_files

T = 5
PARAMETERS = 30_000_000
BOUND = 2.0
ROUNDS = 11


def shapes() -> dict[str, tuple[int, ...]]:
    """A 3D U-Net's worth of convs: filters doubling down and halving up again, 30 million numbers in all."""
    widths = [16, 32, 64, 128, 256, 384, 256, 128, 64, 32, 16]
    found: dict[str, tuple[int, ...]] = {}
    for i, (inside, outside) in enumerate(zip([4, *widths], widths)):
        for j, channels in enumerate((inside, outside, outside)):
            found[f"{i}.{j}.weight"] = (outside, channels, 3, 3, 3)
            found[f"{i}.{j}.bias"] = (outside,)
    found["last.weight"] = (PARAMETERS - sum(int(np.prod(s)) for s in found.values()),)
    return found


def write(folder: Path) -> tuple[list[Path], list[Path]]:
    """T files of weights, T of Fishers over many decades."""
    weights, fishers = [], []
    for t in range(T):
        g = torch.Generator().manual_seed(t)
        weights.append(folder / f"weights-{t}.safetensors")
        fishers.append(folder / f"fisher-{t}.safetensors")
        save_file({name: torch.randn(s, generator=g) for name, s in shapes().items()}, weights[t])
        save_file({name: torch.rand(s, generator=g).pow_(8) for name, s in shapes().items()}, fishers[t])
    return weights, fishers


def anonymous() -> int:
    """Anonymous memory of this process in bytes."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split("RssAnon:")[1].split()[0])


def peak_of(work: Callable[[], object]) -> int:
    """How far anonymous memory rises above where it was, looked at every millisecond."""
    before, seen, stop = anonymous(), [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.001):
            seen.append(anonymous() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    stop.set()
    watcher.join()
    return max(seen)


def copy_files(paths: list[Path], arrays: int, source: np.ndarray, target: np.ndarray) -> None:
    """Every float of the files, and then `arrays` times `source`, to `target`."""
    for path in paths:
        mapped = np.memmap(path, np.float32, "r", offset=path.stat().st_size - 4 * PARAMETERS)
        np.copyto(target, mapped)
    for _ in range(arrays):
        np.copyto(target, source)


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main(folder: Path) -> int:
    """Measure both rules; 1 if one is past the bound."""
    weights, fishers = write(folder)
    out = folder / "fused.safetensors"
    source, target = (np.ones(PARAMETERS, np.float32) for _ in range(2))
    print(
        f"{T} models of {PARAMETERS / 1e6:.0f} million float32; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    worst = 0.0
    for rule, extra, arrays in (("mean", None, T + 1), ("mode", fishers, 2 * T + 1)):

        def fuse(rule: str = rule, extra: list[Path] | None = extra) -> None:
            fuse_files(weights, out, rule=rule, fishers=extra)

        def copy(extra: list[Path] | None = extra) -> None:
            copy_files([*weights, *(extra or [])], 1, source, target)

        def copy_memory(arrays: int = arrays) -> None:
            copy_files([], arrays, source, target)

        pairs = []
        for _ in range(ROUNDS + 1):
            out.unlink(missing_ok=True)
            pairs.append((seconds(fuse), seconds(copy), seconds(copy_memory)))
        del pairs[0]  # a round to warm up
        ours, reference, memory = (min(times) for times in zip(*pairs))
        middle = median(p[0] for p in pairs) / median(p[1] for p in pairs)
        peak = peak_of(fuse)
        allowed = 4 * (PARAMETERS + (2 * T + 2) * max(int(np.prod(s)) for s in shapes().values()))
        print(
            f"{rule}: {ours:.3f} s, copyto of {arrays} arrays {reference:.3f} s, ratio {ours / reference:.2f} "
            f"(bound {BOUND:g}; of medians {middle:.2f}; to copies from memory, {memory:.3f} s, {ours / memory:.2f}); "
            f"anonymous memory +{peak / 2**20:.0f} MiB (allowed {allowed / 2**20:.0f})"
        )
        worst = max(worst, ours / reference, 0.0 if peak <= allowed else float("inf"))
    return int(worst > BOUND)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(main(Path(sys.argv[1])))
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(main(Path(temporary)))
