"""How a campaign's run ended, as its own folder says it, and whether its server's app runs at this moment.

A run that ended with "done" or with a sentence of ours is over. One that ended without a word was killed, or the
machine was in its way (a full disk, Flower gone): it may be begun again, and goes on where it was.
"""

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from fedmerge import whole
from fedmerge.errors import CampaignStopped, FedmergeError

DONE = "done"
UNEXPECTED = "the server's app failed; its log has the reason"
CIRCUMSTANCES = ("flwr", "httpx", "grpc", "sqlalchemy", "sqlite3")  # whose exceptions are no fault of a campaign


def path(out: Path) -> Path:
    """The file with the words."""
    return out / "server" / "ended.txt"


def words(out: Path) -> str:
    """What the run ended with; empty while it has not ended, or where it ended without a word."""
    try:
        return path(out).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def of(error: Exception) -> str:
    """The words for a run that ended with an error; empty for circumstances that pass.

    Args:
        error: what ended it.
    """
    if isinstance(error, FedmergeError):
        return str(error)
    passing = isinstance(error, OSError) or type(error).__module__.partition(".")[0] in CIRCUMSTANCES
    return "" if passing else UNEXPECTED


def tell(out: Path, told: str) -> None:
    """Write the words down, whole or not at all; a disk that is full leaves none."""
    if told:
        with contextlib.suppress(OSError):
            whole.write(path(out), told.encode())


def forget(out: Path) -> None:
    """No words: the run begins, or begins again."""
    path(out).unlink(missing_ok=True)


@contextlib.contextmanager
def running(out: Path) -> Iterator[None]:
    """Be the only app of this run while the block runs.

    Raises:
        CampaignStopped: another one is at it.
    """
    (out / "server").mkdir(parents=True, exist_ok=True)
    with (out / "server" / "lock").open("ab") as file:
        for left in reversed(range(20)):  # who only asks holds it for a moment
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not left:
                    raise CampaignStopped(f"another server's app is at work on {out}") from None
                time.sleep(0.05)
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        file.flush()
        yield


def end(out: Path) -> None:
    """Ask the app that is at work on this run to end."""
    with contextlib.suppress(OSError, ValueError):
        if is_running(out):
            os.kill(int((out / "server" / "lock").read_text(encoding="utf-8")), signal.SIGTERM)


def is_running(out: Path) -> bool:
    """Whether an app of this run is at work, on this machine."""
    try:
        with (out / "server" / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
