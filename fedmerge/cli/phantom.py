"""`fedmerge phantom`: synthetic hospitals as NIfTI files, and a campaign that runs on them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fedmerge.cli import progress, screen
from fedmerge.errors import ConfigError

HEADER = "# The synthetic hospitals beside this file, as a campaign: fedmerge simulate campaign.toml --out RUN\n\n"


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
    import tomli_w

    from fedmerge import campaign
    from sites import phantom as hospitals

    default = campaign.read(campaign.built_in())
    made = {site["name"]: drawn(site, cases, seed) for site in default["site"]}
    table = {**default, "site": [on_disk(site, made[site["name"]]["cases"]) for site in default["site"]]}
    folder.mkdir(parents=True, exist_ok=True)  # what cannot be written is told by this name
    with screen.warnings_as_sentences(bool(context.obj)), progress.shown(bool(context.obj)):
        for name, settings in made.items():
            hospitals.ensure(folder / name, **settings)
    path = folder / "campaign.toml"
    path.write_text(HEADER + tomli_w.dumps(table), encoding="utf-8")
    screen.say(f"{len(made)} hospitals in {folder}; to run them: fedmerge simulate {path} --out RUN")


def drawn(site: dict[str, Any], cases: int, seed: int) -> dict[str, Any]:
    """How a hospital of the default campaign is made: profile, cases, seed.

    Raises:
        ConfigError: too few cases for the target's own split.
    """
    data = site["data"]
    least = data.get("train", 1) + data.get("validate", 0) + 1
    if 0 < cases < least:
        raise ConfigError(
            f"--cases expected at least {least} ({site['name']} trains, validates and tests), got {cases}"
        )
    return {**data["phantom"], "cases": cases or data["phantom"]["cases"], "seed": seed}


def on_disk(site: dict[str, Any], cases: int) -> dict[str, Any]:
    """A site of the default campaign as one whose files exist, in the folder of its name."""
    data = {key: value for key, value in site["data"].items() if key != "phantom"}
    data |= {"folder": site["name"], "layout": "msd"}
    left = cases - data.get("train", cases * 3 // 4) - data.get("validate", 0)
    return {**site, "data": {**data, "test": min(data.get("test", 0), left)}}
