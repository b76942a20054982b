"""`fedmerge import-bundle`: a MONAI bundle as the start of a campaign."""

from pathlib import Path
from typing import Annotated

import typer

from fedmerge.cli import screen
from fedmerge.errors import ConfigError


def import_bundle(
    context: typer.Context,
    bundle: Annotated[Path, typer.Argument(help="Folder of a MONAI bundle.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="The weights, as safetensors.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out if it is there.")] = False,
) -> None:
    """Take net and weights of a MONAI bundle, and print the table [net] of a campaign that starts with them."""
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} exists already: --overwrite replaces it")
    with screen.warnings_as_sentences(bool(context.obj)):
        import tomli_w

        from fedmerge import monai_import, nets, partition
        from fedmerge.errors import NetError

        read = monai_import.read(bundle)
        monai_import.write(read, out)
        table = monai_import.table(read, out.name)
        screen.say(tomli_w.dumps({"net": table}).rstrip())
        if "patch" not in table:
            screen.say("# patch = [...]: the bundle does not say how large; any size that the net takes")
        channels = {key: read.settings[key] for key in ("in_channels", "out_channels")}
        try:
            partition.check_buffers(nets.on_meta(read.settings, **channels))
        except NetError as error:
            screen.complain(f"{error}: the campaign needs buffers = 're-estimate' in [campaign]")
