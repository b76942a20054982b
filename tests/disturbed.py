"""A deployed consortium whose programs, links, clocks and disks can be broken, and what is known of it meanwhile."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

from deployed import FEDMERGE, Deployment, until
from small import campaign

from fedmerge import sessions
from server import inprocess, runs
from server.app import app as server_app
from sites import home as homes
from sites.app import app as client_app

PATIENCE_S = 600.0  # of the tests, on a machine that has other things to do
METHOD = "t-imm"
STEPS, EVERY = 300, 100  # of a source's training, and from checkpoint to checkpoint
PART_BYTES = 12_000  # so that a contribution of the tiny net, 21 kB, travels in two parts
SAID = re.compile(r"(\w+): ([\w ()-]+) (\d+)/(\d+)$", re.MULTILINE)
BROKEN = """
import os
import fedmerge.parts
fedmerge.parts.PART_BYTES = int(os.environ["TEST_PART_BYTES"])
if ahead := float(os.environ.get("TEST_CLOCK_AHEAD", 0)):
    import datetime, time
    import flwr.supercore.date
    told = time.time
    time.time = lambda: told() + ahead
    flwr.supercore.date.now = lambda: datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=ahead)
"""


def longer(path):
    """The tiny campaign with so many steps that there is time to break something in each of its phases."""
    text = path.read_text()
    for old, new in (
        ("steps = 6\n", f"steps = {STEPS}\n"),
        ("steps = 4\n", "steps = 160\n"),
        ("steps = 5\n", "steps = 300\n"),
        ("validate_every = 2", "validate_every = 40"),
    ):
        assert old.strip() in text
        text = text.replace(old, new)
    path.write_text(text)


def rows(out):
    """The rows of a run's results, without what no two runs share: seconds, and a real site's pseudonyms of cases."""
    found = json.loads((out / "results.json").read_text())["rows"]
    return [{**row, "seconds": 0, "cases": [case["dice"] for case in row["cases"]]} for row in found]


def ratios(out):
    """The fitted ratios of a run's results."""
    return json.loads((out / "results.json").read_text())["ratios"]


def simulated(root, changed=lambda text: text):
    """Rows and ratios of the undisturbed campaign, or of a changed one, in one process."""
    deployment = Deployment(root)
    path = campaign(deployment.data)
    longer(path)
    path.write_text(changed(path.read_text()))
    config = {"campaign": str(path), "out": str(root / "out"), "methods": METHOD, "workers": 1}
    inprocess.run(server_app, client_app, config, 3, 1)
    return rows(root / "out"), ratios(root / "out")


class Link:
    """A TCP relay in front of the door.

    Attributes:
        rate: bytes a second up to the door; 0: as many as come.
        down: whether nothing passes, as with a broken cable.
        resets: whether a link that is down ends connections, as a firewall does.
    """

    def __init__(self, port):
        self.there, self.down, self.resets, self.rate = port, False, False, 0
        self._pairs, self._listener = [], socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
                if self.down and self.resets:
                    raise ConnectionResetError
                self._wait()
                far = socket.create_connection(("127.0.0.1", self.there), timeout=5)
                far.settimeout(None)
            except OSError:
                if self._listener.fileno() < 0:
                    return
                near.close()
                continue
            self._pairs.append((near, far))
            for one, other, up in ((near, far, True), (far, near, False)):
                threading.Thread(target=self._pump, args=(one, other, up), daemon=True).start()

    def _wait(self):
        while self.down:
            time.sleep(0.02)

    def _pump(self, one, other, up):
        with suppress(OSError, ValueError):
            while data := one.recv(4096):
                self._wait()
                if up and self.rate:
                    time.sleep(len(data) / self.rate)
                    self._wait()
                other.sendall(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self):
        """End every connection that there is."""
        for pair in list(self._pairs):
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self):
        """No more."""
        self.down = False
        self._listener.close()
        self.cut()


