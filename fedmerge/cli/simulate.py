"""`fedmerge simulate`: a whole campaign on this machine."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from fedmerge.cli import progress, screen
from fedmerge.errors import CampaignStopped, ConfigError, FedmergeError

MOST = 1000  # seeds or chains of one run


class Engine(StrEnum):
    """What carries the messages between server and sites."""

    inprocess = "inprocess"
    flower = "flower"


def simulate(
    context: typer.Context,
    campaign: Annotated[
        Path | None,
        typer.Argument(help="Campaign file (TOML); without one, synthetic hospitals are made and run."),
    ] = None,
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder for the results; new, unless --resume.")],
    methods: Annotated[
        str,
        typer.Option(
            "--methods",
            help="Methods to compare, with commas between; else the campaign's `methods`, else its `method`.",
        ),
    ] = "",
    seeds: Annotated[
        str,
        typer.Option("--seeds", help="Draws of the target's cases, as 0,1,2 or 0-4; seed 0 if not given."),
    ] = "",
    chains: Annotated[str, typer.Option("--chains", help="Independent trainings of the sources, as 0,1 or 0-2.")] = "",
    target_cases: Annotated[
        int, typer.Option("--target-cases", min=0, help="Training cases of the target; 0: the campaign's.")
    ] = 0,
    engine: Annotated[
        Engine, typer.Option("--engine", help="Carry messages in this process, or by Flower's simulation.")
    ] = Engine.inprocess,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run that --out holds; finished phases are kept.")
    ] = False,
    reuse: Annotated[
        Path | None,
        typer.Option("--from", help="Folder of an earlier run; its contributions are used where inputs agree."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder that replaces the data folder of every site.")
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Sites that work at the same time (in-process engine).")
    ] = 1,
) -> None:
    """Run a campaign: train the sources, merge, adapt and fine-tune at the target, compare methods."""
    for folder, option in ((reuse, "--from"), (data, "--data")):
        if folder is not None and not folder.is_dir():
            raise ConfigError(f"{option} expected a folder, got {folder}")
    if reuse is not None and not (reuse / "server").is_dir():
        raise ConfigError(f"--from expected the folder of an earlier run, got {reuse}, which holds none")
    config: dict[str, Any] = {
        "campaign": str(campaign.absolute()) if campaign else "",
        "out": str(out.absolute()),
        "methods": ",".join(words(methods)),
        "seeds": ",".join(map(str, numbers(seeds, "--seeds"))),
        "chains": ",".join(map(str, numbers(chains, "--chains"))),
        "target-cases": target_cases,
        "reuse": str(reuse.absolute()) if reuse else "",
        "data": str(data.absolute()) if data else "",
        "resume": resume,
        "workers": workers if engine is Engine.inprocess else 0,
    }
    refuse_another_run(out, resume)
    nodes = residents(config)
    try:
        with screen.warnings_as_sentences(bool(context.obj)), progress.shown(bool(context.obj)):
            _run(engine, config, nodes, workers)
    except KeyboardInterrupt:
        raise CampaignStopped(f"stopped by hand; what was finished is in {out}, and --resume continues") from None
    except FedmergeError as error:
        raise type(error)(explained(str(error), out)) from error
    closing(out)


def words(text: str) -> list[str]:
    """The parts between commas, without blanks."""
    return [word.strip() for word in text.split(",") if word.strip()]


def numbers(text: str, option: str) -> list[int]:
    """Whole numbers out of a text as "0,1,2" or "0-4", in order, each once.

    Raises:
        ConfigError: a part is neither a number nor a range, a range runs backwards, or there are too many.
    """
    found: dict[int, None] = {}
    for word in words(text):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", word, re.ASCII)
        if match is None:
            raise ConfigError(f"{option} expected whole numbers as in 0,1,2 or 0-4, got '{word}'")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ConfigError(f"{option} expected a range that begins with its smaller number, got '{word}'")
        found.update(dict.fromkeys(range(first, min(last, first + MOST) + 1)))
        if len(found) > MOST:
            raise ConfigError(f"{option} expected at most {MOST} numbers, got more with '{word}'")
    return list(found)


def refuse_another_run(out: Path, resume: bool) -> None:
    """Nothing of an earlier run is overwritten unasked.

    Raises:
        ConfigError: `out` is a file, or a folder that holds something although `resume` is not set.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out expected a folder, got the file {out}")
    if not resume and out.is_dir() and any(out.iterdir()):
        raise ConfigError(
            f"{out} is not empty: --resume continues the run that it holds, another --out starts a new one"
        )


def explained(sentence: str, out: Path) -> str:
    """A site tells the server only where in its own log the reason is; here that log can be opened.

    Args:
        sentence: an error of the campaign, perhaps with a site's reference at its end, as "[0123abcd]".
        out: the run's folder, with the sites' working folders in it.
    """
    reference = re.search(r"\[[0-9a-f]{8}\]$", sentence)
    if reference is None:
        return sentence
    for log in sorted(out.glob("sites/*/site.log")):
        entries = re.split(r"^(?=\d{4}-\d\d-\d\d )", log.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for entry in entries:
            if reference[0] in entry.partition("\n")[0]:
                before, _, after = entry.strip().splitlines()[-1].partition(reference[0])
                reason = (after or before).strip().removeprefix("refused: ")
                told = sentence.removesuffix(reference[0]).strip()
                return told if reason in told else f"{told}: {reason} ({log})"
    return sentence


def residents(config: dict[str, Any]) -> int:
    """How many sites run here; reads plan and sites, so that what is wrong is told before anything is written."""
    from fedmerge import campaign

    out = Path(config["out"])
    path, base = campaign.locate(config["campaign"], out)
    campaign.read(path)  # what is no campaign is told at once, before torch is imported

    from server import feasible, plan
    from sites import config as sites

    read = plan.read(path, base=base)
    methods = read.rows(config["methods"])
    for method in methods:
        feasible.check_method(read, method)
    data = Path(config["data"]) if config["data"] else None
    for name in read.residents:
        sites.from_campaign(path, name, work=out, data=data, base=base)
    if any(method.sources == "pooled" for method in methods):
        for target in read.targets:
            sites.pooled(path, work=out, data=data, base=base, target=target)
    return len(read.residents)


def _run(engine: Engine, config: dict[str, Any], nodes: int, workers: int) -> None:
    if engine is Engine.flower:
        from server import flower

        flower.run(config, nodes, Path(config["out"]) / "flwr")
        return
    from server import inprocess
    from server.app import app as server_app
    from sites.app import app as client_app

    inprocess.run(server_app, client_app, config, nodes, workers)


def closing(out: Path) -> None:
    """The table, what failed, and where everything lies."""
    from fedmerge import report

    results = report.read(out)
    lines = report.table(results)
    heading = report.heading(lines)
    cells = [report.cells(line, heading) for line in lines]
    screen.table(heading, cells, left=heading.index("method") + 1)
    for sentence in (*report.failures(lines), *report.remarks(results)):
        screen.say(sentence)
    for sentence in report.legend(results):
        screen.say(sentence)
    screen.say(f"Results: {out / 'results.md'}, with figures, models and predictions beside it.")
    screen.say(f"A page of it all, with the test cases where they are on this machine: fedmerge report {out}")
    if lines and all(line.failed == line.runs for line in lines):
        raise CampaignStopped(f"no method could be run; {out / 'results.md'} says why")
