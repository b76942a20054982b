"""What a site is at, for those who watch at its own machine: `doing.json` in its working folder, once a second at most.

    {"time": 1760000000.0, "kind": "train.contribute", "campaign": "first", "since": 1759990000.0,
     "progress": {"what": "training", "done": 400, "total": 2000, "began": 1759990010.0, "from": 0,
                  "at": 1759999990.0}}

Times are seconds since 1970; `began` and `from` are when the work was first told of, and how much was done then, `at`
when it was last told of. An empty `kind`: the site is at nothing. Nobody but the hospital reads it.
"""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

EVERY_S = 1.0


def path(work: Path) -> Path:
    """Where it is."""
    return work / "doing.json"


def forget(work: Path) -> None:
    """The site is at nothing: whoever was at something was killed."""
    with contextlib.suppress(OSError):
        path(work).unlink(missing_ok=True)


@contextlib.contextmanager
def told(work: Path, kind: str, campaign: str, wall: Callable[[], float] = time.time) -> Iterator[None]:
    """Say, while the block runs, that the site is at a task, and how far it is.

    Args:
        work: the site's working folder.
        kind: the task's.
        campaign: the task is part of.
        wall: the time of day in seconds since 1970.
    """
    ear = _Ear(work, {"kind": kind, "campaign": campaign, "since": wall(), "progress": None}, wall)
    log = logging.getLogger("fedmerge.progress")
    log.setLevel(logging.INFO)
    log.addHandler(ear)
    ear.write()
    try:
        yield
    finally:
        log.removeHandler(ear)
        ear.facts.update(kind="", since=wall(), progress=None)
        ear.write()


class _Ear(logging.Handler):
    """Listens to what `sites.progress` reports in this thread."""

    def __init__(self, work: Path, facts: dict[str, Any], wall: Callable[[], float]) -> None:
        super().__init__()
        self.facts, self._path, self._wall = facts, path(work), wall
        self._thread, self._written = threading.get_ident(), 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Take down what a record says, and write it when it is time."""
        if record.thread != self._thread or not hasattr(record, "total"):
            return
        now, before = self._wall(), self.facts["progress"]
        fresh = {key: getattr(record, key, None) for key in ("what", "done", "total")}
        begun = {"began": now, "from": fresh["done"]}
        if before is not None and before["what"] == fresh["what"] and before["done"] <= fresh["done"]:
            begun = {key: before[key] for key in begun}
        self.facts["progress"] = {**fresh, **begun, "at": now}
        if now - self._written >= EVERY_S:
            self.write()

    def write(self) -> None:
        """Write the file; a full disk stops no task."""
        self._written = self._wall()
        fresh = self._path.with_name(f".{self._path.name}")
        with contextlib.suppress(OSError):
            fresh.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(json.dumps({"time": self._written, **self.facts}), encoding="utf-8")
            fresh.replace(self._path)
