"""What a consortium's server runs: SuperLink and superexec on loopback, the front door, and the runner of campaigns.

superlink   Flower's server, on loopback: TLS, registered nodes only, its state in flower/state.db
superexec   starts the server's part of each campaign as a process of its own
door        the one port that the network reaches
runner      submits the campaigns, and again those that ended without a word; registers the roster's nodes
"""

from collections.abc import Callable
from pathlib import Path

from fedmerge import sessions, surroundings, units
from fedmerge.errors import ConfigError
from fedmerge.supervisor import Kept, Program, supervise
from server import superlink
from server.home import Home


def state_file(home: Home) -> Path:
    """What `server up` says of its programs."""
    return home.run / "state.json"


def programs(home: Home, port: int) -> list[Program]:
    """The four programs.

    Args:
        home: of the server.
        port: of the SuperLink.
    """
    env, logs = superlink.settings(home), home.run / "logs"
    door = surroundings.module("server.door", str(home.folder), "--superlink", f"127.0.0.1:{port}")
    runner = surroundings.module("server.runner", str(home.folder))
    return [
        *superlink.programs(home, port),
        Program("door", door, logs / "door.log", env, cwd=home.run, ready=lambda: surroundings.answers(home.port)),
        Program("runner", runner, logs / "runner.log", env, cwd=home.run, after=("superlink",)),
    ]


def up(home: Home, on_change: Callable[[Kept], None] | None = None) -> None:
    """Run the server until SIGTERM or SIGINT.

    Args:
        home: of the server.
        on_change: hears of each program that was started, became ready, or ended.

    Raises:
        ConfigError: it is up already, it was not made by `server init`, or the front door's port is taken.
    """
    for path in (home.authority, home.server_certificate, home.server_key, home.superexec_secret, home.roster):
        if not path.exists():
            raise ConfigError(f"{home.folder} has no {path.relative_to(home.folder)}; see fedmerge server init")
    home.run.mkdir(mode=0o700, exist_ok=True)
    port = superlink.choose_port(home)
    if sessions.is_up(state_file(home)):
        raise ConfigError(f"{home.folder} is up already; stop that one first")
    if not surroundings.is_free("0.0.0.0", home.port):  # noqa: S104 - where the door will listen
        raise ConfigError(f"port {home.port} is taken by another program; consortium.toml has the door's port")
    superlink.connect(home, port)
    supervise(programs(home, port), state_file(home), on_change=on_change)


def systemd(home: Home) -> str:
    """The unit of a server: one service, which is `fedmerge server up`."""
    service = units.Service(
        "fedmerge-server",
        f"fedmerge server of {home.name}",
        (surroundings.program("fedmerge"), "server", "up", "--server", str(home.folder)),
        user=home.folder.owner(),
        writable=(home.folder,),
        low_port=home.port < 1024,
    )
    return units.text(service)
