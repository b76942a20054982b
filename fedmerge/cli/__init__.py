"""The command `fedmerge`: every function here unpacks its options, calls the library, and prints.

Torch, Flower and the rest are imported by the command that needs them, so that `fedmerge --help` answers at
once.
"""

import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from fedmerge import __version__
from fedmerge.cli import (
    allow,
    audit,
    audit_privacy,
    bench,
    check,
    consortium,
    dashboard,
    export,
    fuse,
    import_bundle,
    inspect,
    landmarks,
    mlflow,
    phantom,
    predict,
    programs,
    report,
    runs,
    screen,
    simulate,
    site_check,
    status,
    tensorboard,
    withdraw,
)

__all__ = ["app", "main"]

app = typer.Typer(
    name="fedmerge",
    help="One segmentation model for a hospital with few patients, merged from models of hospitals "
    "whose patients stay at home.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (
    simulate.simulate,
    report.report,
    dashboard.dashboard,
    bench.bench,
    check.check,
    phantom.phantom,
    fuse.fuse,
    inspect.inspect,
    landmarks.landmarks,
    predict.predict,
    import_bundle.import_bundle,
    export.export,
    tensorboard.tensorboard,
    mlflow.mlflow,
    audit_privacy.audit_privacy,
    runs.run,
    status.status,
    runs.stop,
    runs.results,
    withdraw.withdraw,
):
    app.command()(_command)

_Commands = tuple[Callable[..., None], ...]
SERVER: _Commands = (
    consortium.init,
    programs.server_up,
    consortium.approve,
    consortium.revoke,
    consortium.roster,
    consortium.renew,
    withdraw.release,
    withdraw.leave_out,
)
SITE: _Commands = (
    consortium.join,
    site_check.check,
    programs.site_up,
    allow.allow,
)
AUDIT: _Commands = (audit.verify, audit.show)
for _name, _help, _commands in (
    ("server", "The coordinator's side of a consortium.", SERVER),
    ("site", "A hospital's side of a consortium.", SITE),
    ("audit", "The record of what came, what left and what was refused.", AUDIT),
):
    _group = typer.Typer(name=_name, help=_help, no_args_is_help=True)
    for _member in _commands:
        _group.command(_member.__name__.removeprefix(f"{_name}_").replace("_", "-"))(_member)
    if _commands:
        app.add_typer(_group)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"fedmerge {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, and what is logged.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Options that stand before the command (`--debug` may stand anywhere)."""
    context.obj = debug
    screen.logging_to_stderr(debug)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 an error that a sentence explains, 1 an unexpected one.

    What the system refuses (a folder in place of a file, no permission, a full disk) is explained here, once.

    Args:
        arguments: what follows the command's name; the process's own arguments unless given.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    if debug:
        given = ["--debug", *(word for word in given if word != "--debug")]
    try:
        app(given, prog_name="fedmerge")
    except Exception as error:
        told = screen.sentence(error)
        unexpected = f"unexpected {type(error).__name__}: {error}; run with --debug for the traceback"
        screen.complain(traceback.format_exc() if debug else f"error: {told or unexpected}")
        sys.exit(2 if told else 1)
