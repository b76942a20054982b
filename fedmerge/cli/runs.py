"""`fedmerge run`, `stop` and `results`: campaigns of a consortium, from the coordinator's terminal."""

import contextlib
import logging
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmerge.cli import progress, screen, simulate
from fedmerge.cli.programs import SERVER
from fedmerge.errors import CampaignStopped, ConfigError

if TYPE_CHECKING:
    from server.home import Home
    from server.runs import Run

LOOK_S = 1.0
NAME = Annotated[str, typer.Argument(help="Name of the run; the newest one if none is given.")]


def run(
    context: typer.Context,
    campaign: Annotated[
        Path | None,
        typer.Argument(help="Campaign file (TOML) without hospitals' tables; with --name of a run: not needed."),
    ] = None,
    *,
    server: SERVER = None,
    name: Annotated[str, typer.Option("--name", help="Name of the run; else the campaign's.")] = "",
    extend: Annotated[
        str, typer.Option("--extend", help="Earlier run whose contributions are used where inputs agree.")
    ] = "",
    methods: Annotated[
        str, typer.Option("--methods", help="Methods to compare, with commas between; else the campaign's.")
    ] = "",
    seeds: Annotated[
        str, typer.Option("--seeds", help="Draws of the target's cases, as 0,1,2 or 0-4; seed 0 if not given.")
    ] = "",
    chains: Annotated[str, typer.Option("--chains", help="Independent trainings of the sources, as 0,1 or 0-2.")] = "",
    target_cases: Annotated[
        int, typer.Option("--target-cases", min=0, help="Training cases of the target; 0: the campaign's.")
    ] = 0,
    detach: Annotated[bool, typer.Option("--detach", help="Return at once; the server goes on by itself.")] = False,
) -> None:
    """Run a campaign between the hospitals of a consortium, and show how it goes until it is over."""
    from fedmerge import sessions
    from server import home as homes
    from server import runs, up

    if campaign is None and not name:
        raise ConfigError("which campaign? give its file, or with --name a run to go on with")
    home = homes.find(server)
    options = {
        "methods": ",".join(simulate.words(methods)),
        "seeds": ",".join(map(str, simulate.numbers(seeds, "--seeds"))),
        "chains": ",".join(map(str, simulate.numbers(chains, "--chains"))),
        "target-cases": target_cases,
    }
    begun = runs.submit(home, campaign, name, options, extend=extend)
    screen.complain(f"run '{begun.name}' is queued in {runs.folder(home, begun.name)}")
    if not sessions.is_up(up.state_file(home)):
        screen.complain(f"warning: the server is not up, so the run waits: fedmerge server up --server {home.folder}")
    if detach:
        return
    try:
        with progress.shown(bool(context.obj)):
            ended = follow(home, begun)
    except KeyboardInterrupt:
        told = f"the run goes on: fedmerge status shows it, fedmerge stop {begun.name} ends it"
        screen.complain(told)
        return
    if ended.state != "done":
        raise CampaignStopped(ended.words or f"the run '{ended.name}' was stopped")
    simulate.closing(runs.out(home, ended.name))


def follow(home: "Home", run: "Run") -> "Run":
    """Show what the server's app says and how far each site is, until the run is over; the record then."""
    from server import runs

    log = runs.out(home, run.name) / "log.txt"
    read = log.stat().st_size if log.exists() else 0
    words = ""
    while True:
        run = runs.read(home, run.name)
        read = _show(log, read)
        _show_progress(runs.progress(home, run.name))
        if run.over:
            return run
        if run.words != words:
            words = run.words
            if words:
                logging.getLogger("fedmerge").info("%s; it is tried again", words)
        time.sleep(LOOK_S)


def _show(log: Path, start: int) -> int:
    """Print the whole lines of a log from a byte on, without their date; where they end."""
    with contextlib.suppress(FileNotFoundError), log.open("rb") as file:
        file.seek(start)
        text, end, _ = file.read().rpartition(b"\n")
        for line in text.decode("utf-8", errors="replace").splitlines():
            found = re.match(r"\d{4}-\d\d-\d\d [\d:,]+ (\w+) (.*)", line)
            if found and found[1] in ("INFO", "WARNING"):
                logging.getLogger("fedmerge").info("%s", found[2])
        return start + len(text) + len(end)
    return start


def _show_progress(told: dict[str, object]) -> None:
    sites = told.get("sites")
    for site, facts in sites.items() if isinstance(sites, dict) else ():
        at = facts.get("progress")
        if at and at["total"]:
            extra = {"who": site, "what": at["what"], "done": at["done"], "total": at["total"]}
            logging.getLogger(progress.LOGGER).info("", extra=extra)


def stop(name: NAME = "", *, server: SERVER = None) -> None:
    """Stop a run; what it has finished is kept, and `fedmerge run` with the same name goes on."""
    from server import home as homes
    from server import runs

    home = homes.find(server)
    stopped = runs.stop(home, name or newest(home))
    screen.say(f"run '{stopped.name}' is {stopped.state}; fedmerge run --name {stopped.name} goes on with it.")


def results(name: NAME = "", *, server: SERVER = None) -> None:
    """Show the table of a finished run, and where its files are."""
    from server import home as homes
    from server import runs

    home = homes.find(server)
    chosen = runs.read(home, name or newest(home))
    folder = runs.out(home, chosen.name)
    if not (folder / "results.json").exists():
        raise ConfigError(f"run '{chosen.name}' has no results yet: it is {chosen.state} {chosen.words}".strip())
    simulate.closing(folder)


def newest(home: "Home") -> str:
    """The name of the run that was submitted last.

    Raises:
        ConfigError: there is none.
    """
    from server import runs

    names = runs.names(home)
    if not names:
        raise ConfigError(f"{home.folder} has no run yet; fedmerge run CAMPAIGN begins one")
    return names[-1]
