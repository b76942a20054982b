"""`fedmerge audit-privacy`: the attacks that a site runs on its own contribution before it leaves."""

import dataclasses
import hashlib
import json
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmerge.cli import progress, screen
from fedmerge.errors import ConfigError, DataError

if TYPE_CHECKING:
    from fedmerge.privacy.inversion import Likeness
    from server.plan import Plan
    from sites.attack import Audit, Drawn, Recipe
    from sites.records import Site
    from sites.scores import Finding

FORMAT = "fedmerge-privacy-audit/1"
HEADING = ("attack", "members", "others", "AUC (95 %)", "TPR at 1 % FPR (95 %)", "verdict")
COLOURS = {"above": "bold red", "too few to tell": "yellow", "below": "green"}


def audit_privacy(
    context: typer.Context,
    campaign: Annotated[Path, typer.Argument(help="Campaign file (TOML).")],
    *,
    site: Annotated[str, typer.Option("--site", help="Name of the site whose contribution it is.")],
    contribution: Annotated[
        Path, typer.Option("--contribution", help="The contribution, as the site keeps it in contributions/.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for audit.json and inversion.png.")],
    home: Annotated[
        Path | None,
        typer.Option("--home", help="Home of a hospital's site, whose site.toml tells data and policy."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder that replaces the data folder of the site.")
    ] = None,
    references: Annotated[
        int, typer.Option("--references", min=0, help="Reference models to train for LiRA; even, from 4. 0: no LiRA.")
    ] = 0,
    inversion: Annotated[int, typer.Option("--inversion", min=0, help="Steps of gradient inversion; 0: none.")] = 0,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", min=0.0, max=1.0, help="AUC that is tolerated; else the policy's max_attack_auc."),
    ] = None,
    chain: Annotated[int, typer.Option("--chain", min=0, help="Chain of the run that the contribution is of.")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Of reference models and inversion.")] = 0,
) -> None:
    """Attack a site's contribution with its own patients; ends with 1 where an attack works better than allowed."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out expected a folder, got the file {out}")
    if references % 2 or references == 2:
        raise ConfigError(f"--references expected 0 or an even number from 4, got {references}")
    if not contribution.is_file():
        raise DataError(f"{contribution}: there is no such file")
    with (
        screen.warnings_as_sentences(bool(context.obj)),
        progress.shown(bool(context.obj)),
        tempfile.TemporaryDirectory() as work,
    ):
        from fedmerge import devices, wire
        from sites import attack

        read, who = asked(campaign, site, home, data, Path(work))
        made, named = wire.read(contribution), hashlib.sha256(contribution.read_bytes()).hexdigest()
        with devices.threads(read.threads), devices.using(who.hardware):
            audit = attack.Audit(who, made, recipe(read, made.cases, site, chain, seed))
            findings = audit.membership(references)
            drawn = audit.inversion(inversion) if inversion else None
    tolerated = who.policy.max_attack_auc if threshold is None else threshold
    out.mkdir(parents=True, exist_ok=True)
    table = report(audit, findings, drawn, tolerated) | {"contribution": f"sha256:{named}"}
    (out / "audit.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    screen.table(HEADING, rows(table), left=1, colours=COLOURS)
    for told in table["attacks"]:
        if told["why"]:
            screen.say(f"{told['attack']} was not run: {told['why']}.")
    if drawn is not None:
        picture(drawn, out / "inversion.png")
        screen.say(inverted(table["inversion"]))
        screen.say(f"{out / 'inversion.png'} shows a patient: it stays at the site.")
    above = [told["attack"] for told in table["attacks"] if told["verdict"] == "above"]
    screen.say(f"{site}: {' and '.join(above) or 'no attack'} above an AUC of {tolerated:g}; {out / 'audit.json'}")
    if above:
        raise typer.Exit(1)


def asked(path: Path, name: str, home: Path | None, data: Path | None, work: Path) -> "tuple[Plan, Site]":
    """The campaign's plan, and the site as the campaign file or its own file describes it.

    Raises:
        ConfigError: a file says something impossible, or the home is another site's.
    """
    from fedmerge import campaign as campaigns

    campaigns.read(path)  # what is no campaign is told at once, before torch is imported

    from server import plan
    from sites import config
    from sites import home as homes

    if home is None:
        return plan.read(path), config.from_campaign(path, name, work=work, data=data)
    found = homes.open(home)
    if found.name != name:
        raise ConfigError(f"--home is the home of {found.name}, expected {name}")
    return plan.read(path, deployed=True), config.from_file(found.site_file)


def recipe(plan: "Plan", trained_on: int, site: str, chain: int, seed: int) -> "Recipe":
    """What the plan says of how a source with so many cases trains.

    Raises:
        ConfigError: it trains on whole volumes, which the attacks do not know.
    """
    from fedmerge.training import Settings
    from server.training import seed_of
    from sites.attack import Recipe

    if plan.field != "centre":
        raise ConfigError(
            f"{site}: the attacks are made for cases that the net sees at once, and [net] field is '{plan.field}'; "
            "docs/attacks.md says what is known of patches around the centre"
        )
    return Recipe(
        patch=plan.patch,
        settings=Settings(**plan.train.settings(trained_on)),
        fisher_cases=plan.train.fisher_cases,
        draws=seed_of(plan.seed, chain, site),
        seed=seed,
        buffers=plan.buffers,
        precision=plan.precision,
    )


def report(audit: "Audit", findings: "list[Finding]", drawn: "Drawn | None", threshold: float) -> dict[str, Any]:
    """What `audit.json` holds, as docs/attacks.md has it."""
    from fedmerge.privacy import separation

    told = []
    for finding in findings:
        found = dataclasses.asdict(finding.roc) if finding.roc else dict.fromkeys(roc_keys())
        verdict = separation.verdict(finding.roc, threshold) if finding.roc else "not run"
        told.append({"attack": finding.attack, **found, "verdict": verdict, "why": finding.why})
    inversion = None
    if drawn is not None:
        inversion = {"found": likeness(drawn.found), "baseline": likeness(drawn.baseline)}
    return {
        "format": FORMAT,
        "site": audit.site.name,
        "contribution": "",
        "threshold": threshold,
        "fisher": audit.made.fisher_labels,
        "attacks": told,
        "inversion": inversion,
    }


def likeness(found: "Likeness") -> dict[str, float | None]:
    """As JSON has it, which knows no infinity."""
    return {"ncc": found.ncc, "psnr": found.psnr if math.isfinite(found.psnr) else None}


def roc_keys() -> list[str]:
    """The numbers of an attack, in their order."""
    from fedmerge.privacy.separation import Roc

    return [field.name for field in dataclasses.fields(Roc)]


def rows(table: dict[str, Any]) -> list[tuple[str, ...]]:
    """The cells of the table, a line an attack that was run."""
    found: list[tuple[str, ...]] = []
    for told in table["attacks"]:
        if told["auc"] is None:
            continue
        area = f"{told['auc']:.3f} ({between(told['auc_interval'])})"
        rate = f"{told['tpr']:.2f} ({between(told['tpr_interval'])})"
        if told["least_fpr"] > 0.01:
            rate += f" at 0 of {told['others']}"
        found.append((told["attack"], str(told["members"]), str(told["others"]), area, rate, told["verdict"]))
    return found


def between(interval: tuple[float, float]) -> str:
    """The ends of an interval."""
    return " to ".join(f"{end:.2f}" for end in interval)


def inverted(found: dict[str, dict[str, float]]) -> str:
    """One sentence on the image that came back."""
    mine, mean = found["found"]["ncc"], found["baseline"]["ncc"]
    words = "nearer to the patient than" if mine > mean else "no nearer to the patient than"
    return f"Gradient inversion: correlation {mine:.2f}, {words} the mean image of the others ({mean:.2f})."


def picture(drawn: "Drawn", path: Path) -> None:
    """The patient, what came back, and the mean of the others."""
    from fedmerge.figures import inversion, style

    images = {
        "the patient": drawn.image,
        f"from the gradient, {drawn.found.ncc:.2f}": drawn.back,
        f"mean of the others, {drawn.baseline.ncc:.2f}": drawn.mean,
    }
    style.save(inversion.draw(images), path)
