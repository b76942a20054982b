"""Programs that are kept running: started in order, started again when they end, stopped together.

Nothing outlives the supervisor. Each program leads a session of its own, and whatever it starts is in it: when the
program ends, the rest of its session is killed before it is started again. The kernel kills the programs when the
supervisor dies, and a watchman, a process that waits for nothing else, then kills what is left of their sessions; so
does the next supervisor when it finds the state that an earlier one left.
"""

import contextlib
import ctypes
import json
import os
import pwd
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedmerge import logs
from fedmerge.sessions import alone, boot, born, kill_session, sweep, watchman

LONGEST_PAUSE_S = 30.0
STEADY_S = 60.0  # a program that ran for so long begins anew with the shortest pause
GRACE_S = 15.0  # from SIGTERM to SIGKILL
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)
HANDED_ON = (
    "PATH", "LANG", "LC_", "TZ", "OMP_", "MKL_", "CUDA_", "NVIDIA_", "LD_LIBRARY_PATH", "SSL_CERT_",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "FEDMERGE_", "FLWR_",
)  # fmt: skip
"""Beginnings of the variables that a program under another user inherits: root's own secrets are not among them."""


@dataclass(frozen=True)
class Program:
    """What is to run.

    Attributes:
        name: in the state file and in `after`.
        argv: the command; no shell.
        log: file that takes what it prints.
        env: variables on top of those inherited; of these, another user gets only such as `HANDED_ON` names.
        user: the OS user that it runs under, with this user's groups; None for the supervisor's own.
        cwd: its working folder.
        ready: whether it can be used by now; must answer within a second. None: as soon as it runs.
        after: programs that have to be ready before this one is started.
        patience_s: how long it may take to become ready; then it is started again.
    """

    name: str
    argv: Sequence[str]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    cwd: Path | None = None
    ready: Callable[[], bool] | None = None
    after: tuple[str, ...] = ()
    patience_s: float = 90.0


@dataclass
class Kept:
    """A program and what became of it so far; times are seconds of the supervisor's clock."""

    program: Program
    process: subprocess.Popen[bytes] | None = None
    state: str = "waiting"  # waiting, starting, running, down
    started: float = 0.0
    again_at: float = 0.0
    since: str = ""
    restarts: int = -1
    failures: int = 0
    words: str = ""

    def step(self, now: float, others: Mapping[str, "Kept"]) -> bool:
        """Start, look after, or bury the program; whether anything changed."""
        if self.process is None:
            if now < self.again_at or not all(others[name].state == "running" for name in self.program.after):
                return False
            self._start(now)
            return True
        if (code := self.process.poll()) is not None:
            self._bury(now, f"ended with code {code}" if code >= 0 else f"killed by signal {-code}")
            return True
        if self.state == "starting":
            if self.program.ready is None or self.program.ready():
                self.state = "running"
                return True
            if now - self.started > self.program.patience_s:
                kill_session(self.process.pid, signal.SIGKILL)
                self.process.wait()
                self._bury(now, f"was not ready within {self.program.patience_s:.0f} s")
                return True
        elif self.failures and now - self.started > STEADY_S:
            self.failures = 0
        return False

    def _start(self, now: float) -> None:
        self.process = start(self.program)
        self.state, self.started, self.since = "starting", now, _stamp()
        self.restarts += 1

    def _bury(self, now: float, how: str) -> None:
        assert self.process is not None  # noqa: S101 - only a started program ends
        kill_session(self.process.pid, signal.SIGKILL)
        last = logs.last_words(self.program.log)
        self.words = f"{how}; last words: {last}" if last else how
        self.process, self.state, self.since = None, "down", _stamp()
        self.again_at = now + min(2.0**self.failures, LONGEST_PAUSE_S)
        self.failures += 1

    def told(self) -> dict[str, Any]:
        """The program's entry in the state file."""
        pid = self.process.pid if self.process else None
        return {
            "pid": pid,
            "born": born(pid) if pid else None,
            "state": self.state,
            "since": self.since,
            "restarts": max(self.restarts, 0),
            "words": self.words,
        }


def supervise(
    programs: Sequence[Program],
    state_file: Path,
    stop: threading.Event | None = None,
    on_tick: Callable[[], None] | None = None,
    on_change: Callable[[Kept], None] | None = None,
    *,
    tick_s: float = 0.25,
) -> None:
    """Keep programs running until SIGTERM, SIGINT, SIGHUP or `stop`; then stop them in reverse order.

    The kernel ties the programs to the thread that calls this.

    Args:
        programs: in the order in which they are started.
        state_file: JSON that says what runs, for `status` and for the next supervisor.
        stop: ends the supervision when set.
        on_tick: called between two looks at the programs, on the same thread.
        on_change: called when a program was started, became ready, or ended.
        tick_s: the time between two looks.

    Raises:
        ConfigError: another supervisor already has this state file.
    """
    stop = stop or threading.Event()
    kept = {program.name: Kept(program) for program in programs}
    with alone(state_file), _signals(stop), watchman(state_file):
        sweep(state_file)
        rotated = time.monotonic()
        try:
            while not stop.is_set():
                changed = [one for one in kept.values() if one.step(time.monotonic(), kept)]
                if changed:
                    _keep(state_file, kept)
                if on_change is not None:
                    for one in changed:
                        on_change(one)
                if time.monotonic() - rotated > 10:
                    rotated = time.monotonic()
                    for program in programs:
                        logs.rotate(program.log)
                if on_tick is not None:
                    on_tick()
                stop.wait(tick_s)
        finally:
            for one in reversed(kept.values()):
                end(one)
                _keep(state_file, kept)


def start(program: Program) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, which ends with the supervisor."""
    environment = {**os.environ, **program.env}
    switch: dict[str, Any] = {}
    if program.user is not None and program.user != pwd.getpwuid(os.getuid()).pw_name:
        entry = pwd.getpwnam(program.user)
        inherited = {name: value for name, value in os.environ.items() if name.startswith(HANDED_ON)}
        environment = {**inherited, **program.env}
        environment |= {"HOME": entry.pw_dir, "USER": program.user, "LOGNAME": program.user}
        groups = os.getgrouplist(program.user, entry.pw_gid)
        switch = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups}
    supervisor = os.getpid()

    def tie() -> None:  # in the child, after the change of user, which would undo it
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:
            os._exit(1)

    program.log.parent.mkdir(parents=True, exist_ok=True)
    with program.log.open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - our own commands, no shell
            list(program.argv),
            env=environment,
            cwd=program.cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=tie,
            **switch,
        )


def end(one: Kept, grace_s: float = GRACE_S) -> None:
    """SIGTERM to the program's session, SIGKILL to what is left of it after `grace_s`."""
    if one.process is not None:
        kill_session(one.process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.process.wait(grace_s)
        kill_session(one.process.pid, signal.SIGKILL)
        one.process.wait()
    one.process, one.state, one.since = None, "stopped", _stamp()


def _keep(state_file: Path, kept: Mapping[str, Kept]) -> None:
    state = {"boot": boot(), "pid": os.getpid(), "programs": {name: one.told() for name, one in kept.items()}}
    partial = state_file.with_name(f".{state_file.name}.part")
    with contextlib.suppress(OSError):  # a full disk stops no program
        partial.write_text(json.dumps(state, indent=1), encoding="utf-8")
        partial.replace(state_file)


@contextlib.contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    """SIGTERM, SIGINT and SIGHUP set `stop`, where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stamp() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
