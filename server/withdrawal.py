"""A site takes its contributions back: they go from the stores of all runs, and what came from them is named.

What others made of them cannot be taken back here: models that were merged from them, contributions of sites that were
trained from them in a chain, copies that a target has received. They are found by digest: rows and models name the
contributions that they were made of, and a contribution names the weights that its training started from.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedmerge import acceptance, campaign, container, contribution_cards, params, wire
from fedmerge.contribution import Contribution
from fedmerge.errors import ConfigError, FedmergeError
from server import holding, summed
from server.ground import STARTS
from server.made import SEALED
from server.record import Witness

PLACES = ("contributions", "reused")


@dataclass(frozen=True)
class Taken:
    """A contribution of the site in a run's store."""

    run: str
    path: Path
    digest: str
    size: int


@dataclass(frozen=True)
class Heir:
    """What came from the site's contributions.

    Attributes:
        run: the campaign.
        kind: `"merged model"`, `"fine-tuned model"`, `"contribution"` or `"copy"`.
        what: which one.
        where: a path on this server, or the site that has it.
        digests: of the contributions of the site that it came from.
    """

    run: str
    kind: str
    what: str
    where: str
    digests: tuple[str, ...]


@dataclass
class Withdrawal:
    """What was found, and is deleted or named."""

    site: str
    taken: list[Taken] = field(default_factory=list)
    heirs: list[Heir] = field(default_factory=list)


def look(runs: Path, site: str) -> Withdrawal:
    """Find a site's contributions in all runs, and what came from them. Nothing is changed.

    Args:
        runs: the folder of the runs, each with its `out`.
        site: the source.
    """
    found = Withdrawal(site, [one for run in _runs(runs) for one in _masked(run, site)])
    for run in _runs(runs):
        mine = [(path, c) for path, c in _contributions(run) if c.site == site]
        found.taken += [Taken(run.name, path, acceptance.name_of(path), path.stat().st_size) for path, _ in mine]
        for folder, facts in _sealed(run):
            if facts["site"] == site:
                found.taken += [
                    Taken(run.name, path, facts["digest"], path.stat().st_size) for path in sorted(folder.iterdir())
                ]
    digests = {one.digest for one in found.taken}
    for run in _runs(runs):
        origin = _descent(run, site, digests)
        found.heirs += _heirs(run, site, origin)
    return found


def withdraw(found: Withdrawal, runs: Path, now: str, witness: Witness) -> None:
    """Delete what `look` has found of the site itself, and write deleted and named things into the audit log.

    A run that had a contribution of the site goes on without the site when it is resumed.

    Args:
        found: from `look`.
        runs: the folder of the runs.
        now: the time that is written down.
        witness: the audit log.

    Raises:
        ConfigError: a run that uses them is under way.
    """
    names = {one.run for one in found.taken}
    for run in _runs(runs):
        if run.name in names and _under_way(run):
            raise ConfigError(f"the run {run.name} uses contributions of {found.site}: stop it first")
    for run in _runs(runs):
        if run.name in names:
            store = run / "out" / "server"
            holding.forget(store, found.site, now)
            for start in _starts(run, found.site):
                start.unlink()
            if (parts := store / "incoming" / found.site).exists():
                shutil.rmtree(parts)
    for one in found.taken:
        one.path.unlink()
        contribution_cards.path_of(one.path).unlink(missing_ok=True)
        witness.note(found.site, "contribution withdrawn", f"deleted from the store of the run {one.run}", one.digest)
    for heir in found.heirs:
        reason = f"{heir.kind} {heir.what} of the run {heir.run}, at {heir.where}, came from a withdrawn contribution"
        witness.note(found.site, "came from a withdrawn contribution", reason, heir.digests[0])


def _runs(folder: Path) -> Iterator[Path]:
    return iter(sorted(path for path in folder.glob("*") if (path / "out" / "server").is_dir()))


def _under_way(run: Path) -> bool:
    path = run / "run.json"
    state = json.loads(path.read_text(encoding="utf-8")).get("state") if path.exists() else ""
    return state in ("queued", "running", "stopping")


def _contributions(run: Path) -> Iterator[tuple[Path, Contribution]]:
    """The contributions in a run's store; a file that is none is passed over."""
    for place in PLACES:
        for path in sorted((run / "out" / "server" / place).glob("*.safetensors")):
            try:
                yield path, wire.read(path)
            except FedmergeError:
                continue


