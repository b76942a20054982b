"""`fedmerge export`: a model's card, and the model as a MONAI bundle."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmerge.cli import predict, screen
from fedmerge.errors import ConfigError, DataError

if TYPE_CHECKING:
    from fedmerge.results import Results


def export(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="A fine-tuned model that a campaign left (safetensors).")],
    *,
    card: Annotated[Path | None, typer.Option("--card", help="Write the model's card, in Markdown.")] = None,
    monai: Annotated[Path | None, typer.Option("--monai", help="Write a MONAI bundle into this new folder.")] = None,
    run: Annotated[Path | None, typer.Option("--run", help="The run's folder; else the one that holds it.")] = None,
    title: Annotated[str, typer.Option("--title", help="The model's name; else the file's.")] = "",
    licence: Annotated[str, typer.Option("--licence", "--license", help="An SPDX name, or a sentence.")] = "",
    use: Annotated[str, typer.Option("--use", help="What the model is for; else: research.")] = "",
    pseudonyms: Annotated[bool, typer.Option("--pseudonyms", help="Call sites by numbers, not by name.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the card if it is there.")] = False,
) -> None:
    """Write what others need to use a model: its card, and a bundle that MONAI's own tools run."""
    if card is None and monai is None:
        raise ConfigError("nothing to write: expected --card FILE, --monai DIR, or both")
    if not model.is_file():
        raise DataError(f"{model}: there is no such file")
    if card is not None and card.exists() and not overwrite:
        raise ConfigError(f"{card} exists already: --overwrite replaces it")
    with screen.warnings_as_sentences(bool(context.obj)):
        from fedmerge import cards, monai_export, params, whole

        net, info = predict.load(model)
        told = cards.Told(title or model.name.removesuffix(".safetensors"), licence, use, pseudonyms)
        weights = params.of(net)
        count = sum(value.numel() for value in weights.values())
        text = cards.markdown(info, count, params.digest(weights), told, _results(model, run))
        if monai is not None:
            monai_export.write(monai, net, info, told, text)
            screen.say(str(monai))
        if card is not None:
            whole.write(card, text.encode())
            screen.say(str(card))


def _results(model: Path, run: Path | None) -> "Results | None":
    """The results of the run that made a model; None where they are not at hand."""
    from fedmerge import results

    folder = run or model.absolute().parent.parent.parent  # RUN/models/TARGET/MODEL
    if run is None and not (folder / "results.json").exists():
        return None
    return results.read(folder)
