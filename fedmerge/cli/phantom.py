"""`fedmerge phantom`: synthetic hospitals as NIfTI files, and a campaign that runs on them."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmerge.cli import progress, screen
from fedmerge.errors import ConfigError

if TYPE_CHECKING:
    from sites.cohort import Hospital

HEADER = "# The synthetic hospitals beside this file, as a campaign: fedmerge simulate campaign.toml --out RUN\n\n"
CASES = 36
"""Cases of each hospital that is made from label maps."""

CONTRASTS = "T1,T2"
CROP = 48

WHOLE = {"patch": [40, 48, 40], "spacing_mm": [4.0, 4.0, 4.0]}
"""Whole heads are too many voxels for a quick net: it sees them at twice their voxel size."""


def phantom(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Folder for the hospitals; new or empty.")],
    *,
    cases: Annotated[
        int, typer.Option("--cases", min=0, help="Cases of each hospital; 0: as the default campaign has.")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draw of the patients.")] = 0,
    from_labels: Annotated[
        Path | None,
        typer.Option("--from-labels", help="Folder of FreeSurfer label maps: real anatomy in place of made-up heads."),
    ] = None,
    contrasts: Annotated[
        str | None,
        typer.Option("--contrasts", help="With --from-labels: T1, T2, T1ce, FLAIR, with commas; else T1,T2."),
    ] = None,
    crop: Annotated[
        int | None,
        typer.Option("--crop", min=0, help="With --from-labels: voxels along each side; 0: whole heads; else 48."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="With --from-labels: processes; else one for each core.")
    ] = None,
) -> None:
    """Write synthetic hospitals as NIfTI (imagesTr, labelsTr, dataset.json) and a campaign.toml for them."""
    with screen.warnings_as_sentences(bool(context.obj)), progress.shown(bool(context.obj)):
        if from_labels is None:
            for option, value in (("--contrasts", contrasts), ("--crop", crop), ("--workers", workers)):
                if value is not None:
                    raise ConfigError(f"{option} goes with --from-labels")
            number = _made_up(folder, cases, seed)
        else:
            channels = tuple(name.strip() for name in (CONTRASTS if contrasts is None else contrasts).split(","))
            side = CROP if crop is None else crop
            number = _from_labels(folder, from_labels, cases or CASES, seed, channels, side, workers)
    path = folder / "campaign.toml"
    screen.say(f"{number} hospitals in {folder}; to run them: fedmerge simulate {path} --out RUN")
    if from_labels is not None:
        screen.say(f"to compare methods over seeds and chains: fedmerge bench {folder / 'anatomy.toml'}")


def _made_up(folder: Path, cases: int, seed: int) -> int:
    """The hospitals of the built-in campaign."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not an empty folder: choose another one")
    from fedmerge import campaign
    from sites import phantom as hospitals

    default = campaign.read(campaign.built_in())
    made = {site["name"]: drawn(site, cases, seed) for site in default["site"]}
    table = {**default, "site": [on_disk(site, made[site["name"]]["cases"]) for site in default["site"]]}
    folder.mkdir(parents=True, exist_ok=True)  # what cannot be written is told by this name
    for name, settings in made.items():
        hospitals.ensure(folder / name, **settings)
    _save(folder, table)
    return len(made)


def _from_labels(
    folder: Path, labels: Path, cases: int, seed: int, contrasts: tuple[str, ...], crop: int, workers: int | None
) -> int:
    """Hospitals with real anatomy; cases that are there with the same settings are kept."""
    from fedmerge import bench, campaign
    from sites import cohort, making

    plan = campaign.read(campaign.built_in("anatomy"))
    if crop % 2 ** (plan["net"]["depth"] - 1):
        raise ConfigError(f"--crop expected a multiple of {2 ** (plan['net']['depth'] - 1)} voxels, got {crop}")
    owner = folder / "campaign.toml"
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not _ours(owner))):
        raise ConfigError(f"{folder} is neither empty nor one of hospitals from label maps: choose another one")
    hospitals = [
        cohort.Hospital(site["name"], brains, cases, tuple(site["data"]["labels"]), contrasts, crop, seed=seed)
        for site, brains in zip(plan["site"], cohort.share(cohort.find(labels), seed), strict=True)
    ]
    for hospital in hospitals:
        cohort.check(hospital)
    sites = [placed(site, hospital) for site, hospital in zip(plan["site"], hospitals, strict=True)]
    patch = [crop] * 3 if crop else WHOLE["patch"]
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder, {**plan, "net": {**plan["net"], "patch": patch}, "site": sites})
    shutil.copyfile(Path(bench.__file__).with_name("anatomy.toml"), folder / "anatomy.toml")
    made = making.write(folder, hospitals, workers or os.cpu_count() or 1)
    screen.complain(f"{made} cases made, {sum(h.cases for h in hospitals) - made} kept")
    return len(hospitals)


def placed(site: dict[str, Any], hospital: "Hospital") -> dict[str, Any]:
    """A site of the campaign on real anatomy, with the cases that its hospital has.

    Raises:
        ConfigError: too few cases to train on.
    """
    from sites import cohort

    validate, test = cohort.parts(hospital, target=site["role"] == "target")
    data = {**site["data"], "test": test} | ({"validate": validate} if validate else {})
    if not hospital.crop:
        data["spacing_mm"] = WHOLE["spacing_mm"]
    left = len(hospital.ids) - len(validate) - len(test)
    if left < data.get("train", 1):
        raise ConfigError(
            f"--cases expected more: of {hospital.cases} at {hospital.name}, {left} are left to train"
            f" {data.get('train', 1)}"
        )
    return {**site, "data": data}


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


def _ours(path: Path) -> bool:
    """Whether a campaign file was written by this command, for hospitals from label maps."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    return text.startswith(HEADER) and 'name = "anatomy"' in text


def _save(folder: Path, table: dict[str, Any]) -> None:
    import tomli_w

    (folder / "campaign.toml").write_text(HEADER + tomli_w.dumps(table), encoding="utf-8")
