"""What a hostile bundle tries at a hospital: to read data and keys, to reach into the agent, to change what decides.

Run by another user of the machine, or from inside a bundle; it needs nothing but Python.

    python looks_around.py HOME CASES PID_OF_THE_AGENT UID_OF_THE_AGENT
"""

# What is tried are the system calls, as bare as they are.
# ruff: noqa: PTH101, PTH104, PTH108, PTH123, PTH208, SIM115, S103

import ctypes
import errno
import json
import os
import socket
import sys


class Span(ctypes.Structure):
    """The kernel's iovec."""

    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]


def attempts(home, cases, pid, agent):
    """What came of each attempt: the name of the system's error, or "done".

    Args:
        home: the site's home.
        cases: the folder of its data.
        pid: of its agent.
        agent: the agent's user.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def checked(result):
        if result < 0:
            raise OSError(ctypes.get_errno(), "")
        return result

    def replace(path):
        fresh = f"{home}/node/fresh"
        with open(fresh, "w") as file:
            file.write("mine")
        os.rename(fresh, path)

    def listen():
        with socket.socket(socket.AF_UNIX) as line:
            line.bind(f"{home}/socket/mine.sock")

    def peek():
        buffer = ctypes.create_string_buffer(8)
        mine, other = Span(ctypes.cast(buffer, ctypes.c_void_p), 8), Span(ctypes.c_void_p(0x400000), 8)
        checked(libc.process_vm_readv(pid, ctypes.byref(mine), 1, ctypes.byref(other), 1, 0))

    tries = {
        "list the cases": lambda: os.listdir(cases),
        "read a case": lambda: open(f"{cases}/dataset.json").read(),
        "list private": lambda: os.listdir(f"{home}/private"),
        "read signing.key": lambda: open(f"{home}/private/signing.key").read(),
        "read sealing.key": lambda: open(f"{home}/private/sealing.key").read(),
        "read audit.jsonl": lambda: open(f"{home}/private/audit.jsonl").read(),
        "add to audit.jsonl": lambda: open(f"{home}/private/audit.jsonl", "a"),
        "read site.toml": lambda: open(f"{home}/site.toml").read(),
        "list run": lambda: os.listdir(f"{home}/run"),
        "the agent's mem": lambda: open(f"/proc/{pid}/mem", "rb").read(1),
        "the agent's maps": lambda: open(f"/proc/{pid}/maps").read(),
        "the agent's environ": lambda: open(f"/proc/{pid}/environ").read(),
        "the agent's files": lambda: os.listdir(f"/proc/{pid}/fd"),
        "the agent's root": lambda: os.listdir(f"/proc/{pid}/root"),
        "the agent's folder": lambda: os.listdir(f"/proc/{pid}/cwd/private"),
        "ptrace": lambda: checked(libc.ptrace(16, pid, 0, 0)),
        "process_vm_readv": peek,
        "kill": lambda: os.kill(pid, 9),
        "become the agent": lambda: os.setuid(agent),
        "become root": lambda: os.setuid(0),
        "open the socket's folder": lambda: os.chmod(f"{home}/socket", 0o777),
        "take the socket away": lambda: os.unlink(f"{home}/socket/agent.sock"),
        "listen beside it": listen,
        "a file in the home": lambda: open(f"{home}/x", "w"),
        "chmod private": lambda: os.chmod(f"{home}/private", 0o777),
    }
    for name in ("allowed.toml", "site.toml", "consortium.json", "commands/flwr-clientapp", "ca.crt"):
        if os.path.lexists(f"{home}/{name}"):
            tries[f"write {name}"] = lambda name=name: open(f"{home}/{name}", "a")
            tries[f"replace {name}"] = lambda name=name: replace(f"{home}/{name}")
    told = {}
    for name, attempt in tries.items():
        try:
            attempt()
            told[name] = "done"
        except OSError as error:
            told[name] = errno.errorcode.get(error.errno, str(error.errno))
    return told


if __name__ == "__main__":
    print(json.dumps(attempts(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