def _sealed(run: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """What a run's store has of contributions that nobody here can read: their folders, and what is known of them."""
    for path in sorted((run / "out" / "server" / SEALED).glob("*/made.json")):
        facts = json.loads(path.read_text(encoding="utf-8"))
        yield path.parent, facts


def _body(c: Contribution) -> str:
    """The digest of what a chain's next site starts from: P and the norms, the names that carry a Fisher."""
    return params.digest(params.split(c.weights, c.fisher)[0])


def _descent(run: Path, site: str, digests: set[str]) -> dict[str, tuple[str, ...]]:
    """Digest -> the digests of the site's contributions that it descends from, of all contributions of a run."""
    bodies: dict[str, tuple[str, ...]] = {}
    origin: dict[str, tuple[str, ...]] = {digest: (digest,) for _, digest in _sums_with(run, site)}
    waiting = [(acceptance.name_of(path), c.site, c.parent, _body(c)) for path, c in _contributions(run)]
    waiting += [(facts["digest"], facts["site"], facts["parent"], facts["body"]) for _, facts in _sealed(run)]
    for name, who, _, body in waiting:
        if who == site or name in digests:
            origin[name] = bodies[body] = (name,)
    grew = True
    while grew:
        grew = False
        for name, _, parent, body in waiting:
            if name not in origin and parent in bodies:
                origin[name] = bodies[body] = bodies[parent]
                grew = True
    return origin


def _heirs(run: Path, site: str, origin: dict[str, tuple[str, ...]]) -> Iterator[Heir]:
    """What came from the contributions that `origin` lists."""
    for path, c in _contributions(run):
        if c.site != site and (digests := origin.get(acceptance.name_of(path))):
            yield Heir(run.name, "contribution", f"of {c.site}, trained from it", str(path), digests)
    for folder, facts in _sealed(run):
        if facts["site"] != site and (digests := origin.get(facts["digest"])):
            yield Heir(run.name, "contribution", f"of {facts['site']}, trained from it", str(folder), digests)
    seen: set[tuple[str, str]] = set()
    for path in sorted((run / "out" / "models").rglob("*.safetensors")):
        kind = "fine-tuned model" if path.name.endswith(".fine-tuned.safetensors") else "merged model"
        label = path.name.removesuffix(".safetensors").rpartition(".")[0]
        seen.add((kind, f"{path.parent.name}/{label}"))
        if digests := _of(_card(path).get("contributions", []), origin):
            yield Heir(run.name, kind, label, str(path), digests)
    yield from _at_targets(run, site, origin, seen)


def _at_targets(run: Path, site: str, origin: dict[str, tuple[str, ...]], seen: set[tuple[str, str]]) -> Iterator[Heir]:
    """What the targets of a run hold: fine-tuned models that stayed with them, and in a near fit the contributions."""
    results = run / "out" / "results.json"
    rows = json.loads(results.read_text(encoding="utf-8"))["rows"] if results.exists() else []
    for row in rows:
        if row["stage"] == "fine-tuned" and row["status"] == "ok":
            method = str(row["method"]).replace(":", "-")
            label = f"{method}-seed{row['seed']}-chain{row['chain']}-n{row['target_cases']}"
            digests = _of(list(row.get("contributions", {}).values()), origin)
            if digests and ("fine-tuned model", f"{row['target']}/{label}") not in seen:
                yield Heir(run.name, "fine-tuned model", label, row["target"], digests)
    plan = run / "campaign.toml"
    table = campaign.read(plan) if plan.exists() else {}
    mine = _of(list(origin), origin)
    targets = [s["name"] for s in table.get("site", []) if s.get("role") == "target"]
    for group, digest in _sums_with(run, site):
        for target in targets:
            yield Heir(run.name, "copy", f"of the model of {group}, in which that of {site} is", target, (digest,))
    head = table.get("campaign", {})
    if mine and head.get("fit", "near") == "near" and not head.get("groups"):
        for target in targets:
            yield Heir(run.name, "copy", f"of the contribution of {site}, for the fit beside the data", target, mine)


def _of(names: Any, origin: dict[str, tuple[str, ...]]) -> tuple[str, ...]:  # noqa: ANN401 - whatever a file holds
    """The site's digests behind a list of digests."""
    known = [origin[name] for name in names if isinstance(name, str) and name in origin]
    return tuple(dict.fromkeys(digest for group in known for digest in group))


def _masked(run: Path, site: str) -> Iterator[Taken]:
    """A site's masked messages, and the sums that they are in."""
    for path in sorted((run / "out" / "server" / summed.SUMMED).glob(f"*/{site}.masked")):
        for one in (path, path.with_name(summed.TOTAL)):
            if one.exists():
                yield Taken(run.name, one, acceptance.name_of(one), one.stat().st_size)


def _sums_with(run: Path, site: str) -> Iterator[tuple[str, str]]:
    """The groups whose sum was opened with a site's model in it, and the digest of what came of each."""
    for path in sorted((run / "out" / "server" / summed.SUMMED).glob(f"*/{summed.OPENED}")):
        facts = json.loads(path.read_text(encoding="utf-8"))
        if site in facts["members"]:
            yield facts["group"], facts["digest"]


def _card(path: Path) -> dict[str, Any]:
    """The metadata of a model file; empty where it has none."""
    try:
        text = container.read_header(path).metadata.get("fedmerge", "{}")
        facts = container.parse(text, str(path))
    except FedmergeError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _starts(run: Path, site: str) -> list[Path]:
    """The files that held the site's body for the next one of a chain."""
    folder = run / "out" / "server" / STARTS
    bodies = {_body(c).removeprefix("sha256:") for _, c in _contributions(run) if c.site == site}
    return [path for body in bodies if (path := folder / f"{body}.safetensors").exists()]