class Disturbed(Deployment):
    """A consortium of three tiny hospitals behind links of their own; `head`: more lines of [campaign]."""

    def __init__(self, root, head=""):
        super().__init__(root, head=head)
        longer(self.plan)
        self.links, self.clocks = {}, {}
        (root / "broken").mkdir()
        (root / "broken/sitecustomize.py").write_text(BROKEN)
        self.join_all()

    def join(self, site):
        """As usual, but the site knows the door by its own link."""
        super().join(site)
        self.links[site] = Link(self.server.port)
        self.sites[site] = homes.remember(self.sites[site], address=f"localhost:{self.links[site].port}")

    def start(self, name):
        """As usual, with small parts and the site's own clock."""
        before = dict(os.environ)
        os.environ.update(self.around(name))
        try:
            return super().start(name)
        finally:
            os.environ.clear()
            os.environ.update(before)

    def up(self, *names):
        """Start them, or all, and wait until every program is ready and every site has knocked."""
        names = names or ("server", *self.sites)
        for name in names:
            self.start(name)
        until(lambda: all(map(self.ready, names)), PATIENCE_S, self)
        until(lambda: all(map(self.seen, set(names) - {"server"})), PATIENCE_S, self)

    def submit(self, name="small", path=None):
        """Give a campaign to the server."""
        return runs.submit(self.server, path or self.plan, name, {"methods": METHOD})

    def out(self, name="small"):
        """The folder of a run's results."""
        return runs.out(self.server, name)

    def finished(self, seconds=2 * PATIENCE_S, name="small"):
        """(rows, ratios) of a run, once it is done."""
        run = until(lambda: (run := self.run(name)).over and run, seconds, self)
        assert (run.state, run.words) == ("done", ""), self.told()
        return rows(self.out(name)), ratios(self.out(name))

    def progress(self, site, name="small"):
        """What the server's app last said of a site."""
        return runs.progress(self.server, name).get("sites", {}).get(site, {})

    def steps(self, site, what):
        """The steps that a site's agent has told of some work, as they came: a step that comes again was lost."""
        log = self.sites[site].run / "logs/agent.log"
        said = SAID.findall(log.read_text()) if log.exists() else []
        return [int(done) for who, which, done, _ in said if who == site and which.startswith(what)]

    def arrived(self, site="north", name="small"):
        """Bytes of a site's files that have come to the server so far, in parts or whole."""
        there = self.out(name) / "server/incoming" / site
        with suppress(FileNotFoundError):  # a file that has just become another
            return sum(path.stat().st_size for path in there.glob("*"))
        return 0

    def kept(self, name="small"):
        """How many contributions have come whole."""
        return len(list((self.out(name) / "server/contributions").glob("*.safetensors")))

    def told_at(self, name="small"):
        """When the server's app last said anything."""
        return runs.progress(self.server, name).get("time", 0.0)

    def command(self, name, *words):
        """What a command of a party prints, with this party's clock."""
        done = subprocess.run(
            [FEDMERGE, *map(str, words)], env={**os.environ, **self.around(name)}, capture_output=True, text=True
        )
        return done.stdout + done.stderr

    def status(self):
        """What the server's coordinator is told."""
        return self.command("server", "status", "--server", self.server.folder)

    def log(self, name="small"):
        """What the server's app has logged of a run."""
        path = self.out(name) / "log.txt"
        return path.read_text() if path.exists() else ""

    def around(self, name):
        """The environment of a party's programs: small parts, and a clock of its own."""
        return {
            "PYTHONPATH": os.pathsep.join([str(self.root / "broken"), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "TEST_PART_BYTES": str(PART_BYTES),
            "TEST_CLOCK_AHEAD": str(self.clocks.get(name, 0)),
            "COLUMNS": "300",
        }

    def workers(self, name):
        """What the superexec of a home has started: the apps, a process for each message at a site."""
        superexec = self.state(name)["superexec"]["pid"]
        return [pid for pid in sessions.members(superexec or 0) if pid != superexec]

    def hit(self, name, program, number=signal.SIGKILL):
        """Send a signal to a program, or to the apps that its superexec has started (`app`); its pids."""
        if program == "app":
            pids = until(lambda: self.workers(name), PATIENCE_S, self)
        else:
            pids = [until(lambda: self.state(name)[program]["pid"], PATIENCE_S, self)]
        for pid in pids:
            self.send(pid, number)
        return pids

    def send(self, pid, number):
        """Send a signal to a process, if it is still there."""
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    def kill_machine(self, name):
        """Everything of one side at once, as when a machine loses its power; a supervisor has no last word."""
        supervisor = self.running.pop(name)
        for pid in [supervisor.pid, *self.pids(name)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        supervisor.wait()

    def stop(self):
        """End everything, links too, and see that nothing is left."""
        family = [pid for name in self.running for pid in self.pids(name)]
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        super().stop()
        for link in self.links.values():
            link.close()
        left = [pid for pid in family if alive(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left, f"still there: {left}"


def alive(pid):
    """Whether a process is there, and no zombie."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
