"""`fedmerge site allow`: which of the coordinator's bundles may run at this site."""

from pathlib import Path
from typing import Annotated

import typer

from fedmerge.cli import screen


def allow(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="The bundle, a .fab file; without one, that of the installed version of fedmerge."),
    ] = None,
    *,
    home: Annotated[
        Path | None, typer.Option("--home", help="The site's home; else $FEDMERGE_SITE, else this folder.")
    ] = None,
    remove: Annotated[str, typer.Option("--remove", help="Digest of a bundle that may no longer run.")] = "",
    show: Annotated[bool, typer.Option("--list", help="Only show the list.")] = False,
) -> None:
    """Let a bundle run at this site: the server's code, known by its digest."""
    from fedmerge import __version__
    from fedmerge import bundle as bundles
    from sites import bundle as gate
    from sites import home as homes

    here = homes.find(home)
    if remove:
        gate.forbid(here, remove)
        screen.say(f"{remove} may no longer run.")
    elif not show:
        data = bundles.build() if bundle is None else bundle.read_bytes()
        note = f"fedmerge {__version__}, as installed here" if bundle is None else bundle.name
        screen.say(f"{gate.allow(here, data, note)} may run.")
    listed = gate.allowed(here)
    screen.table(("bundle", "note"), list(listed.items()) or [("none", "no bundle runs at this site")], left=2)
