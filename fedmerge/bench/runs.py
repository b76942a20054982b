"""A suite's runs: which campaign each arm is, where each run lies, and whether it is finished.

A run is one campaign with one chain and one number of target cases. The runs of a chain follow each other, and each
may use the contributions of the one before it: target sizes, seeds and methods share the sources' work.
"""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmerge import __version__, campaign, fusion, results
from fedmerge.bench.suite import Arm, Suite
from fedmerge.errors import ConfigError, DataError


@dataclass(frozen=True)
class Run:
    """One campaign to run: an arm, a chain, a number of target cases.

    Attributes:
        campaign: the arm's campaign file.
        methods: as that campaign's own rows name them.
    """

    arm: str
    chain: int
    cases: int
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    campaign: Path
    out: Path

    @property
    def label(self) -> str:
        """For the reader of a log."""
        return f"{self.arm + ', ' if self.arm else ''}chain {self.chain}, {self.cases} cases"


def tables(arm: Arm, *, data: Path | None, hospitals: Path) -> dict[str, Any]:
    """The arm's campaign as tables, with changes made and paths that do not depend on where a file lies.

    Args:
        arm: which campaign, and what differs in it.
        data: a folder in place of that of every site (of phantoms: its parent).
        hospitals: where synthetic hospitals are made, if there are any.

    Raises:
        ConfigError: the campaign cannot be read, or a change is of a site that it does not have.
    """
    if isinstance(arm.campaign, Path):
        table, base = campaign.read(arm.campaign), arm.campaign.parent
    else:
        table, base = copy.deepcopy(arm.campaign), Path()
    sites = {site["name"]: site for site in table["site"]}
    for change in arm.changes:
        for name, site in change.get("site", {}).items():
            if name not in sites:
                raise ConfigError(f"a change expected one of the sites {', '.join(sites)}, got '{name}'")
            _lay(sites[name], site)
        _lay(table, {key: value for key, value in change.items() if key != "site"})
    for name in arm.drop:
        if sites.pop(name, None) is None:
            raise ConfigError(f"'drop' expected a site of the campaign, got '{name}'")
    table["site"] = [_placed(site, base, data, hospitals) for site in sites.values()]
    if "weights" in table.get("net", {}):
        table["net"]["weights"] = str((base / table["net"]["weights"]).resolve())
    return table


def _lay(table: dict[str, Any], change: Mapping[str, Any]) -> None:
    """Put the change over the table, table by table; a value replaces a value."""
    for key, value in change.items():
        if isinstance(value, Mapping) and isinstance(table.get(key), dict) and key not in ("labels", "pooled_labels"):
            _lay(table[key], value)
        else:
            table[key] = value


def _placed(site: dict[str, Any], base: Path, data: Path | None, hospitals: Path) -> dict[str, Any]:
    site = copy.deepcopy(site)
    if "contribution" in site:
        site["contribution"] = str((base / site["contribution"]).resolve())
    if "data" in site:
        own = site["data"]
        if "phantom" in own:
            folder = (data or hospitals) / site["name"]
        else:
            folder = data or base / str(own.get("folder", ""))
        own["folder"] = str(folder.resolve())
        listed = own.get("cases")
        if isinstance(listed, str) and listed != "all" and ":" not in listed:  # a file of ids
            own["cases"] = str((base / listed).resolve())
    return site


def task(table: Mapping[str, Any]) -> str:
    """The task of a campaign's tables."""
    named: str = table.get("campaign", {}).get("task", "segmentation")
    return named


def sources(table: Mapping[str, Any]) -> list[str]:
    """The sources of a campaign's tables."""
    return [site["name"] for site in table["site"] if site.get("role") == "source"]


def plan(suite: Suite, out: Path, methods: Mapping[str, Sequence[str]]) -> dict[int, list[Run]]:
    """Chain -> its runs, in the order in which they run.

    Args:
        suite: what to run.
        out: the bench's folder.
        methods: arm -> the methods that run in it.
    """
    return {
        chain: [
            Run(
                arm=arm.name,
                chain=chain,
                cases=cases,
                seeds=suite.seeds,
                methods=tuple(methods[arm.name]),
                campaign=campaign_file(out, arm.name),
                out=out / "runs" / (arm.name or "all") / f"chain-{chain}" / f"n-{cases}",
            )
            for arm in suite.arms
            for cases in suite.target_cases
        ]
        for chain in suite.chains
    }


def campaign_file(out: Path, arm: str) -> Path:
    """Where an arm's campaign lies."""
    return out / "campaigns" / f"{arm or 'all'}.toml"


def stamp(run: Run) -> str:
    """A digest over what a run was asked: the campaign, the methods as they are here, seeds, chain, cases."""
    table = campaign.read(run.campaign)
    rows = [repr(row) for row in fusion.expand(run.methods, sources(table))]
    asked = [__version__, run.campaign.read_text(encoding="utf-8"), rows, run.seeds, run.chain, run.cases]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def finish(run: Run) -> None:
    """Remember what the run's results are the results of."""
    (run.out / "asked.txt").write_text(stamp(run), encoding="utf-8")


def finished(run: Run) -> bool:
    """Whether the run's results are there, of exactly what is asked now, and no row of them failed."""
    try:
        asked = (run.out / "asked.txt").read_text(encoding="utf-8")
        rows = results.read(run.out)["rows"]
    except (OSError, DataError):
        return False
    return asked == stamp(run) and all(row["status"] == "ok" for row in rows)
