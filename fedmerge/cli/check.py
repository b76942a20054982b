"""`fedmerge check`: everything that can be found before training."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from fedmerge.cli import progress, screen
from fedmerge.errors import FedmergeError

if TYPE_CHECKING:
    from server.plan import Plan

T = TypeVar("T")
HEADING = ("site", "file", "", "what is wrong")


def check(
    context: typer.Context,
    campaign: Annotated[Path, typer.Argument(help="Campaign file (TOML).")],
    *,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder that replaces the data folder of every site.")
    ] = None,
) -> None:
    """Read every file of every site and say what would fail; nothing is trained."""
    from fedmerge import campaign as campaigns

    campaigns.read(campaign)  # what is no campaign is told at once, before torch is imported

    from fedmerge import nets
    from server import plan

    read = plan.read(campaign)
    nets.check_patch(read.net, read.patch)
    with screen.warnings_as_sentences(bool(context.obj)), progress.shown(bool(context.obj)):
        rows = findings(read, campaign, data)
    if rows:
        screen.table(HEADING, rows, left=len(HEADING))
    errors = sum(severity == "error" for _, _, severity, _ in rows)
    screen.say(f"{campaign}: {len(read.members)} sites, {errors} errors, {len(rows) - errors} warnings.")
    if errors:
        raise typer.Exit(2)


def findings(plan: "Plan", path: Path, data: Path | None) -> list[tuple[str, str, str, str]]:
    """(site, file, "error" or "warning", sentence) for all that can be found without training."""
    from fedmerge import contribution, wire
    from sites import config, preflight

    rows: list[tuple[str, str, str, str]] = []

    def attempt(site: str, file: str, work: Callable[[], T]) -> list[T]:
        try:
            return [work()]
        except FedmergeError as error:
            rows.append((site, file, "error", str(error)))
            return []

    sites, given = [], []
    with tempfile.TemporaryDirectory() as work:
        for member in plan.members:
            if stored := member.contribution:
                given += attempt(member.name, stored.name, lambda stored=stored: wire.read(stored))  # type: ignore[misc]
            if not member.resident:
                continue
            own = Path(work) / member.name
            sites += attempt(
                member.name,
                path.name,
                lambda name=member.name, own=own: config.from_campaign(path, name, work=own, data=data),  # type: ignore[misc]
            )
        patch = plan.patch if len(plan.patch) == 3 else None
        for site in sites:
            rows += [(f.site, f.file, f.severity, f.sentence) for f in preflight.check(site, patch)]
        rows += [(f.site, f.file, f.severity, f.sentence) for f in preflight.agree(sites)]
        if any(method.sources == "pooled" for method in plan.rows()):
            attempt("", path.name, lambda: config.pooled(path, work=Path(work), data=data))
    if len(given) > 1:
        attempt("", path.name, lambda: contribution.common_ancestor(given))
    return rows
