"""`fedmerge bench`: a suite of campaigns, each chain in a process of its own, and one page about all of them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmerge.cli import chains, progress, screen, simulate, slices
from fedmerge.errors import CampaignStopped, ConfigError, FedmergeError

if TYPE_CHECKING:
    from fedmerge.bench.runs import Run
    from fedmerge.bench.suite import Suite

Runs = Mapping[int, Sequence["Run"]]


def bench(
    context: typer.Context,
    suite: Annotated[str, typer.Argument(help="Name of a suite (any other word lists them), or a suite's file.")],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder of the bench; runs/bench-SUITE if not given. What it holds is gone on with."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder that replaces the data folder of every site.")
    ] = None,
    methods: Annotated[
        str, typer.Option("--methods", help="Methods in place of the suite's, with commas; development suites only.")
    ] = "",
    processes: Annotated[
        int, typer.Option("--processes", min=0, help="Chains that run at the same time; 0: one a core.")
    ] = 0,
) -> None:
    """Run a suite of campaigns over methods, target sizes, seeds and chains; the same command again goes on."""
    from fedmerge.bench import suite as suites

    if data is not None and not data.is_dir():
        raise ConfigError(f"--data expected a folder, got {data}")
    read = suites.read(suite)
    asked = simulate.words(methods)
    if asked and read.stage == "evidence":
        raise ConfigError(f"{read.name} is evidence: its methods are those of its file, --methods is for development")
    out = (out or Path("runs") / f"bench-{read.name}").absolute()
    runs, sources = prepare(read, out, data, asked)
    cores = os.cpu_count() or 1
    at_once = min(processes or cores, len(runs))
    try:
        with screen.warnings_as_sentences(bool(context.obj)), progress.shown(bool(context.obj)):
            failures = chains.run(runs, at_once, workers=max(1, cores // at_once))
    except KeyboardInterrupt:
        raise CampaignStopped(f"stopped by hand; what was finished is in {out}, and the same command goes on") from None
    if failures:
        raise CampaignStopped("; ".join(failures) + f". What was finished is in {out}, and the same command goes on")
    closing(read, out, [run for chain in runs.values() for run in chain], sources)


def prepare(
    suite: "Suite", out: Path, data: Path | None, asked: Sequence[str]
) -> tuple[dict[int, list["Run"]], dict[str, list[str]]]:
    """Write the arms' campaigns and check all that can be checked before anything is trained.

    Returns:
        chain -> its runs; arm -> its sources.

    Raises:
        FedmergeError: the folder holds something else, a method is unknown, a campaign or its data cannot be used.
    """
    import tomli_w

    from fedmerge import fusion
    from fedmerge.bench import runs, verdicts
    from fedmerge.bench.suite import expand

    _own(suite, out)
    methods, sources, tasks = {}, {}, {}
    for arm in suite.arms:
        place = f"{suite.name}{', arm ' + arm.name if arm.name else ''}"
        try:
            table = runs.tables(arm, data=data, hospitals=out / "hospitals")
            tasks[arm.name] = runs.task(table)
            _same(tasks, arm.name)
            sources[arm.name] = runs.sources(table)
            rows = fusion.expand(list(asked) or list(suite.methods), sources[arm.name])
            methods[arm.name] = [row.name for row in rows]
            path = runs.campaign_file(out, arm.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(tomli_w.dumps(table), encoding="utf-8")
            _look(path, methods[arm.name], suite.target_cases, out)
        except FedmergeError as error:
            raise type(error)(f"{place}: {error}") from None
    try:
        expand([suite.reference], sources)
        verdicts.pairs(suite.hypotheses, sources)
    except FedmergeError as error:
        raise ConfigError(f"{suite.name}: {error}") from None
    (out / "suite.toml").write_text(suite.text, encoding="utf-8")
    return runs.plan(suite, out, methods), sources


def _same(tasks: Mapping[str, str], arm: str) -> None:
    """An arm has the task of the first one.

    Raises:
        ConfigError: it has not.
    """
    first = next(iter(tasks))
    if tasks[arm] != tasks[first]:
        raise ConfigError(f"a suite is of one task: expected {tasks[first]} as in the arm {first}, got {tasks[arm]}")


def _own(suite: "Suite", out: Path) -> None:
    """The folder is new, or this suite's.

    Raises:
        ConfigError: it holds something else, or evidence of another text of the suite.
    """
    known = out / "suite.toml"
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not known.exists())):
        raise ConfigError(f"{out} is not the folder of a bench: --out names another one")
    if known.exists() and suite.stage == "evidence" and known.read_text(encoding="utf-8") != suite.text:
        raise ConfigError(
            f"{out} holds a run of '{suite.name}' as it was before its file changed: evidence is run once"
        )
    out.mkdir(parents=True, exist_ok=True)


def _look(path: Path, methods: Sequence[str], sizes: Sequence[int], out: Path) -> None:
    """Read plan and sites of a campaign, and make synthetic hospitals once, before several processes need them."""
    config: dict[str, Any] = {"campaign": str(path), "out": str(out), "methods": ",".join(methods), "data": ""}
    simulate.residents(config)

    from server import plan
    from sites import cases
    from sites import config as sites

    read = plan.read(path)
    for name in read.residents:
        site = sites.from_campaign(path, name, work=out)
        if site.data.phantom is None and not site.data.folder.is_dir():
            raise ConfigError(f"{name}: there is no folder {site.data.folder}; --data DIR names another one")
        chosen = cases.select(cases.find(site.data), site.data.cases)
        for size in sizes if name in read.targets else ():
            cases.split(chosen, site.data, seed=0, target_cases=size)


def closing(suite: "Suite", out: Path, runs: Sequence["Run"], sources: Mapping[str, Sequence[str]]) -> None:
    """Gather the results, write JSON and page, print the table."""
    from fedmerge import results
    from fedmerge.bench import gather, page

    found = gather.gather(suite, runs, sources)
    gather.write(found, out)
    shown = slices.figure(results.read(runs[0].out), runs[0], suite.reference.partition("@")[0])
    page.write(found, out, shown)
    heading, rows = page.main_table(found)
    screen.table(heading, rows, left=2)
    for verdict in found.verdicts:
        screen.say(f"{verdict.verdict}: {verdict.text}")
    for sentence in found.failures:
        screen.say(sentence)
    screen.say(f"Page: {out / 'bench.html'}; figures for programs: {out / 'bench.json'}")
