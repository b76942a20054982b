"""`fedmerge tensorboard`: curves and scores as event files."""

from pathlib import Path
from typing import Annotated

import typer

from fedmerge.cli import screen
from fedmerge.errors import DataError


def tensorboard(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="A run's folder, a hospital's home, or a site's working folder.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder of the event files.")],
) -> None:
    """Write learning curves and scores for TensorBoard, of what lies on this machine."""
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    with screen.warnings_as_sentences(bool(context.obj)):
        from fedmerge import events

        count = events.write(events.read(folder), out)
        screen.say(f"{count} runs: tensorboard --logdir {out}")
