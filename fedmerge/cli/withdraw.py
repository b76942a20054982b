"""`fedmerge withdraw`, and the coordinator's word on weights that are held: `fedmerge server release`, `leave-out`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmerge.cli import screen
from fedmerge.errors import ConfigError

if TYPE_CHECKING:
    from server.home import Home

Server = Annotated[
    Path | None, typer.Option("--server", help="The server's home; else FEDMERGE_SERVER, or this folder.")
]
Run = Annotated[str, typer.Argument(help="Name of the run, or the folder of its results.")]
Site = Annotated[str, typer.Argument(help="Name of the source.")]


def withdraw(
    site: Site,
    *,
    server: Server = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be deleted, and delete nothing.")] = False,
) -> None:
    """Delete a site's contributions from all runs, and list the models that came from them."""
    from fedmerge.trust import dates
    from server import home as homes
    from server import record, withdrawal

    home = homes.find(server)
    found = withdrawal.look(home.runs, site)
    if not found.taken:
        raise ConfigError(f"no run of {home.name} has a contribution of {site}")
    if not dry_run:
        withdrawal.withdraw(found, home.runs, dates.text(time.time()), record.of(home))
    deleted = "to delete" if dry_run else "deleted"
    screen.table(
        ["run", f"contributions of {site}", "bytes"],
        [[one.run, one.digest[:23], f"{one.size:,} {deleted}"] for one in found.taken],
        left=2,
    )
    if found.heirs:
        screen.table(
            ["run", "came from them", "which", "where"],
            [[heir.run, heir.kind, heir.what, heir.where] for heir in found.heirs],
            left=4,
        )
    screen.say(
        f"{len(found.taken)} contributions {deleted}; what came from them ({len(found.heirs)}) stays where it is"
        + ("." if dry_run else ", and is in the audit log.")
    )


def release(run: Run, site: Site, *, server: Server = None) -> None:
    """Take the weights of a source that are held because they moved too far."""
    from fedmerge.trust import dates
    from server import holding

    home = _home(server)
    folder = holding.store_of(run, home.runs if home else None)
    names = holding.release(folder, site, dates.text(time.time()))
    _note(home, site, "weights released", f"by the coordinator, in the run {run}", names[0])
    screen.say(f"{site}: {len(names)} held contributions are released.")
    _go_on(home, run, folder)


def leave_out(run: Run, site: Site, *, server: Server = None) -> None:
    """Go on without a source in a run, from its next start on."""
    from fedmerge.trust import dates
    from server import holding

    home = _home(server)
    folder = holding.store_of(run, home.runs if home else None)
    holding.leave_out(folder, site, dates.text(time.time()))
    _note(home, site, "left out", f"by the coordinator, in the run {run}")
    screen.say(f"{site} is left out of the run {run}.")
    _go_on(home, run, folder)


def _home(server: Path | None) -> "Home | None":
    """The server's home where there is one: a simulation has none."""
    from server import home as homes

    try:
        return homes.find(server)
    except ConfigError:
        if server is not None:
            raise
        return None


def _go_on(home: "Home | None", run: str, folder: Path) -> None:
    """Queue the run of a server again, once the last word is said; a simulation is resumed by hand."""
    from server import holding, runs

    place = folder.absolute().parent.parent
    if waiting := holding.undecided(folder):
        screen.say(f"The run {run} waits for a word on {', '.join(waiting)}.")
    elif home is None or place.parent != home.runs or not (place / "run.json").exists():
        screen.say(f"Resume the run {run}.")
    elif runs.read(home, place.name).over:
        runs.submit(home, None, place.name)
        screen.say(f"The run {run} is queued again.")


def _note(home: "Home | None", site: str, what: str, reason: str, digest: str = "") -> None:
    from server import record

    if home is not None:
        record.of(home).note(site, what, reason, digest)
