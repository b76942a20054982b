"""`fedmerge phantom`: synthetic hospitals as NIfTI files, and a campaign that runs on them."""

from pathlib import Path
from typing import Annotated

import typer

from fedmerge.cli import progress, screen
from fedmerge.errors import ConfigError


def phantom(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Folder for the hospitals; new or empty.")],
    *,
    cases: Annotated[
        int, typer.Option("--cases", min=0, help="Cases of each hospital; 0: as the default campaign has.")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draw of the patients.")] = 0,
) -> None:
    """Write synthetic hospitals as NIfTI (imagesTr, labelsTr, dataset.json) and a campaign.toml for them."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not an empty folder: choose another one")
    with screen.warnings_as_sentences(bool(context.obj)), progress.shown(bool(context.obj)):
        written = write(folder, cases, seed)
    screen.say(f"{written}: run it with `fedmerge simulate {written} --out RUN`")


def write(folder: Path, cases: int, seed: int) -> Path:
    """Write the default campaign's hospitals and a campaign file beside them; returns the file."""
    raise NotImplementedError
