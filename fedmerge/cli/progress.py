"""Progress from the log records of `fedmerge.progress`: bars on a terminal, a line now and then elsewhere.

Each record carries `who` (a site), `what` (a piece of work), `done` and `total`.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from fedmerge.cli import screen

LOGGER = "fedmerge.progress"
EVERY_S = 5.0  # between two lines of one task where nobody looks at a terminal
KEPT = 4  # finished bars that stay in sight

Key = tuple[str, str]


class Lines(logging.Handler):
    """A line a task when it ends, and at most one in `EVERY_S` seconds before."""

    def __init__(self, print_line: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.INFO)
        self._print, self._clock = print_line, clock
        self._last: dict[Key, tuple[float, int]] = {}  # when the task was last heard of, how far it was

    def emit(self, record: logging.LogRecord) -> None:
        """Print what this record says, or leave it."""
        facts = _facts(record)
        if facts is None:
            return
        key, done, total = facts
        now = self._clock()
        since, before = self._last.get(key, (now, -1))
        if done < before:  # the same work begins anew
            since = now
        ended = done >= total and done != before
        if ended or now - since >= EVERY_S:
            since = now
            self._print(f"{key[0]}: {key[1]} {done}/{total}")
        self._last[key] = since, done


class Bars(logging.Handler):
    """A bar a task; of the finished ones only the last few stay."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(logging.INFO)
        self._progress = progress
        self._tasks: dict[Key, TaskID] = {}
        self._finished: list[Key] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Move the task's bar."""
        facts = _facts(record)
        if facts is None:
            return
        key, done, total = facts
        if key in self._finished and done < total:  # the same work begins anew
            self._finished.remove(key)
            self._progress.remove_task(self._tasks.pop(key))
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task(escape(key[1]), who=escape(key[0]), total=total)
        self._progress.update(self._tasks[key], completed=done, total=total)
        if done >= total and key not in self._finished:
            self._finished.append(key)
            for old in self._finished[:-KEPT]:
                self._progress.remove_task(self._tasks.pop(old))
            del self._finished[:-KEPT]


class Messages(logging.Handler):
    """What the campaign says in words: a line each. Errors end the command, which tells them itself."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message."""
        if record.name != LOGGER and record.levelno < logging.ERROR:
            screen.complain(record.getMessage())


@contextmanager
def shown(debug: bool = False) -> Iterator[None]:
    """Show on stderr, while the block runs, how far the work is and what is logged.

    Args:
        debug: whether the log goes to stderr already.
    """
    console = screen.err()
    bars = Progress(
        TextColumn("{task.fields[who]}"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    handlers: dict[str, logging.Handler] = {LOGGER: Bars(bars) if console.is_terminal else Lines(screen.complain)}
    if not debug:
        handlers["fedmerge"] = Messages(logging.INFO)
    with ExitStack() as stack:
        stack.enter_context(bars)
        for name, handler in handlers.items():
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            stack.callback(logger.removeHandler, handler)
            logger.setLevel(logging.INFO)
            logger.addHandler(handler)
        yield


def _facts(record: logging.LogRecord) -> tuple[Key, int, int] | None:
    """(who, what), done, total; None for a record that carries no progress."""
    try:
        who, what, done, total = (record.__dict__[name] for name in ("who", "what", "done", "total"))
    except KeyError:
        return None
    return (str(who), str(what)), int(done), int(total)
