"""A consortium on this machine: a server and tiny hospitals, each with its own home, started by the command."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from agents import POLICY, apart
from small import campaign, hospitals

from fedmerge import sessions
from fedmerge.surroundings import free_port
from fedmerge.trust import certificates
from server import consortium, runs
from sites import joining

FEDMERGE = str(Path(sys.executable).with_name("fedmerge"))


class Deployment:
    """The homes below `root`; nothing runs at first.

    `whole` is a simulation's file whose sites shall be hospitals, with their folders beside it; else the three of
    `small`, and `head` has lines for their `[campaign]`.
    """

    def __init__(self, root, head="", whole=None):
        self.root = root
        self.server = consortium.init(root / "server", "small", ["localhost"], port=free_port(), now=time.time())
        self.data = whole.parent if whole else hospitals(root / "data")
        self.plan, told = apart(whole or campaign(self.data, head=head), root)
        self.roles = {site: role for site, (role, _) in told.items()}
        self.tables = {site: table for site, (_, table) in told.items()}
        self.sites, self.running = {}, {}

    def join(self, site):
        """A hospital joins and is approved."""
        pinned = certificates.fingerprint(consortium.authority(self.server))
        joined = joining.join(
            self.root / site, f"localhost:{self.server.port}", site, roles=(self.roles[site],),
            authority=self.server.authority, fingerprint=pinned, now=time.time(),
        )  # fmt: skip
        lines = "".join(f"{k} = {v}\n" for k, v in {"roles": f'["{self.roles[site]}"]', **POLICY}.items())
        joined.home.site_file.write_text(
            f'[site]\nname = "{site}"\nrole = "{self.roles[site]}"\nwork = "private/work"\n'
            f'[data]\nfolder = "{self.data / site}"\n{self.tables[site]}\n[policy]\n{lines}'
        )
        consortium.approve(self.server, joined.home.request.read_text(), joined.request.fingerprint, now=time.time())
        self.sites[site] = joined.home

    def join_all(self):
        """All of the plan."""
        for site in self.roles:
            self.join(site)

    def words(self, name):
        """The command that starts the server, or a site under the present user."""
        if name == "server":
            return [FEDMERGE, "server", "up", "--server", str(self.server.folder)]
        return [FEDMERGE, "site", "up", "--home", str(self.sites[name].folder), "--shared-user"]

    def start(self, name):
        """`server up` or a site's `site up`, in the background; the process."""
        with (self.root / f"{name}.out").open("ab") as told:
            self.running[name] = subprocess.Popen(
                self.words(name), stdout=told, stderr=told, cwd=self.root,
                env={**os.environ, "OMP_NUM_THREADS": "1"}, preexec_fn=tie,
            )  # fmt: skip
        return self.running[name]

    def start_all(self):
        """The server and all sites that have joined."""
        for name in ("server", *self.sites):
            self.start(name)

    def state(self, name):
        """What the programs of a home are."""
        return sessions.read_state(self.root / name / "run/state.json").get("programs", {})

    def ready(self, name):
        """Whether all programs of a home are ready."""
        found = self.state(name)
        return len(found) == 4 and all(entry["state"] == "running" for entry in found.values())

    def pids(self, name):
        """Every process in the sessions of a home's programs."""
        return [pid for entry in self.state(name).values() if entry["pid"] for pid in sessions.members(entry["pid"])]

    def kill(self, name, program):
        """Kill one program, without a chance to clean up."""
        os.kill(self.state(name)[program]["pid"], signal.SIGKILL)

    def run(self, name):
        """The record of a run."""
        return runs.read(self.server, name)

    def seen(self, site):
        """Whether a site's node has called the front door."""
        path = self.server.run / "door.json"
        return path.exists() and site in json.loads(path.read_text())["sites"]

    def stop(self):
        """End everything that is still up, and see that nothing is left."""
        for process in self.running.values():
            if process.poll() is None:
                process.terminate()
        for process in self.running.values():
            process.wait(60)

    def told(self):
        """What all of them printed, for the message of a test that failed."""
        return "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in sorted(self.root.glob("*.out")))


def tie():
    """End with the tests, also where they are killed; called in the child."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def until(true, seconds, deployment=None):
    """Wait for something to become true; its value."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, deployment.told() if deployment else "in vain"
        time.sleep(0.1)
    return value
