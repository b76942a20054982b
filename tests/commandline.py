"""The command `fedmerge` in this process, and the list of its commands."""

import click
import pytest
import typer

from fedmerge import cli


def command(*words):
    """Run the command in this process; its exit code."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    return ended.value.code or 0


def leaves(group=None, before=""):
    """Name -> command, of all commands and those of the groups (`server init`)."""
    group = group or typer.main.get_command(cli.app)
    found = {}
    for name, command in group.commands.items():
        whole = f"{before}{name}"
        found |= leaves(command, f"{whole} ") if isinstance(command, click.Group) else {whole: command}
    return found
