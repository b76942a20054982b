"""`fedmerge check`: everything that can be found before training."""

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from fedmerge.cli import progress, screen
from fedmerge.errors import FedmergeError

if TYPE_CHECKING:
    from fedmerge.contribution import Contribution
    from fedmerge.fusion import Method
    from server.plan import Plan
    from sites.records import Site

T = TypeVar("T")
HEADING = ("site", "file", "", "what is wrong")


def check(
    context: typer.Context,
    campaign: Annotated[Path, typer.Argument(help="Campaign file (TOML).")],
    *,
    methods: Annotated[
        str,
        typer.Option(
            "--methods",
            help="Methods to be compared, with commas between; else the campaign's `methods`, else its `method`.",
        ),
    ] = "",
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder that replaces the data folder of every site.")
    ] = None,
) -> None:
    """Read every file of every site and say what would fail; nothing is trained."""
    from fedmerge import campaign as campaigns

    campaigns.read(campaign)  # what is no campaign is told at once, before torch is imported

    from server import feasible, plan

    read = plan.read(campaign)
    asked = read.rows(methods)
    for method in asked:
        feasible.check_method(read, method)
    with screen.warnings_as_sentences(bool(context.obj)), progress.shown(bool(context.obj)):
        rows, told = findings(read, campaign, data, asked)
    for sentence in told:
        screen.say(sentence)
    if rows:
        screen.table(HEADING, rows, left=len(HEADING))
    errors = sum(severity == "error" for _, _, severity, _ in rows)
    screen.say(f"{campaign}: {len(read.members)} sites, {errors} errors, {len(rows) - errors} warnings.")
    if errors:
        raise typer.Exit(2)


def findings(
    plan: "Plan", path: Path, data: Path | None, methods: "Sequence[Method]"
) -> tuple[list[tuple[str, ...]], list[str]]:
    """(site, file, "error" or "warning", sentence) for all that training would find; what it reads, what it will do."""
    from fedmerge import contribution, wire
    from server import given as given_files
    from sites import config, described, explaining, preflight
    from sites.looking import Tally

    rows: list[tuple[str, ...]] = []

    def attempt(site: str, file: str, work: Callable[[], T]) -> list[T]:
        try:
            return [work()]
        except (FedmergeError, OSError) as error:
            rows.append((site, file, "error", screen.sentence(error)))
            return []

    sites, given = [], []
    told: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for member in plan.members:
            who = member.name
            if member.contribution:
                given += attempt(who, member.contribution.name, partial(given_files.read, member.contribution, who))
            if member.resident:
                read = partial(config.from_campaign, path, who, work=work / who, data=data)
                sites += attempt(who, path.name, read)
        for site in sites:
            seen = Tally()
            found = preflight.check(site, plan.patch, seen, field=plan.field)
            rows += [(f.site, f.file, f.severity, f.sentence) for f in found]
            with contextlib.suppress(FedmergeError):  # the rows have said why
                told.append(described.layout(site, seen))
            told += [f"{site.name}: {sentence}." for sentence in explaining.explain(site, plan.patch, plan.field)]
        rows += [(f.site, f.file, f.severity, f.sentence) for f in preflight.agree(sites)]
        for target in plan.targets if any(method.sources == "pooled" for method in methods) else ():
            attempt(target, path.name, partial(config.pooled, path, work=work, data=data, target=target))
        if plan.weights is None or attempt("", plan.weights.name, partial(wire.read_model, plan.weights)):
            file = path if plan.weights is None else plan.weights
            attempt("", file.name, partial(common_ground, plan, sites, given, work))
    if len(given) > 1:
        attempt("", path.name, partial(contribution.common_ancestor, given))
    return rows, told


def common_ground(plan: "Plan", sites: "Sequence[Site]", given: "Sequence[Contribution]", work: Path) -> None:
    """Divide the net between the tasks, and start it from the plan's weights.

    Raises:
        FedmergeError: `specific` or `fusable` do not fit the tasks' nets, or the weights are of another net.
    """
    from server import ground
    from server.store import Store

    tasks = {c.site: (len(c.channels), c.labels) for c in given}
    tasks |= {site.name: (len(site.data.modalities), tuple(site.data.labels)) for site in sites}
    regions = {c.site: c.regions for c in given} | {site.name: site.data.answered for site in sites}
    if all(channels for channels, _ in tasks.values()) and plan.targets[0] in tasks:  # else it was told why not
        ground.Ground(plan, Store(work), {}, ground.divide(plan, tasks, regions), {}).ancestor(0)
