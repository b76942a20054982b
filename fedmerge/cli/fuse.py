"""`fedmerge fuse`: merge files that one already has."""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fedmerge.cli import screen
from fedmerge.errors import ConfigError


class FileMethod(StrEnum):
    """The methods that need no training: their ratios are uniform or given."""

    mean = "mean"
    imm_mode = "imm-mode"


RULES = {FileMethod.mean: "mean", FileMethod.imm_mode: "mode"}


def fuse(
    context: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(help="Models or contributions (safetensors), two or more.", show_default=False),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", help="The merged model, a safetensors file.")],
    method: Annotated[
        FileMethod,
        typer.Option("--method", help="mean: of the weights; imm-mode: weighted by each model's Fisher."),
    ] = FileMethod.mean,
    ratios: Annotated[
        str, typer.Option("--ratios", help="A weight for each file, as 0.3,0.7; equal unless given.")
    ] = "",
    fisher: Annotated[
        list[Path] | None,
        typer.Option("--fisher", help="Fisher file of each model, in order, where the files hold none; repeat."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file --out if there is one.")] = False,
) -> None:
    """Merge weights files name by name, in little memory."""
    from fedmerge.fusion import files as fusion_files

    if len(files) < 2:
        raise ConfigError(f"a merge needs two files or more, got {len(files)}")
    if out.is_dir():
        raise ConfigError(f"--out expected a file, got the folder {out}")
    if fisher and method is FileMethod.mean:
        raise ConfigError(f"--fisher belongs to --method imm-mode: mean uses no Fisher, got {len(fisher)} files of it")
    for path in (*files, *(fisher or ())):
        if path.is_dir():
            raise ConfigError(f"{path}: expected a safetensors file, got a folder")
        if not path.is_file():
            raise ConfigError(f"{path}: there is no such file")
        if out.exists() and out.samefile(path):
            raise ConfigError(f"--out is {path} itself, which is being merged: choose another file")
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} exists already: --overwrite replaces it")
    with screen.warnings_as_sentences(bool(context.obj)):
        report = fusion_files.fuse_files(
            files,
            out,
            rule=RULES[method],
            ratios=weights(ratios, len(files)),
            fishers=fisher or None,
            metadata={"method": method.value, "of": [path.name for path in files]},
        )
    screen.say(f"{out}: {len(report.fused)} tensors merged from {len(files)} files by {method.value}.")
    if report.copied:
        screen.say(f"copied, being equal in all files and no floats: {', '.join(report.copied)}")
    for name, reason in report.left.items():
        screen.say(f"left out: {name}: {reason}")
    for told in strangers(files, report.fused):
        screen.complain(f"warning: {told}")


def strangers(files: Sequence[Path], names: Sequence[str]) -> Iterator[str]:
    """A sentence for each file of plain weights that shows no sign of a start in common with the first.

    Contributions say what they began from, and were refused if that differs.
    """
    from safetensors import safe_open

    from fedmerge.cli.inspect import Weights
    from fedmerge.fusion import alike

    with safe_open(files[0], framework="pt") as opened:
        first = Weights(opened, "")
        for path in files[1:]:
            with safe_open(path, framework="pt") as another:
                other = Weights(another, "")
                if not all(name in first and name in other for name in names):
                    continue
                found = alike.cosine(first, other, names)
                if found is not None and found < alike.STRANGERS:
                    yield (
                        f"{files[0]} and {path} do not look as if their trainings had begun at the same weights "
                        f"(cosine {found:.2f}): what comes of them may be no model. docs/alignment.md has what helps"
                    )


def weights(text: str, count: int) -> list[float] | None:
    """The numbers between commas; None for an empty text.

    Raises:
        ConfigError: not `count` finite numbers of at least 0, or all of them 0.
    """
    if not text:
        return None
    try:
        found = [float(word) for word in text.split(",")]
    except ValueError:
        raise ConfigError(f"--ratios expected numbers as in 0.3,0.7, got '{text}'") from None
    if len(found) != count:
        raise ConfigError(f"--ratios expected {count} numbers, one a file, got {len(found)}")
    if not all(0 <= number < float("inf") for number in found) or sum(found) <= 0:
        raise ConfigError(f"--ratios expected numbers of at least 0, not all 0, got '{text}'")
    return found
