"""The runner: sees to it that each campaign that should run has one run of Flower's, until it is over.

    python -m server.runner HOME

A run that ended with "done" or with a sentence of ours is over. One that ended without a word, because something was
killed or a disk was full, is given to Flower again, at once and then with growing pauses, for ever: the server's app
goes on with what its store holds. Every second it looks; Flower itself is asked only when something seems to be amiss.
"""

import argparse
import contextlib
import logging
import shutil
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import tomli_w

from fedmerge import bundle
from fedmerge.errors import FedmergeError
from server import home as homes
from server import registry, runs, superlink, verdict
from server.home import Home
from server.runs import Run
from server.superlink import Unanswered

log = logging.getLogger("fedmerge.runner")

TICK_S = 1.0
ASK_S = 15.0  # between two questions to Flower about a run whose app is not seen
AGAIN_S = 5.0  # after an order that failed
LONGEST_PAUSE_S = 60.0
SOON_S = 120.0  # an attempt that lasted longer was no failure of the start
STRIKES = 3  # unexpected errors in a row that end a run
AT_ONCE = 64  # conversations with sites


class Runner:
    """The runs of a home.

    Args:
        home: of the server.
        began: when this runner began: an app of an attempt before that has ended with the earlier server.
    """

    def __init__(self, home: Home, began: float) -> None:
        self.home, self.began = home, began
        self._seen: set[str] = set()  # attempts whose app was at work
        self._asked: dict[str, float] = {}
        self._paused: dict[str, float] = {}  # runs whose record could not be written, until when
        self._over: dict[str, int] = {}  # runs that are over, by the moment of their record
        self._roster = 0
        self._sync_at = 0.0
        self._swept = False

    def tick(self, now: float) -> None:
        """Look at everything once."""
        self._sync(now)
        if not self._swept:
            self._swept = self._stop_strangers()
        for name in self._names():
            if now < self._paused.get(name, 0.0):
                continue
            try:
                self.look(name, now)
            except FedmergeError as error:
                log.warning("%s: %s", name, error)
            except OSError as error:  # the disk is full: Flower need not be asked every second
                log.warning("%s: %s", name, error)
                self._paused[name] = now + ASK_S

    def look(self, name: str, now: float) -> Run:
        """Do what one run needs.

        Args:
            name: of the run.
            now: seconds since 1970.
        """
        with runs.alone(self.home, name):
            before = runs.read(self.home, name)
            step = {"queued": self._begin, "running": self._follow, "stopping": self._end}.get(before.state)
            run = step(before, now) if step else before
            if run != before:
                runs.keep(self.home, run)
                if run.state != before.state:
                    log.info("%s: %s%s", name, run.state, f": {run.words}" if run.words else "")
        return run

    def _begin(self, run: Run, now: float) -> Run:
        """Give a queued run to Flower."""
        if now < run.next_try or not self._swept:
            return run
        out = runs.out(self.home, run.name)
        verdict.forget(out)
        config = runs.folder(self.home, run.name) / "run-config.toml"
        facts = {"campaign": str(runs.folder(self.home, run.name) / "campaign.toml"), "out": str(out), "resume": True}
        config.write_text(tomli_w.dumps({**run.options, **facts, "workers": AT_ONCE}), encoding="utf-8")
        try:
            number = str(superlink.order(self.home, "run", str(app(self.home)), "--run-config", str(config))["run-id"])
        except Unanswered as error:
            return replace(run, next_try=now + AGAIN_S, words=str(error))
        return runs.move(run, "running", now, attempts=run.attempts + 1, flower_run=number, submitted=now, words="")

    def _follow(self, run: Run, now: float) -> Run:
        """See whether a running one has ended, and how."""
        out = runs.out(self.home, run.name)
        if verdict.is_running(out):
            self._seen.add(run.flower_run)
            return run
        if words := verdict.words(out):
            return self._ended(run, words, now)
        vanished = run.flower_run in self._seen or run.submitted < self.began
        if not vanished and now - max(run.submitted, self._asked.get(run.name, 0.0)) < ASK_S:
            return run
        self._asked[run.name] = now
        status, details = self._status(run)
        if status is None or (not vanished and not status.startswith("finished")):
            return run
        if words := verdict.words(out):  # it was told while we asked
            return self._ended(run, words, now)
        if not status.startswith("finished"):
            self._stop(run)
        failures = 0 if now - run.submitted > SOON_S else run.failures + 1
        pause = min(2.0**failures, LONGEST_PAUSE_S) if failures > 1 else 0.0
        words = f"attempt {run.attempts} ended without a word" + (f"; Flower says: {details}" if details else "")
        return runs.move(run, "queued", now, failures=failures, next_try=now + pause, words=words)

    def _ended(self, run: Run, words: str, now: float) -> Run:
        """The record of a run whose app has left its words."""
        if words == verdict.DONE:
            return runs.move(run, "done", now, words="", failures=0, unexpected=0)
        if words == verdict.UNEXPECTED and run.unexpected + 1 < STRIKES:
            pause = 5.0 * 2.0**run.unexpected
            return runs.move(run, "queued", now, unexpected=run.unexpected + 1, next_try=now + pause, words=words)
        return runs.move(run, "stopped", now, words=words)

    def _end(self, run: Run, now: float) -> Run:
        """End a run as its coordinator wishes."""
        if run.flower_run and self._asked.get(run.name, 0.0) < now - AGAIN_S:
            self._asked[run.name] = now
            self._stop(run)
        out = runs.out(self.home, run.name)
        if verdict.is_running(out):
            if now - run.since > SOON_S:
                verdict.end(out)
            return run
        if verdict.words(out) == verdict.DONE:
            return runs.move(run, "done", now, words="")
        return runs.move(run, "stopped", now, words=runs.BY_HAND)

    def _status(self, run: Run) -> tuple[str | None, str]:
        """Flower's word for a run, as `running` or `finished:failed`, with details; None where Flower is silent."""
        try:
            told = superlink.order(self.home, "ls", "--run-id", run.flower_run)["runs"]
        except Unanswered as error:
            unknown = "not found" in str(error).lower() or "invalid run id" in str(error).lower()
            return ("finished:unknown" if unknown else None), ""
        if not told:
            return "finished:unknown", ""
        details = " ".join(str(told[0].get("status-details", "")).split())
        return str(told[0]["status"]), "" if details == "N/A" else details[:200]

    def _stop(self, run: Run) -> None:
        with contextlib.suppress(Unanswered):  # it has ended already, or is asked again
            superlink.order(self.home, "stop", run.flower_run)

    def _stop_strangers(self) -> bool:
        """Stop runs of Flower's that no record knows: the runner was killed between an order and its record."""
        try:
            told = superlink.order(self.home, "ls")["runs"]
            known = {runs.read(self.home, name).flower_run for name in runs.names(self.home)}
            for one in told:
                if not str(one["status"]).startswith("finished") and str(one["run-id"]) not in known:
                    superlink.order(self.home, "stop", str(one["run-id"]))
        except Unanswered as error:
            log.warning("%s", error)
            return False
        return True

    def _sync(self, now: float) -> None:
        """Make Flower's registry of nodes follow the roster."""
        try:
            mark = self.home.roster.stat().st_mtime_ns
            if mark == self._roster or now < self._sync_at:
                return
            self._sync_at = now + AGAIN_S
            change = registry.sync_nodes(self.home, now=now)
            if change is not None:
                self._roster = mark
                for word, sites in (("registered", change.registered), ("unregistered", change.unregistered)):
                    if sites:
                        log.info("%s %s", word, ", ".join(sites))
        except (FedmergeError, OSError) as error:
            log.warning("the nodes could not be made to follow the roster: %s", error)

    def _names(self) -> list[str]:
        """The runs that are not over, without reading the others again and again."""
        found = []
        for path in sorted(self.home.runs.glob("*/run.json")):
            name, mark = path.parent.name, path.stat().st_mtime_ns
            if self._over.get(name) == mark:
                continue
            with contextlib.suppress(FedmergeError):
                if runs.read(self.home, name).over:
                    self._over[name] = mark
                else:
                    found.append(name)
        return found


def app(home: Home) -> Path:
    """The folder of the Flower app, made anew by each runner out of the installed version."""
    return home.flower / "app"


def make_app(home: Home) -> None:
    """Make the folder of the Flower app."""
    shutil.rmtree(app(home), ignore_errors=True)
    app(home).mkdir(parents=True)
    bundle.folder(app(home))


def main() -> int:
    """Run the campaigns of a server's home until SIGTERM."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("home", type=Path, help="the server's home")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        home = homes.open(given.home)
        make_app(home)
        runner = Runner(home, time.time())
        while not stop.is_set():
            runner.tick(time.time())
            stop.wait(TICK_S)
    except FedmergeError as error:
        print(f"fedmerge: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
