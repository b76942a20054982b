"""How long a contribution of 2 x 30 million float32 numbers takes from three sites to the server, against Flower's own.

Ours: a deployed consortium on loopback with all its programs, `fedmerge server up` and three `fedmerge site up`. The
sites have their contributions on disk, so that no training counts; the server asks as a campaign asks, and the time
ends when all three lie in its store, whole by their digest. Flower's own: the same SuperLink (TLS, node authentication,
state on disk, process isolation, external superexec) without our front door, Flower's own SuperNodes, and a plain app
that returns the same bytes in one message; the time ends when `send_and_receive` has them all. Both are up for the
whole benchmark, warm, and take turns. The ratio is that of the medians. A table has the peak of resident memory
(VmHWM) of each program, the largest of the three sites'.

    python -m benchmarks.transfer
    python -m benchmarks.transfer --numbers 3e6 --times 1 --start        a tenth of it, with the weights to start from
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import tomli_w
import torch

sys.path.append(str(Path(__file__).parent.parent / "tests"))  # the tests' tiny hospitals, deployed

import agents
from deployed import Deployment, until

from fedmerge import bundle, sessions, supervisor, surroundings, tasks, wire
from fedmerge.contribution import Contribution
from fedmerge.supervisor import Program
from server import consortium, superlink
from server import home as homes
from server.home import Home
from sites import bundle as gate

BOUND = 1.2
MIB = 2**20
APPS = Path(__file__).parent / "transfer_apps"
KEY = "0" * 24  # of the task: its contribution is at the sites already
NOBODY = "sha256:" + "0" * 64
LABELS = {"north": ("ball",), "south": ("cube",), "harbour": ("ball", "cube")}
PATIENCE_S = 180.0
RUN_S = 1800.0
SAMPLE_S = 0.5

Name = tuple[str, str]  # whose program ("server" or a site), and which


class Watch(threading.Thread):
    """What every program takes while the block runs: the largest VmHWM, and the time of processors.

    Attributes:
        leaders: pid of the process that leads a program's session -> (whose, which program).
        peaks: (whose, which) -> bytes; what a superexec has started is called its app.
        spent: pid -> (whose, which, seconds since the process began).
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.leaders: dict[int, Name] = {}
        self.peaks: dict[Name, int] = {}
        self.spent: dict[int, tuple[Name, float]] = {}
        self._end = threading.Event()

    def run(self) -> None:
        """Look until told to stop."""
        while not self._end.wait(SAMPLE_S):
            self.look()

    def look(self) -> None:
        """Look at every process that there is."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if (name := self.leaders.get(int(fields[3]))) is None:
                    continue
                lines = (folder / "status").read_text().splitlines()
            except (OSError, IndexError):
                continue
            if name[1] == "superexec" and folder.name != fields[3]:
                name = name[0], "app"
            peak = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
            self.peaks[name] = max(self.peaks.get(name, 0), peak)
            self.spent[int(folder.name)] = name, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def seconds(self) -> dict[Name, float]:
        """(whose, which) -> seconds of processors so far."""
        self.look()
        found: dict[Name, float] = {}
        for name, seconds in list(self.spent.values()):
            found[name] = found.get(name, 0.0) + seconds
        return found

    def __enter__(self) -> "Watch":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()


class Plain:
    """Flower's own: a SuperLink, and a SuperNode and a superexec for each site, with the keys of ours."""

    def __init__(self, deployment: Deployment, made: Path, folder: Path) -> None:
        shutil.copytree(deployment.server.folder, folder / "server")
        self.home = homes.open(folder / "server")
        self.app = _app(folder / "app", "flowers", ("flowers.py",), client="flowers:client")
        self.port = surroundings.free_port()
        self.processes: list[subprocess.Popen[bytes]] = []
        self.leaders: dict[int, tuple[str, str]] = {}
        self.sites, self.made, self.folder = deployment.sites, made, folder

    def start(self) -> None:
        """Start everything, and wait until the SuperLink knows the nodes."""
        superlink.connect(self.home, self.port)
        link, superexec = superlink.programs(self.home, self.port)
        self._start("server", link)
        until(lambda: superlink.healthy(self.home, self.port), PATIENCE_S)
        self._start("server", superexec)
        for entry in consortium.current(self.home, time.time()).entries:
            public = self.folder / f"{entry.name}.pub"
            public.write_text(entry.node_key + "\n")
            superlink.order(self.home, "supernode", "register", str(public), "--name", entry.name)
            for program in self._site(entry.name):
                self._start(entry.name, program)

    def _site(self, name: str) -> list[Program]:
        port, home, folder = surroundings.free_port(), self.sites[name], self.folder / name
        (folder / "flower").mkdir(parents=True)
        secret = ["--superexec-auth-secret-file", str(self.home.superexec_secret)]
        node = [
            surroundings.program("flower-supernode"), "--superlink", f"127.0.0.1:{self.port}", "--root-certificates",
            str(home.authority), "--auth-supernode-private-key", str(home.node_key), "--host", "127.0.0.1",
            "--port", str(port), "--isolation", "process", *secret,
            "--node-config", f'contribution="{self.made / name}"',
        ]  # fmt: skip
        superexec = [
            surroundings.program("flower-superexec"), "--runtime-api-address", f"127.0.0.1:{port}", "--insecure",
            *secret,
        ]  # fmt: skip
        path = surroundings.path_with(inherited=os.environ.get("PATH", os.defpath))
        env = surroundings.settings(folder / "flower") | {"PATH": path, "OMP_NUM_THREADS": "1"}
        return [
            Program(what, words, folder / f"{what}.log", env, cwd=folder)
            for what, words in (("supernode", node), ("superexec", superexec))
        ]

    def _start(self, whose: str, program: Program) -> None:
        process = supervisor.start(program)
        self.processes.append(process)
        self.leaders[process.pid] = (whose, program.name)

    def stop(self) -> None:
        """End everything, and what it has started."""
        for process in reversed(self.processes):
            sessions.kill_session(process.pid, signal.SIGKILL)
            process.wait(60)


