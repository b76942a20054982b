"""Ctrl-C for work in other threads: Python tells it to the main thread alone, which asks them here to end.

Long loops look between two pieces of work, and leave as if the key had been pressed in their own thread.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ASKED = threading.Event()


@contextmanager
def threads_too() -> Iterator[None]:
    """Within the block, run by the main thread, Ctrl-C ends the loops of all threads that look."""
    try:
        yield
    except KeyboardInterrupt:
        _ASKED.set()
        raise


def over() -> None:
    """The threads have ended; what begins after this is not asked to end."""
    _ASKED.clear()


def asked() -> bool:
    """Whether threads are asked to end."""
    return _ASKED.is_set()


def look() -> None:
    """Leave, where threads are asked to end.

    Raises:
        KeyboardInterrupt: they are.
    """
    if _ASKED.is_set():
        raise KeyboardInterrupt
