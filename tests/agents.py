"""Homes of the tiny hospitals, and their agents: in a thread of the test, or as the processes that they are."""

import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from small import SITES, campaign

from fedmerge.transport import Letter
from fedmerge.trust import audit, keys
from sites import client
from sites.agent import Agent
from sites.home import Paths

BUNDLE = "sha256:" + "b" * 64  # what the tests' messages say that they came with
ROLES = dict(zip(SITES, ("source", "source", "target")))
POLICY = {
    "campaigns": '["*"]', "nets": '["isensee2017"]', "labels": '["*"]', "min_cases": "1", "weights": "true",
    "trust": '["*"]', "receivers": '["*"]',
    "fisher": '"full"', "metrics": "true", "per_case_metrics": "true", "max_contributions": '"*"', "max_bytes": '"*"',
}  # fmt: skip


def plan(small, folder, *, head="", name="plan.toml"):
    """The campaign of `small` as a coordinator has it, without the hospitals' tables; and those, by site."""
    path, sites = apart(campaign(small, name=f"whole-{name}", head=head), folder, name)
    return path, {site: own for site, (_, own) in sites.items()}


def apart(whole, folder, name="plan.toml"):
    """A simulation's file as a coordinator has it; and (role, lines of the table `data` without a folder) by site."""
    head, *entries = whole.read_text().split("[[site]]")
    sites, listed = {}, ""
    for entry in entries:
        facts, _, own = entry.partition("[site.data]\n")
        told = dict(line.split(" = ", 1) for line in facts.splitlines() if " = " in line)
        site, role = told["name"].strip('"'), told.get("role", '"source"').strip('"')
        sites[site] = role, "\n".join(line for line in own.splitlines() if not line.startswith("folder"))
        listed += f'[[site]]\nname = "{site}"\nrole = "{role}"\n'
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(head + listed)
    return path, sites


def home(folder, small, site, data, **policy):
    """A hospital's home as its agent needs it."""
    paths = Paths(folder / site)
    paths.private.mkdir(parents=True, mode=0o700)
    paths.socket_folder.mkdir()
    keys.keep(paths.signing_key, keys.new_signing())
    lines = "".join(f"{k} = {v}\n" for k, v in {"roles": f'["{ROLES[site]}"]', **POLICY, **policy}.items())
    paths.site_file.write_text(
        f'[site]\nname = "{site}"\nrole = "{ROLES[site]}"\nwork = "private/work"\n'
        f'[data]\nfolder = "{small / site}"\n{data}\n[policy]\n{lines}'
    )
    paths.allowed.write_text(f'[bundles]\n"{BUNDLE}" = "the tests"\n')
    return paths


def homes(folder, small, data, **policy):
    """The homes of all three."""
    return {site: home(folder, small, site, data[site], **policy) for site in SITES}


@contextmanager
def in_thread(paths, answers=True):
    """An agent of this process while the block runs; `answers`: to this user."""
    agent = Agent(paths)
    thread = threading.Thread(target=agent.serve)
    thread.start()
    try:
        if answers:
            wait_for(paths)
        yield agent
    finally:
        agent.stop()
        thread.join()


class Process:
    """An agent in a process of its own."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.start()

    def start(self) -> None:
        """Start it; it answers a few seconds later."""
        self.log = (self.paths.folder / "agent.log").open("ab")
        command = [sys.executable, "-m", "sites.agent", str(self.paths.folder)]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, cwd=Path(__file__).parent.parent)

    def wait(self) -> None:
        """Until it answers."""
        wait_for(self.paths, self.process)

    def kill(self) -> None:
        """Kill it, so that it cannot put anything in order."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Ask it to end."""
        with suppress(ProcessLookupError):
            self.process.terminate()
        self.process.wait(20)
        self.log.close()


@contextmanager
def processes(*several):
    """Agents in processes of their own while the block runs."""
    running = []
    try:
        for paths in several:
            running.append(Process(paths))
        for process in running:
            process.wait()
        yield running
    finally:
        for process in running:
            process.stop()


def wait_for(paths, process=None, seconds=60.0):
    """Until the agent says its name."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process is not None and process.poll() is not None:
            break
        with suppress(client.Away):
            return client.call(paths.socket, "hello", Letter({}), patience_s=0).task
        time.sleep(0.05)
    raise AssertionError(f"no agent: {(paths.folder / 'agent.log').read_text()}")


def ask(home, op, task, payload=None, bundle=BUNDLE, to="north", **note):
    """The answer of a home's agent."""
    letter = Letter(task, payload or {}, {"campaign": "small", "hold_s": 20.0, **note}, "c" * 64, to)
    return client.call(home.socket, op, letter, bundle=bundle, patience_s=5.0)


def refusals(home):
    """(what, reason) of the refusals in a log that holds."""
    report = audit.verify(home.audit, keys.read_signing(home.signing_key).public_key())
    assert report.sound, report.reason
    return [(line.what, line.reason) for line in report.lines if line.way == "refused"]
