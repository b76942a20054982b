"""`fedmerge dashboard`: a page that shows a running campaign, on this machine only."""

import contextlib
import os
import tempfile
import webbrowser
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmerge.cli import screen
from fedmerge.errors import ConfigError

if TYPE_CHECKING:
    from fedmerge.cli.watched_server import NoRun, ServerRun
    from fedmerge.dashboard.board import Boards
    from server.home import Home

LEFT = ("server", "sites", "results.json", "log.txt")  # one of these is in the folder of every run that has begun


def dashboard(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of a run, home of a server or of a site; else FEDMERGE_SERVER, FEDMERGE_SITE, this folder."
        ),
    ] = None,
    *,
    run: Annotated[str, typer.Option("--run", help="Of a server's home: the run to show first; else the newest.")] = "",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port on 127.0.0.1; 0: any free one.")] = 0,
    browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in this user's browser.")] = False,
) -> None:
    """Show a running campaign as a page on this machine: sites, timeline, curves, traffic, messages."""
    from fedmerge.dashboard import serving

    shown = boards(path if path is not None else usual(), run)
    line = serving.listen(port)
    application = serving.Application(shown, line.getsockname()[1], serving.Secrets())
    screen.say(f"The dashboard is at {application.address}")
    screen.complain("Whoever has this address may look, on this machine only. Ctrl-C ends it.")
    with _opened(application.address) if browser else contextlib.nullcontext(), contextlib.suppress(KeyboardInterrupt):
        serving.server(application).run(sockets=[line])
    screen.complain("stopped")


def usual() -> Path:
    """The home in the environment, or this folder."""
    from server import home as servers
    from sites import home as sites

    return Path(os.environ.get(servers.VARIABLE) or os.environ.get(sites.VARIABLE) or Path.cwd())


def boards(path: Path, run: str = "") -> "Boards":
    """What is shown of a path.

    Args:
        path: a run's folder, which may not have begun; a server's home, or a run's folder in it; a site's home.
        run: of a server's home: which one is shown first.

    Raises:
        ConfigError: it is none of these, or there is no such run.
    """
    from fedmerge.dashboard.board import Boards
    from server import home as servers
    from sites import home as sites

    if servers.Paths(path).consortium_file.exists():
        return of_server(servers.open(path), run)
    if (path / "run.json").exists() and servers.Paths(path.absolute().parent.parent).consortium_file.exists():
        return of_server(servers.open(path.absolute().parent.parent), run or path.absolute().name)
    if run:
        raise ConfigError(f"--run is for a server's home, which {path} is not")
    if sites.Paths(path).site_file.exists():
        from fedmerge.cli.watched_site import Site

        site = Site(path)
        return Boards(dict, lambda _: site)
    from fedmerge.cli.watched_run import Run

    if (path.exists() and not path.is_dir()) or not path.absolute().parent.is_dir():
        raise ConfigError(f"expected the folder of a run, the home of a server or of a site, got {path}")
    if path.is_dir() and any(path.iterdir()) and not any((path / name).exists() for name in LEFT):
        raise ConfigError(
            f"{path} is neither a run's folder nor a home: it has no {', '.join(LEFT[:-1])} or {LEFT[-1]}"
        )
    real = servers.Paths(path.absolute().parent.parent.parent).consortium_file.exists()  # runs/NAME/out of a home
    watched = Run(path, simulated=not real)
    return Boards(dict, lambda _: watched)


def of_server(home: "Home", run: str) -> "Boards":
    """The runs of a server's home.

    Raises:
        ConfigError: there is no such run.
    """
    from fedmerge.cli.watched_server import Consortium, NoRun, ServerRun
    from fedmerge.dashboard.board import Boards
    from server import runs

    if run:
        runs.read(home, run)
    consortium = Consortium(home)

    def states() -> dict[str, str]:
        return {name: runs.read(home, name).state for name in runs.names(home)}

    def watch(name: str) -> "ServerRun | NoRun":
        return ServerRun(consortium, name) if name else NoRun(consortium)

    return Boards(states, watch, run)


@contextlib.contextmanager
def _opened(address: str) -> Iterator[None]:
    """Open the page in the user's browser, by a file that only this user can read.

    The address is no argument of the browser's: every user of the machine could read that.
    """
    with tempfile.TemporaryDirectory(prefix="fedmerge-") as folder:
        page = Path(folder) / "dashboard.html"
        page.touch(mode=0o600)
        page.write_text(f'<!DOCTYPE html><meta http-equiv="refresh" content="0;url={escape(address)}">\n')
        webbrowser.open(page.as_uri())
        yield
