"""`fedmerge site check`: everything that could stand in a site's way, in one table, each line with its remedy."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmerge.cli import progress, screen

if TYPE_CHECKING:
    from sites.findings import Asked

HEADING = ("check", "", "what was found", "what to do")
COLOURS = {"ok": "green", "warning": "yellow", "off": "bold red", "error": "bold red"}


def check(
    context: typer.Context,
    *,
    home: Annotated[
        Path | None, typer.Option("--home", help="Folder of the site; else FEDMERGE_SITE, else this folder.")
    ] = None,
    campaign: Annotated[
        Path | None,
        typer.Option("--campaign", help="Campaign file from the coordinator, to be held against site and policy."),
    ] = None,
) -> None:
    """Look at data, policy, disk, clock, network, roster and users, and say what to do about each."""
    from sites import checkup
    from sites import home as homes

    found = homes.find(home)
    wanted = asked(campaign) if campaign else None
    with screen.warnings_as_sentences(bool(context.obj)), progress.shown(bool(context.obj)):
        lines = checkup.check(found, wanted)
    screen.table(
        HEADING,
        [(line.check, line.result, line.found, line.remedy) for line in lines],
        left=len(HEADING),
        colours=COLOURS,
    )
    counts = Counter(line.result for line in lines)
    off = "; the separation is off" if counts["off"] else ""
    screen.say(f"{found.name}: {counts['error']} errors, {counts['warning']} warnings{off}.")
    if counts["error"]:
        raise typer.Exit(2)


def asked(path: Path) -> "Asked":
    """What a campaign file asks of a site.

    Raises:
        ConfigError: it is no campaign.
    """
    from fedmerge import campaign as campaigns

    table = campaigns.read(path)  # what is no campaign is told at once, before torch is imported

    from fedmerge import nets
    from server import plan
    from sites import declared
    from sites.findings import Asked
    from sites.room import Load

    here = any("data" in site for site in table["site"])
    read = plan.read(path, deployed=not here)
    like = nets.on_meta(read.net, in_channels=1, out_channels=2)
    told = {site["name"]: site["data"] for site in table["site"] if site.get("data", {}).get("labels")}
    return Asked(
        name=read.name,
        net=str(read.net["name"]),
        patch=read.patch,
        roles={member.name: member.role for member in read.members},
        labels={
            name: tuple(declared.labels(data, "labels", f"{path}: {name}", str(data.get("layout", "msd")))[0])
            for name, data in told.items()
        },
        load=Load(sum(p.numel() for p in like.parameters()), len(read.sources), rows=len(read.rows())),
        field=read.field,
    )
