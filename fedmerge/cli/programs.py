"""`fedmerge server up` and `fedmerge site up`: their programs, and what the terminal shows of them."""

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmerge.cli import screen

if TYPE_CHECKING:
    from fedmerge.supervisor import Kept

SERVER = Annotated[
    Path | None,
    typer.Option("--server", help="Home of the server; else FEDMERGE_SERVER, else this folder."),
]
SYSTEMD = Annotated[
    bool, typer.Option("--systemd", help="Print units for systemd in place of running; nothing is started.")
]


def server_up(*, server: SERVER = None, systemd: SYSTEMD = False) -> None:
    """Run the server: SuperLink and superexec on loopback, the front door, and the runner of campaigns."""
    from server import home as homes
    from server import renewal, up

    home = homes.find(server)
    if systemd:
        screen.say(up.systemd(home))
        return
    for warning in renewal.warnings(home, time.time()):
        screen.complain(f"warning: {warning}", red=True)
    open_at = f"{home.name} is up: hospitals reach it at {', '.join(f'{host}:{home.port}' for host in home.hosts)}"
    up.up(home, told(("superlink", "superexec", "door", "runner"), open_at))
    screen.complain("stopped")


def site_up(
    *,
    home: Annotated[
        Path | None, typer.Option("--home", help="The site's folder; else FEDMERGE_SITE, else this folder.")
    ] = None,
    shared_user: Annotated[
        bool,
        typer.Option("--shared-user", help="Run all under this user: a bundle can then read data and keys."),
    ] = False,
    systemd: SYSTEMD = False,
) -> None:
    """Run the site: the agent with data and keys, Flower's node, and what starts the allowed bundles."""
    from sites import home as homes
    from sites import up

    here = homes.find(home)
    if systemd:
        screen.say(up.systemd(here, shared_user=shared_user))
        return
    if warning := up.make_ready(here, shared_user=shared_user):
        screen.complain(warning, red=True)
    names = ("agent", "roster", "supernode", "superexec")
    up.up(here, shared_user=shared_user, on_change=told(names, f"{here.name} is up, and asks {here.address} for work"))
    screen.complain("stopped")


def told(names: Sequence[str], when_all: str) -> Callable[["Kept"], None]:
    """What prints a line when a program becomes ready, when all are, and when one ends.

    Args:
        names: of the programs.
        when_all: what to say when all are ready.
    """
    ready: set[str] = set()

    def on_change(kept: "Kept") -> None:
        name, at = kept.program.name, f"{datetime.now():%H:%M:%S}"
        if kept.state == "running":
            again = f" again (restart {kept.restarts})" if kept.restarts else ""
            screen.complain(f"{at} {name} is ready{again}")
            whole = len(ready) < len(names)
            ready.add(name)
            if whole and len(ready) == len(names):
                screen.complain(f"{at} {when_all}")
        elif kept.state == "down":
            screen.complain(f"{at} {name} {kept.words}; it is started again")

    return on_change
