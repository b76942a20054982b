"""`fedmerge mlflow`: curves and scores as runs of MLflow."""

from pathlib import Path
from typing import Annotated

import typer

from fedmerge.cli import screen
from fedmerge.errors import DataError


def mlflow(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="A run's folder, a hospital's home, or a site's working folder.")],
    *,
    to: Annotated[str, typer.Option("--to", help="A database file, made where it is missing, or a tracking URI.")],
    experiment: Annotated[str, typer.Option("--experiment", help="Name of the experiment; else the folder's.")] = "",
) -> None:
    """Write learning curves and scores for MLflow, of what lies on this machine."""
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    with screen.warnings_as_sentences(bool(context.obj)):
        from fedmerge import events, tracking

        name = experiment or folder.resolve().name
        count = tracking.write(events.read(folder), to, name)
        screen.say(f"{count} runs in '{name}': mlflow ui --backend-store-uri {tracking.address(to)}")
