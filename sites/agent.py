"""The site's agent: the one process that has data, keys and training code, and answers a handful of operations.

    python -m sites.agent HOME

It listens on a unix socket of the home. The kernel says which OS user calls; a bundle that the site has not allowed, an
operation that there is not, a line of the policy: each is one refusal, and a line of the audit log. The agent itself
has no connection to any network.
"""

import contextlib
import ctypes
import fcntl
import logging
import os
import pwd
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from fedmerge import parts as digests
from fedmerge.errors import ConfigError, FedmergeError, Refused
from fedmerge.transport import Letter
from fedmerge.trust import audit, keys
from fedmerge.trust.refusals import Refusals
from sites import bundle, client, config, doing, parts, walls
from sites import home as homes
from sites.client import Away, Failed
from sites.home import Paths
from sites.jobs import Jobs
from sites.records import Site
from sites.service import Service

AT_ONCE = 8  # connections that are answered at the same time
FIRST, KINDS = 10, 5  # refusals of a kind that are written one by one in a minute, and kinds that there are
READ_S = 120.0  # how long a caller may take to say what it wants
NOT_DUMPABLE = 4  # prctl's PR_SET_DUMPABLE: other processes of the same user may not read this one's memory

log = logging.getLogger("fedmerge.agent")
Value = TypeVar("Value")


class Fresh(Generic[Value]):
    """A file that may be edited while the agent runs: read again whenever it has changed."""

    def __init__(self, path: Path, read: Callable[[Path], Value]) -> None:
        self._path, self._read = path, read
        self._held: tuple[tuple[int, int, int], Value] | None = None
        self._lock = threading.Lock()

    def now(self) -> Value:
        """What is in the file now.

        Raises:
            FedmergeError: as `read` raises it.
            OSError: there is no such file.
        """
        with self._lock:
            state = self._path.stat()
            mark = (state.st_mtime_ns, state.st_size, state.st_ino)
            if self._held is None or self._held[0] != mark:
                self._held = (mark, self._read(self._path))
            return self._held[1]


