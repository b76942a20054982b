"""What each mode costs in bytes, seconds and memory, beside the training: `server` near and far, `target`, `group`.

One table with a row for each mode, number of parameters and number of sources T. The models are made up, a stack of 3D
convs with a Fisher of every number; the rest is what a campaign does with them: contributions are written, checked,
sealed or masked, carried, opened, and merged by T-IMM with ratios by layer. A step of the fit is measured by itself,
without the net's forward and backward pass, and counted `--steps` times: it is the target's, but in mode `server` far
the server's, with a merged model down and a gradient up. Groups have five members. What all modes have in common is
left out: weights to start from, audit logs, and Flower, whose part `benchmarks/transfer.py` measures.

Reference: `plain`, the same number of bytes written, carried to the server and on to the target, and read there. All is
done in one process on one thread, party after party; seconds are those of the processor, but for the last column.

    python -m benchmarks.modes [FOLDER]

FOLDER holds up to 6 GB while this runs (default: a temporary folder). Exits with 1 where a mode's seconds of all rows
together, without the steps of the fit, are past its bound times those of `plain`.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks.modes import masked, opened, sealed
from benchmarks.modes.made import Net
from benchmarks.modes.parties import Spent, resident
from fedmerge import devices
from fedmerge.privacy.transcript import LEAST

Work = Callable[[Net], Spent]

CASES: dict[str, tuple[Work, float]] = {  # what is done in a mode, and its bound
    "server, near": (opened.near, 9.0),
    "server, far": (opened.far, 7.0),
    "target": (sealed.target, 7.0),
    "target, chain": (sealed.states, 8.0),  # beside what `target` does
    "group": (masked.group, 9.0),
}
HEAD = (
    "mode", "parameters, millions", "T", "leaves a source, MB", "passes the server, MB", "reaches the target, MB",
    "a source, s", "server, s", "target, s", "a step, s", "all, s", "of plain", "of near", "peak, MiB", "clock, s",
)  # fmt: skip


def measured(work: Work, parameters: int, T: int, folder: Path) -> Spent:
    """One row; its peaks are those beyond what its process had before."""
    with devices.threads(1), tempfile.TemporaryDirectory(dir=folder) as temporary:
        net = Net(parameters, T, Path(temporary))
        _ = net.ancestor_digest
        before = resident("VmRSS")
        spent = work(net)
    for party in (*spent.once.all, *spent.step.all):
        party.peak = max(0, party.peak - before)
    return spent


def alone(work: Work, parameters: int, T: int, folder: Path) -> Spent:
    """One row in a process of its own."""
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        return pool.submit(measured, work, parameters, T, folder).result()


def cells(spent: Spent, T: int, steps: int, plain: Spent, near: Spent) -> list[str]:
    """A row's numbers, in the order of `HEAD` after the third."""
    whole = spent.once + spent.step * steps
    source, server, target = spent.once.all
    peak = max(party.peak for party in (*spent.once.all, *spent.step.all))
    megabytes = (whole.source.sent / T, whole.server.sent + whole.server.received, whole.target.received)
    seconds = (source.processor_s / T, server.processor_s, target.processor_s)
    return [
        *(f"{size / 1e6:.1f}" if size < 99.95e6 else f"{size / 1e6:.0f}" for size in megabytes),
        *(f"{one:.2f}" for one in seconds),
        f"{spent.step.processor_s:.3f}" if spent.step.processor_s else "",
        f"{whole.processor_s:.1f}",
        f"{spent.once.processor_s / plain.once.processor_s:.1f}",
        f"{whole.processor_s / (near.once + near.step * steps).processor_s:.2f}" if spent is not plain else "",
        f"{peak / 2**20:.0f}",
        f"{whole.clock_s:.1f}",
    ]


def show(row: Sequence[str]) -> None:
    """A line of the table."""
    print("| " + " | ".join(row) + " |", flush=True)


def main() -> int:
    """Print the table and the modes' ratios; 1 if one is past its bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", metavar="FOLDER")
    parser.add_argument("--parameters", type=float, nargs="+", default=[1e6, 1e7, 3e7])
    parser.add_argument("--sources", type=int, nargs="+", default=[2, 5, 10], metavar="T")
    parser.add_argument("--steps", type=int, default=100, help="of the fit")
    given = parser.parse_args()
    print(f"{given.steps} steps of the fit; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    show(HEAD)
    show(["---"] * len(HEAD))
    ours, theirs = dict.fromkeys(CASES, 0.0), dict.fromkeys(CASES, 0.0)
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        for parameters in map(int, given.parameters):
            for T in given.sources:
                plain = alone(opened.plain, parameters, T, Path(temporary))
                near = alone(opened.near, parameters, T, Path(temporary))
                size = f"{parameters / 1e6:g}"
                show(["plain", size, str(T), *cells(plain, T, given.steps, plain, near)])
                spent: dict[str, Spent] = {"server, near": near}
                for name, (work, _) in CASES.items():
                    if name == "group" and T < LEAST:
                        show([name, size, str(T), f"needs at least {LEAST}", *[""] * (len(HEAD) - 4)])
                        continue
                    if name not in spent:
                        spent[name] = alone(work, parameters, T, Path(temporary))
                    if name == "target, chain":
                        spent[name] = spent["target"] + spent[name]
                    show([name, size, str(T), *cells(spent[name], T, given.steps, plain, near)])
                    ours[name] += spent[name].once.processor_s
                    theirs[name] += plain.once.processor_s
    print()
    good = True
    for name, (_, bound) in CASES.items():
        if theirs[name]:
            good &= ours[name] / theirs[name] <= bound
            print(f"{name}: {ours[name] / theirs[name]:.2f} times plain (bound {bound:g})")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
