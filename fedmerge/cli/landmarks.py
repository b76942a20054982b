"""`fedmerge landmarks`: landmarks of a site's intensities, for its own histograms or for another site's."""

from pathlib import Path
from typing import Annotated

import typer

from fedmerge.cli import progress, screen
from fedmerge.errors import ConfigError


def landmarks(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Campaign file, or a hospital's own site.toml.")],
    *,
    site: Annotated[str, typer.Option("--site", help="Name of the site, of a campaign's several.")] = "",
    foreground: Annotated[
        str, typer.Option("--foreground", help="Voxels that percentiles are taken of: nonzero or otsu.")
    ] = "nonzero",
    seed: Annotated[int, typer.Option("--seed", help="Draw of the training cases.")] = 0,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder that replaces the data folder of every site.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="File that others may see, where the site's policy lets landmarks leave; "
            "else landmarks.json in the site's work folder.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")] = False,
) -> None:
    """Learn where the percentiles of a site's training images lie, and write them to a JSON file."""
    with screen.warnings_as_sentences(bool(context.obj)), progress.shown(bool(context.obj)):
        from sites import config, learning, records
        from sites import landmarks as files

        if foreground not in records.FOREGROUNDS:
            raise ConfigError(f"--foreground expected {' or '.join(records.FOREGROUNDS)}, got '{foreground}'")
        if site and out is None:
            raise ConfigError("--site needs --out: a simulated site has no folder of its own yet")
        if site:
            found = config.from_campaign(file, site, work=Path(site), data=data)
        else:
            found = config.from_file(file)
        path = out or found.work / "landmarks.json"
        if path.exists() and not overwrite:
            raise ConfigError(f"{path} exists already: --overwrite replaces it")
        train = learning.training(found, seed)
        if out is not None:
            learning.check_leaving(found, train)
        learnt = learning.landmarks(found, train, foreground)
        files.write(learnt, path)
    for name, values in learnt.channels:
        screen.say(f"{name}: " + ", ".join(f"{value:.1f}" for value in values))
    screen.say(f"{path}: landmarks of {learnt.cases} cases of {found.name}")