class Agent:
    """Answers on a home's socket.

    Args:
        home: the home's paths.

    Raises:
        ConfigError: the home's files or users cannot be used, or another agent answers there already.
    """

    def __init__(self, home: Paths) -> None:
        self.home = home
        self._known = ""  # digest of the site's file
        self._site = Fresh(home.site_file, self._read)
        self._allowed = Fresh(home.allowed, lambda _: bundle.allowed(home))
        self._callers = callers(home)
        site = self._site.now()
        self._lock = _alone(home)
        self.log = audit.Log(home.audit, keys.read_signing(home.signing_key), site.name)
        self.jobs: Jobs[Any] = Jobs(site.name)
        self.refusals = Refusals(FIRST, KINDS)
        self.service = Service(self._there, log=self.log, jobs=self.jobs, refusals=self.refusals)
        self._gate = threading.Semaphore(AT_ONCE)
        self._stop = threading.Event()
        parts.sweep(site)
        doing.forget(site.work)

    def _read(self, path: Path) -> Site:
        """The site of its file; that the file has changed is a line of the log, with the digest of what it is now."""
        digest, before = f"sha256:{digests.digest(path)}", self._known
        site = config.from_file(path)
        if before and digest != before:
            self.log.append("note", f"{path.name} changed", walls.POLICY, digest=digest)
        self._known = digest
        return site

    def serve(self) -> None:
        """Answer until `stop` is called."""
        home, name = self.home, self._site.now().name
        home.socket.unlink(missing_ok=True)
        home.socket_folder.mkdir(parents=True, exist_ok=True)
        with socket.socket(socket.AF_UNIX) as line:
            with client.short(home.socket) as address:
                line.bind(address)
            home.socket.chmod(0o660)
            line.listen(64)
            line.settimeout(0.2)
            self.log.append("note", "agent started", walls.POLICY, digest=self._known)
            log.info("the agent of %s answers on %s", name, home.socket)
            while not self._stop.is_set():
                self._settle()
                with contextlib.suppress(TimeoutError):
                    caller, _ = line.accept()
                    self._gate.acquire()
                    threading.Thread(target=self._serve, args=(caller,), daemon=True).start()
        home.socket.unlink(missing_ok=True)
        self._settle(end=True)
        self.log.append("note", "agent stopped")
        os.close(self._lock)

    def stop(self) -> None:
        """Answer no further call; what is being trained goes on from its checkpoint another time."""
        self._stop.set()
        self.jobs.close()

    def _serve(self, line: socket.socket) -> None:
        """One call."""
        try:
            with line:
                line.settimeout(READ_S)
                header = client.receive_header(line, "a caller")
                answer, payload = self._answer(line, header)
                line.settimeout(client.SPARE_S)
                client.send(line, answer, payload)
        except (OSError, EOFError) as error:
            log.info("a call ended early: %s", error)
        except Refused as error:  # no frame of ours
            if self.refusals.due("calls of another form", "a call"):
                self.log.append("refused", "a call", reason=str(error))
        except Exception:
            log.exception("a call failed")
        finally:
            self._gate.release()

    def _answer(self, line: socket.socket, header: dict[str, Any]) -> tuple[dict[str, Any], dict[str, bytes]]:
        """The answer to a call, as header and payloads of a frame."""
        op, name = _plain(header.get("op"))[:60], _plain(header.get("bundle"))[:80]
        uid = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
        try:
            if uid not in self._callers:
                kind, reason = "users who may not call", f"user {uid} may not call the agent"
                return self._refuse(line, header, op, kind, reason)
            if op == "hello":
                return {"task": {"site": self._there().name}}, {}
            if not self._permits(name):
                kind, reason = "bundles not allowed", f"the bundle {name or '(none named)'} is not allowed here"
                return self._refuse(line, header, op, kind, reason)
            payload = client.receive_payload(line, header, "a caller")
            answer = self.service.answer(op, _letter(header, payload))
        except Away as error:
            return {"away": str(error)}, {}
        except Failed as error:
            return {"failed": str(error)}, {}
        return {"task": answer.task, "note": answer.note, "head": answer.head}, answer.payload

    def _permits(self, name: str) -> bool:
        """Whether a bundle is on the list; a list that cannot be read allows nothing."""
        try:
            return name in self._allowed.now()
        except (OSError, FedmergeError) as error:
            log.warning("%s: %s", self.home.allowed.name, error)
            return False

    def _refuse(
        self, line: socket.socket, header: dict[str, Any], op: str, kind: str, reason: str
    ) -> tuple[dict[str, Any], dict[str, bytes]]:
        name = self._site.now().name
        if self.refusals.due(kind, op):
            self.log.append("refused", op, reason=reason)
            log.warning("refused %s: %s", op, reason)
        client.pass_over(line, header)
        return {"failed": f"{name}: {reason}"}, {}

    def _settle(self, *, end: bool = False) -> None:
        """Write the lines that count refusals; where the disk is full, they stay counted."""
        with contextlib.suppress(OSError, FedmergeError):
            self.refusals.settle(lambda sentence: self.log.append("refused", "calls", reason=sentence), end=end)

    def _there(self) -> Site:
        """The site as its file has it now.

        Raises:
            Away: the file cannot be used at the moment; somebody is editing it.
        """
        try:
            return self._site.now()
        except (OSError, FedmergeError) as error:
            log.error("%s", error)  # noqa: TRY400 - the sentence says it all
            raise Away("its site.toml cannot be used at the moment; `fedmerge site check` says why") from None


def _plain(value: object) -> str:
    """A text from outside, for logs: nothing in it begins a line of its own, or speaks to a terminal."""
    return "".join(c if c.isprintable() else "?" for c in str(value))


def _letter(header: dict[str, Any], payload: dict[str, bytes]) -> Letter:
    """The letter in a frame; what is of another kind than it should be counts as missing."""
    task, note = header.get("task"), header.get("note")
    return Letter(
        task if isinstance(task, dict) else {},
        payload,
        note if isinstance(note, dict) else {},
        str(header.get("head", ""))[:64],
        str(header.get("to", ""))[:80],
    )


def callers(home: Paths) -> set[int]:
    """The OS users who may call: the agent's own, and the node's where the site's file names one.

    Raises:
        ConfigError: there is no such user.
    """
    found = {os.getuid()}
    if node := homes.users(home).node:
        try:
            found.add(pwd.getpwnam(node).pw_uid)
        except KeyError:
            raise ConfigError(f"{home.site_file.name}, [users]: there is no user {node} on this machine") from None
    return found


def _alone(home: Paths) -> int:
    """A lock that the kernel lets go when this process ends, however it ends."""
    handle = os.open(home.private / "agent.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise ConfigError(f"{home.folder}: another agent is running") from None
    return handle


def main() -> int:
    """Answer for the home of the command line until SIGTERM."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m sites.agent HOME\n")
        return 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("fedmerge.progress").setLevel(logging.INFO)
    ctypes.CDLL(None).prctl(NOT_DUMPABLE, 0, 0, 0, 0)
    try:
        agent = Agent(Paths(Path(sys.argv[1]).absolute()))
    except (FedmergeError, OSError) as error:
        log.error("%s", error)  # noqa: TRY400 - the sentence says it all
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agent.stop())
    agent.serve()
    os._exit(0)  # a training in the middle of a step is not waited for: its checkpoint is on disk


if __name__ == "__main__":
    sys.exit(main())
