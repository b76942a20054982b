"""The chains of a suite at work: each in a process of its own, whose words reach this one through a pipe.

Chains are independent trainings of the sources, so they share nothing; the runs of one chain share contributions and
follow each other in one process. A process ends with its parent, and what it has finished is on disk.
"""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import connection, process
from typing import TYPE_CHECKING, Any

from fedmerge.cli import simulate
from fedmerge.errors import FedmergeError

if TYPE_CHECKING:
    from fedmerge.bench.runs import Run

log = logging.getLogger("fedmerge")
FACTS = ("who", "what", "done", "total")  # of a record of progress


def run(runs: Mapping[int, Sequence["Run"]], at_once: int, workers: int) -> list[str]:
    """Run all chains, `at_once` at a time.

    Args:
        runs: chain -> its runs, in their order.
        at_once: processes at the same time.
        workers: sites that work at the same time in each.

    Returns:
        a sentence for each chain that ended before its time.
    """
    context = multiprocessing.get_context("spawn")
    from fedmerge.bench.runs import finished

    waiting = [(chain, members) for chain, members in runs.items() if not all(map(finished, members))]
    failures: dict[int, str] = {}
    under: dict[connection.Connection, tuple[process.BaseProcess, int]] = {}
    total = sum(map(len, runs.values()))
    done = total - sum(len(members) for _, members in waiting)
    try:
        while waiting or under:
            while waiting and len(under) < at_once:
                chain, members = waiting.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                worker = context.Process(target=_work, args=(theirs, list(members), workers), name=f"chain {chain}")
                worker.start()
                theirs.close()
                under[ours] = worker, chain
            for pipe in connection.wait(list(under)):
                assert isinstance(pipe, connection.Connection)  # noqa: S101 - that is what was given
                one, chain = under[pipe]
                try:
                    kind, what = pipe.recv()
                except (EOFError, OSError):
                    one.join()
                    del under[pipe]
                    if one.exitcode:
                        failures.setdefault(chain, f"the process of chain {chain} ended with code {one.exitcode}")
                    continue
                if kind == "failed":
                    failures[chain] = what
                elif kind == "done":
                    done += 1
                    log.info("%d of %d campaigns: %s", done, total, what)
                else:
                    logging.getLogger(what["name"]).handle(logging.makeLogRecord(what))
    finally:
        for one, _ in under.values():
            one.terminate()
            one.join()
    return list(failures.values())


def _work(pipe: connection.Connection, runs: list["Run"], workers: int) -> None:
    """What a chain's process does: its runs, one after the other."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a key pressed is the parent's to answer, who ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch  # noqa: F401 - half of the start; after the thread, so that a killed parent is noticed

    from fedmerge.bench import runs as suite_runs

    before: Run | None = None
    for one in runs:
        began = time.monotonic()
        try:
            with _told(pipe, one.label):
                if not suite_runs.finished(one):
                    _campaign(one, before, workers)
                    suite_runs.finish(one)
        except FedmergeError as error:
            pipe.send(("failed", f"{one.label}: {simulate.explained(str(error), one.out)}"))
            return
        pipe.send(("done", f"{one.label}, {time.monotonic() - began:.0f} s"))
        before = one


def _campaign(one: "Run", before: "Run | None", workers: int) -> None:
    """One campaign, with the contributions of the one before it where inputs agree."""
    from server import inprocess, plan
    from server.app import app as server_app
    from sites.app import app as client_app

    config: dict[str, Any] = {
        "campaign": str(one.campaign),
        "out": str(one.out),
        "methods": ",".join(one.methods),
        "seeds": ",".join(map(str, one.seeds)),
        "chains": str(one.chain),
        "target-cases": one.cases,
        "reuse": str(before.out) if before else "",
        "data": "",
        "resume": True,
        "workers": workers,
    }
    inprocess.run(server_app, client_app, config, len(plan.read(one.campaign).residents), workers)


class _Pipe(logging.Handler):
    """Sends records to the parent, which shows them."""

    def __init__(self, pipe: connection.Connection, label: str) -> None:
        super().__init__(logging.INFO)
        self._pipe, self._label = pipe, label

    def emit(self, record: logging.LogRecord) -> None:
        """Send what the record says."""
        facts = {key: record.__dict__[key] for key in FACTS if key in record.__dict__}
        if "who" in facts:
            facts["who"] = f"{self._label}: {facts['who']}"
        told = {"name": record.name, "levelno": record.levelno, "levelname": record.levelname, **facts}
        self._pipe.send(("record", {**told, "msg": f"{self._label}: {record.getMessage()}", "args": ()}))


@contextmanager
def _told(pipe: connection.Connection, label: str) -> Iterator[None]:
    """While the block runs, what is logged here reaches the parent."""
    handler = _Pipe(pipe, label)
    loggers = [logging.getLogger("fedmerge"), logging.getLogger("fedmerge.progress")]
    logging.getLogger("flwr").setLevel(logging.ERROR)
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
