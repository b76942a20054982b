"""The sessions of kept programs: who is in one, how to end it, and what an earlier supervisor left behind.

A state file holds the pid of each program with the moment at which it was started, so that a pid that was used again
by something else is left alone.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from fedmerge import surroundings
from fedmerge.errors import ConfigError


def members(session: int) -> list[int]:
    """The processes of a session, zombies left out."""
    found = []
    for folder in Path("/proc").iterdir():
        facts = _facts(int(folder.name)) if folder.name.isdigit() else None
        if facts and facts[3] == str(session) and facts[0] != "Z":
            found.append(int(folder.name))
    return found


def kill_session(session: int, number: signal.Signals) -> None:
    """Send a signal to every process of a session; with SIGKILL until none is left."""
    for _ in range(50):
        there = members(session)
        for pid in there:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        if number != signal.SIGKILL or not there:
            return
        time.sleep(0.02)


def born(pid: int) -> str | None:
    """When a process was started, in the kernel's ticks; None where there is none. Tells a reused pid."""
    facts = _facts(pid)
    return facts[19] if facts else None


def _facts(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third on: state, parent, group, session, ..."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def boot() -> str:
    """The name of this start of the machine: pids of another one mean nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()


def sweep(state_file: Path) -> None:
    """Kill what an earlier supervisor left running: the sessions in its state file that are still those."""
    state = read_state(state_file)
    if state.get("boot") != boot():
        return
    for entry in state.get("programs", {}).values():
        pid = entry.get("pid")
        if pid and born(pid) in (None, entry.get("born")):  # gone with others of its session left, or the same
            kill_session(pid, signal.SIGKILL)


def read_state(state_file: Path) -> dict[str, Any]:
    """What a state file says; empty where there is none."""
    try:
        state: dict[str, Any] = json.loads(state_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state


def is_up(state_file: Path) -> bool:
    """Whether a supervisor has this state file."""
    try:
        with _lock(state_file).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _lock(state_file: Path) -> Path:
    return state_file.with_suffix(".lock")


def is_locked(path: Path) -> bool:
    """Whether a process holds this file locked (flock), without a lock of one's own that could be in its way.

    The kernel lists locks by device and inode. Some file systems call their device otherwise there than `stat` does, so
    the inode decides.
    """
    try:
        inode, held = str(path.stat().st_ino), Path("/proc/locks").read_text(encoding="utf-8")
    except OSError:
        return False
    locks = (line.split() for line in held.splitlines())  # 1: FLOCK ADVISORY WRITE 4711 fd:01:262147 0 EOF
    return any(lock[1] == "FLOCK" and lock[-3].rpartition(":")[2] == inode for lock in locks)


@contextlib.contextmanager
def alone(state_file: Path, wait_s: float = 1.0) -> Iterator[None]:
    """Be the only supervisor of a state file while the block runs.

    Raises:
        ConfigError: there is another one.
    """
    state_file.parent.mkdir(parents=True, exist_ok=True)
    with _lock(state_file).open("ab") as file:
        last = time.monotonic() + wait_s  # `is_up` and a watchman hold it for a moment
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > last:
                    raise ConfigError(f"{state_file.parent.parent} is up already; stop that one first") from None
                time.sleep(0.05)
        yield


@contextlib.contextmanager
def watchman(state_file: Path) -> Iterator[None]:
    """A process that kills what is left of the programs' sessions should the supervisor be killed."""
    command = surroundings.module("fedmerge.sessions", str(state_file))
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603 - ourselves
    try:
        yield
    finally:
        process.kill()
        process.communicate()


def watch(pipe: IO[bytes], state_file: Path) -> None:
    """What the watchman does: wait for the supervisor's end of the pipe to close, then sweep."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    pipe.read()
    with contextlib.suppress(ConfigError), alone(state_file, wait_s=0.0):  # else the next supervisor is there already
        sweep(state_file)


if __name__ == "__main__":
    watch(sys.stdin.buffer, Path(sys.argv[1]))
