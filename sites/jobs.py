"""Long work in one thread of the agent: whoever asks waits a little, and asks again.

A job is named by a digest of all that was asked. The same ask joins the job that is under way; one that is done is
given once and forgotten, because whatever took long is kept on disk by those who did it.
"""

import hashlib
import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")

MOST_HELD = 16  # results that nobody has fetched
MOST_WAITING = 16  # jobs that are not done, with what they were asked in memory


@dataclass(frozen=True)
class Later:
    """A job is not done yet.

    Attributes:
        job: its name, to ask with.
        progress: the last `{"what", "done", "total"}` that it told; empty: none yet.
    """

    job: str
    progress: dict[str, Any]


class Jobs(Generic[Result]):
    """The jobs of one process, one at a time, in the order in which they came.

    Args:
        who: the site's name, whose progress is listened to.
    """

    def __init__(self, who: str = "") -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="job")
        self._jobs: dict[str, Future[Result]] = {}
        self._lock = threading.Lock()
        self._ear = _Ear(who)

    def begin(self, job: str, work: Callable[[], Result]) -> bool:
        """Put a job at the end of the queue, unless it is in it, or at work, or done and not yet fetched.

        Returns:
            whether there was room for it in the queue.
        """
        with self._lock:
            if job in self._jobs:
                return True
            done = [name for name, future in self._jobs.items() if future.done()]
            if len(self._jobs) - len(done) >= MOST_WAITING:
                return False
            self._jobs[job] = self._pool.submit(self._work, work)
            for old in done[:-MOST_HELD]:
                del self._jobs[old]
            return True

    def wait(self, job: str, hold_s: float) -> Result | Later | None:
        """Wait up to `hold_s` seconds for a job; None where there is none of this name.

        Raises:
            Exception: what the job raised.
        """
        with self._lock:
            future = self._jobs.get(job)
        if future is None:
            return None
        try:
            result = future.result(timeout=hold_s)
        except NotYet:
            if not future.done():
                return Later(job, self._ear.last if future.running() else {})
            self._forget(job)
            raise
        except BaseException:
            self._forget(job)
            raise
        self._forget(job)
        return result

    def _forget(self, job: str) -> None:
        with self._lock:
            self._jobs.pop(job, None)

    def _work(self, work: Callable[[], Result]) -> Result:
        self._ear.last = {}
        log = logging.getLogger("fedmerge.progress")
        log.addHandler(self._ear)
        log.setLevel(logging.INFO)
        try:
            return work()
        finally:
            log.removeHandler(self._ear)

    def close(self) -> None:
        """Begin no further job."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Ear(logging.Handler):
    """Listens to `sites.progress`."""

    def __init__(self, who: str) -> None:
        super().__init__()
        self.who, self.last = who, dict[str, Any]()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what was said last by this site."""
        if not self.who or getattr(record, "who", None) == self.who:
            self.last = {key: getattr(record, key, None) for key in ("what", "done", "total")}


def name(op: str, task: dict[str, Any], digests: dict[str, str]) -> str:
    """The name of a job: 24 hexadecimal digits.

    Args:
        op: the operation.
        task: what is asked.
        digests: of the payloads, by name.
    """
    text = json.dumps([op, task, digests], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]
