"""What a Flower process has around it, at a hospital as at the server: its own home, no reports, no installation."""

import socket
import sys
from pathlib import Path


def settings(home: Path) -> dict[str, str]:
    """The environment variables of a Flower process, without what it inherits.

    Args:
        home: Flower's own folder (`FLWR_HOME`).
    """
    return {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",  # seconds; each message to a site waits for it
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def program(name: str) -> str:
    """The path of a command that was installed beside this Python."""
    return str(Path(sys.executable).parent / name)


def module(name: str, *arguments: str) -> list[str]:
    """The command that runs a module of ours; what lies in the working folder is not taken for a module."""
    return [sys.executable, "-P", "-m", name, *arguments]


def path_with(*folders: Path, inherited: str) -> str:
    """A search path of these folders, then this Python's own, then what was inherited."""
    return ":".join(dict.fromkeys([*map(str, folders), str(Path(sys.executable).parent), *inherited.split(":")]))


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(host: str, port: int) -> bool:
    """Whether a program could listen on this port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def answers(port: int) -> bool:
    """Whether a program listens on this port of the loopback interface."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=0.5).close()
    except OSError:
        return False
    return True