def _app(folder: Path, module: str, files: tuple[str, ...], client: str) -> Path:
    """A Flower app whose server is a module of `transfer_apps`."""
    folder.mkdir(parents=True)
    bundle.folder(folder)
    table = {
        "project": {"name": f"transfer-{module}", "version": "0.1.0", "description": "", "license": "Apache-2.0"},
        "tool": {"flwr": {"app": {
            "publisher": "fedmerge", "fab-include": [*bundle.INCLUDE, *files], "config": {"out": ""},
            "components": {"serverapp": f"{module}:app", "clientapp": client},
        }}},
    }  # fmt: skip
    (folder / "pyproject.toml").write_text(tomli_w.dumps(table))
    for name in files:
        shutil.copy(APPS / name, folder / name)
    return folder


def contribution(site: str, numbers: int) -> bytes:
    """Weights and Fisher, of so many random numbers each, in tensors of a million."""
    draw = torch.Generator().manual_seed(len(site))
    sizes = [min(10**6, numbers - at) for at in range(0, numbers, 10**6)]
    weights = {f"layer.{number}.weight": torch.randn(size, generator=draw) for number, size in enumerate(sizes)}
    fisher = {name: value.square() for name, value in weights.items()}
    return wire.to_bytes(
        Contribution(site, _net(site).settings, LABELS[site], ("T1",), 3, NOBODY, NOBODY, weights, fisher,
                     "sampled", KEY)
    )  # fmt: skip


def _net(site: str) -> tasks.Net:
    return tasks.Net({"name": "isensee2017", "base_filters": 2, "depth": 2}, 1, LABELS[site], (8, 8, 8))


def asks(made: Mapping[str, bytes], start: str) -> dict[str, Any]:
    """What the apps are told: the task of each site, and the file of the weights to start from."""
    settings = {"steps": 3, "batch_size": 1, "lr": 1e-3}
    told = {
        site: tasks.to_table(
            tasks.Contribute(KEY, "transfer", 0, _net(site), settings, 0, "sampled", 3, NOBODY, NOBODY, 1)
        )
        for site in made
    }
    return {"tasks": told, "start": start, "most": max(map(len, made.values()))}


def one(
    home: Home, app: Path, out: Path, asked: Mapping[str, Any], made: Mapping[str, bytes], watch: Watch
) -> tuple[float, dict[Name, float]]:
    """A run of an app: the seconds of its exchange, and those of processors by program, with the app's start."""
    out.with_suffix(".ask").write_text(json.dumps(asked))
    config = out.with_suffix(".toml")
    config.write_text(tomli_w.dumps({"out": str(out)}))
    before = watch.seconds()
    superlink.order(home, "run", str(app), "--run-config", str(config))
    until(lambda: out.exists() and out.stat().st_size, RUN_S)
    spent = {name: seconds - before.get(name, 0.0) for name, seconds in watch.seconds().items()}
    told = json.loads(out.read_text())
    assert told["sizes"] == {site: len(data) for site, data in made.items()}, told
    for site, data in made.items():
        kept = out.with_suffix(".store") / "contributions" / f"{site}.safetensors"
        assert not kept.parent.exists() or kept.read_bytes() == data, site
    shutil.rmtree(out.with_suffix(".store"), ignore_errors=True)
    return float(told["seconds"]), spent


