"""The ServerApp: run config -> plan -> strategy -> results on disk."""

import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w
import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedmerge import campaign, report
from fedmerge.errors import ConfigError, FedmergeError
from fedmerge.trust.roster import Roster
from server import consortium, record, verdict
from server import home as homes
from server import plan as plans
from server.inprocess import InProcessGrid
from server.store import Store
from server.strategy import FedMerge

app = ServerApp()
log = logging.getLogger("fedmerge")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the campaign of the run config; results lie in its folder `out`."""
    run = context.run_config
    out = campaign.folder(str(run.get("out", "")))
    path, base = campaign.locate(str(run.get("campaign", "")), out)
    out.mkdir(parents=True, exist_ok=True)
    if not isinstance(grid, InProcessGrid):  # a process of Flower's own: its stream of lines is all that the user sees
        stream = logging.StreamHandler(sys.stdout)
        stream.setFormatter(logging.Formatter("[fedmerge] %(message)s"))
        log.addHandler(stream)
    handler = logging.FileHandler(out / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with verdict.running(out):
            verdict.forget(out)
            try:
                _run(grid, run, out, path, base)
            except Exception as error:  # but not the end of the process, which leaves no word
                if isinstance(error, FedmergeError):
                    log.error("%s", error)  # noqa: TRY400 - the sentence says it all
                else:
                    log.exception("the campaign ended unexpectedly")
                verdict.tell(out, verdict.of(error))
                raise
            verdict.tell(out, verdict.DONE)
    finally:
        log.removeHandler(handler)
        handler.close()


def _run(grid: Grid, run: Mapping[str, Any], out: Path, path: Path, base: Path) -> None:
    deployed = not campaign.residents(campaign.read(path))
    plan = plans.read(path, base=base, deployed=deployed)
    torch.set_num_threads(plan.threads)
    reuse = str(run.get("reuse", ""))
    strategy = FedMerge(
        plan,
        Store(out / "server", Path(reuse) / "server" if reuse else None),
        methods=plan.rows(str(run.get("methods", ""))),
        seeds=_numbers(run.get("seeds", ""), "seeds"),
        chains=_numbers(run.get("chains", ""), "chains"),
        target_cases=int(run.get("target-cases", 0)),
        at_once=int(run.get("workers", 0)) or os.cpu_count() or 1,
        witness=_witness(out, plan.name) if deployed else None,
        roster=_roster(out) if deployed else None,
    )
    strategy.start(grid)
    resolved = _absolute(strategy.results["campaign"], base, str(run.get("data", "")))
    (out / "campaign.toml").write_text(tomli_w.dumps(resolved), encoding="utf-8")
    report.write(strategy.results, out)
    log.info("results in %s", out)


def _witness(out: Path, name: str) -> record.Witness | None:
    """What writes into the audit log of the server's home in which a run lies, at `runs/NAME/out`."""
    home = homes.Paths(out.parent.parent.parent)
    return record.of(home, name) if home.consortium_file.exists() else None


def _roster(out: Path) -> Roster | None:
    """The roster of the server's home in which a run lies."""
    folder = out.parent.parent.parent
    if not homes.Paths(folder).consortium_file.exists():
        return None
    return consortium.current(homes.open(folder), time.time())


def _numbers(given: Any, what: str) -> tuple[int, ...]:  # noqa: ANN401 - run configs hold text or numbers
    """A list like "0,1,2"; nothing means 0."""
    try:
        numbers = tuple(int(n) for n in str(given).split(",") if n.strip()) or (0,)
    except ValueError:
        raise ConfigError(f"{what} expected whole numbers with commas, like 0,1,2, got {given!r}") from None
    if min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise ConfigError(f"{what} expected different numbers of at least 0, got {given!r}")
    return numbers


def _absolute(table: dict[str, Any], base: Path, data: str) -> dict[str, Any]:
    """The campaign with folders that do not depend on where the file lies; `data` replaced every site's folder."""
    sites = []
    for site in table["site"]:
        copy = {**site}
        if "data" in copy:
            folder = Path(data or base / copy["data"].get("folder", "")).absolute()
            if data and copy["data"].get("phantom"):
                folder = folder / copy["name"]
            copy["data"] = {**copy["data"], "folder": str(folder)}
            listed = copy["data"].get("cases")
            if isinstance(listed, str) and listed != "all" and ":" not in listed:  # a file of ids
                copy["data"]["cases"] = str((base / listed).absolute())
        if "contribution" in copy:
            copy["contribution"] = str((base / copy["contribution"]).absolute())
        sites.append(copy)
    return {**table, "site": sites}
