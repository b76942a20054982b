"""What the server holds in memory while three sites send 2 x 31 million float32 numbers each, and its other processes.

Three sources and a target, each an agent in a process of its own, take part in a campaign of single steps; the server
and the sites' messengers are this process, with the in-process grid between them. Contributions of 249 MB travel to the
server and on to the target in parts of 64 MiB. The ratio is the server's peak, beyond what it had before, over the size
of one contribution: first while the sources contribute, then with the merge of all three (method `mean`).

    python -m benchmarks.exchange
"""

import argparse
import logging
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "tests"))  # the tests' tiny hospitals and their agents

import agents
from small import campaign, hospitals

from server import inprocess
from server.app import app as server_app
from sites.app import app as client_app

MIB = 2**20
SOURCES = ("north", "south", "west")
CASES = {"contributing": (0, 4.0), "merging": (1, 9.0)}  # which of the two peaks, and its bound

BIG = """
[campaign]
schedule = "parallel"
precision = "float32"
max_change = 1e9
[net]
name = "isensee2017"
base_filters = 29
depth = 5
patch = [16, 16, 32]
[train]
steps = 1
fisher_cases = 1
[adapt]
steps = 1
[finetune]
steps = 1
"""


def peak(process: int | str = "self") -> int:
    """The largest resident size of a process so far, in bytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])


class AfterSources(logging.Handler):
    """Notes the peak when a source's contribution has been taken, the last time that of all."""

    peak = 0

    def emit(self, record: logging.LogRecord) -> None:
        """The server says this when it has checked what came."""
        if ": trained" in record.getMessage():
            self.peak = peak()


def homes(folder: Path) -> dict[str, agents.Paths]:
    """The homes of three sources and a target; two sources have the same patients."""
    small = hospitals(folder / "data", cases=4)
    (small / "west").symlink_to(small / "north")
    agents.ROLES |= {"west": "source"}
    tables = campaign(small).read_text().split("[site.data]\n")[1:]
    data = ["\n".join(x for x in t.split("[[site]]")[0].splitlines() if not x.startswith("folder")) for t in tables]
    data = [text.replace("test = 2", "test = 1").replace("validate = 2\ntest = 3", "test = 1") for text in data]
    own = {"north": data[0], "south": data[1], "west": data[0], "harbour": data[2]}
    return {site: agents.home(folder / "homes", small, site, table) for site, table in own.items()}


def main() -> int:
    """Print the peaks of all processes; the exit status says whether the bounds hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    os.environ["FEDMERGE_BUNDLE"] = agents.BUNDLE
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        sites = homes(folder)
        roles = "".join(f'[[site]]\nname = "{site}"\nrole = "{agents.ROLES[site]}"\n' for site in sites)
        (folder / "plan.toml").write_text(BIG + roles)
        running = stack.enter_context(agents.processes(*sites.values()))
        watch = AfterSources()
        logging.getLogger("fedmerge").addHandler(watch)
        logging.getLogger("fedmerge").setLevel(logging.INFO)
        run = {"campaign": str(folder / "plan.toml"), "out": str(folder / "out"), "methods": "mean", "workers": 4}
        configs = [{"agent": str(home.socket)} for home in sites.values()]
        Path("/proc/self/clear_refs").write_text("5")
        before, began = peak(), time.perf_counter()
        inprocess.run(server_app, client_app, run, len(sites), 4, configs, tuple(sites))
        found, seconds = (watch.peak - before, peak() - before), time.perf_counter() - began
        (one, *_) = (folder / "out/server/contributions").iterdir()
        size = one.stat().st_size
        print(f"contributions of {size / 1e6:.0f} MB from {len(SOURCES)} sources, {seconds:.0f} s in all")
        print(f"server before the campaign: {before / MIB:.0f} MiB, at its peak {peak() / MIB:.0f} MiB")
        for site, process in zip(sites, running):
            print(f"agent of {site} ({agents.ROLES[site]}): {peak(process.process.pid) / MIB:.0f} MiB at its peak")
    good = True
    for name, (which, bound) in CASES.items():
        ratio = found[which] / size
        good &= ratio <= bound
        print(f"{name}: {found[which] / MIB:.0f} MiB, {ratio:.2f} contributions (bound {bound})")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