def table(watch: Watch, spent: list[dict[Name, float]], title: str) -> None:
    """Print each program's peak, the largest of all sites', and its seconds of processors a run, of all sites."""
    rows: dict[Name, tuple[int, float]] = {}
    for (whose, what), size in watch.peaks.items():
        key = ("server" if whose == "server" else "a site", what)
        peak, seconds = rows.get(key, (0, 0.0))
        rows[key] = max(peak, size), seconds + statistics.median(run.get((whose, what), 0.0) for run in spent)
    for (whose, what), (peak, seconds) in sorted(rows.items()):
        print(f"{title:9} {whose:7} {what:10} {peak / MIB:6.0f} MiB {seconds:6.1f} s")
    print(f"{title:9} {'all':33} {sum(seconds for _, seconds in rows.values()):6.1f} s")


def main() -> int:
    """Print all times, the peaks and the ratio; the exit status says whether the bound holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--numbers", type=float, default=30e6, help="of the weights, and of the Fisher")
    parser.add_argument("--times", type=int, default=3, help="of each")
    parser.add_argument("--start", action="store_true", help="send the weights to start from to the sites, too")
    parser.add_argument("--keep", type=Path, help="a folder that is left with all logs")
    given = parser.parse_args()
    agents.ROLES["harbour"] = "source"
    with ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        deployment = Deployment(folder / "ours")
        deployment.join_all()
        made = {site: contribution(site, int(given.numbers)) for site in deployment.sites}
        start = ""
        if given.start:
            start = str(folder / "start")
            Path(start).write_bytes(torch.randn(int(given.numbers)).numpy().tobytes())
        (folder / "made").mkdir()
        for site, data in made.items():
            (folder / "made" / site).write_bytes(data)
            kept = deployment.sites[site].private / "work/contributions" / f"{KEY}.safetensors"
            kept.parent.mkdir(parents=True)
            kept.hardlink_to(folder / "made" / site)
        plain = Plain(deployment, folder / "made", folder / "plain")
        app = _app(folder / "app", "ours", ("ours.py",), client="sites.app:app")
        subprocess.run([surroundings.program("flwr"), "build", "--app", str(app)], cwd=folder, check=True,
                       env=os.environ | surroundings.settings(folder / "build"), capture_output=True)  # fmt: skip
        (built,) = folder.glob("*.fab")
        for home in deployment.sites.values():
            gate.allow(home, built.read_bytes(), "the benchmark")
        stack.callback(deployment.stop)
        deployment.start_all()
        stack.callback(plain.stop)
        plain.start()
        until(lambda: all(map(deployment.ready, ("server", *deployment.sites))), PATIENCE_S, deployment)
        until(lambda: all(map(deployment.seen, deployment.sites)), PATIENCE_S, deployment)
        watches = stack.enter_context(Watch()), stack.enter_context(Watch())
        watches[0].leaders = {
            entry["pid"]: (whose, what)
            for whose in ("server", *deployment.sites)
            for what, entry in deployment.state(whose).items()
        }
        watches[1].leaders = plain.leaders
        size, asked = len(made["north"]), asks(made, start)
        print(f"{len(made)} sites, {size / 1e6:.0f} MB each; seconds of ours, of Flower's own, ratio")
        sides = ((deployment.server, app, "ours"), (plain.home, plain.app, "plain"))
        seconds: tuple[list[float], ...] = [], []
        spent: tuple[list[dict[Name, float]], ...] = [], []
        for number in range(given.times):
            for side, (home, which, name) in enumerate(sides):
                out = folder / f"{name}{number}.json"
                told = one(home, which, out, asked, made, watches[side])
                seconds[side].append(told[0])
                spent[side].append(told[1])
            ours, theirs = seconds[0][-1], seconds[1][-1]
            print(f"{ours:.1f} {theirs:.1f} {ours / theirs:.2f}", flush=True)
        print("program, peak of resident memory, time of processors a run")
        table(watches[0], spent[0], "ours")
        table(watches[1], spent[1], "Flower's")
    ratio = statistics.median(seconds[0]) / statistics.median(seconds[1])
    print(f"transfer: {ratio:.2f} (bound {BOUND})")
    return 0 if ratio <= BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
