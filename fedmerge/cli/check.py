"""`fedmerge check`: everything that can be found before training."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from fedmerge.cli import progress, screen
from fedmerge.errors import FedmergeError


def check(
    context: typer.Context,
    campaign: Annotated[Path, typer.Argument(help="Campaign file (TOML).")],
    *,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder that replaces the data folder of every site.")
    ] = None,
) -> None:
    """Read every file of every site and say what would fail; nothing is trained."""
    from server import plan
    from sites import config, preflight

    read = plan.read(campaign)
    rows: list[list[str]] = []
    sites = []
    with (
        screen.warnings_as_sentences(bool(context.obj)),
        progress.shown(bool(context.obj)),
        tempfile.TemporaryDirectory() as work,
    ):
        for name in read.residents:
            try:
                site = config.from_campaign(campaign, name, work=Path(work) / name, data=data)
                found = preflight.check(site)
            except FedmergeError as error:
                rows.append([name, campaign.name, "error", str(error)])
                continue
            sites.append(site)
            rows += [[f.site, f.file, f.severity, f.sentence] for f in found]
        rows += [[f.site, f.file, f.severity, f.sentence] for f in preflight.agree(sites)]
    if rows:
        screen.table(["site", "file", "", "what is wrong"], rows, left=4)
    errors = sum(row[2] == "error" for row in rows)
    screen.say(f"{campaign}: {len(read.residents)} sites read, {errors} errors, {len(rows) - errors} warnings.")
    if errors:
        raise typer.Exit(2)
