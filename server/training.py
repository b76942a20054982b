"""The first phase as conversations: sources train in a chain or side by side, `pooled` on all their cases at once.

A source that is absent, fails, or is refused twice (`contributing`) is left out where the plan says so, and stops the
campaign where it does not.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedmerge import acceptance, distance, fusion, params, tasks
from fedmerge.errors import CampaignStopped, Refused
from server import holding
from server.contributing import contribution
from server.exchange import Conversation
from server.ground import Ground
from server.made import Made, Start
from server.store import key
from server.wanted import POOLED, Job

log = logging.getLogger("fedmerge")

PRIVATE = ("epsilon", "delta", "dp_clip", "dp_noise")
CARRIED = ("trust", "run", "sealed", "keys", "epoch")  # how it travels, which changes nothing of what is made


def chain(ground: Ground, number: int, way: str = "plain") -> Conversation:
    """Each source starts from the one before it that took part; the first from the ancestor."""
    yield from _along(ground, number, way, source)


def another(ground: Ground, number: int, way: str) -> Conversation:
    """A chain of some sources, once all have trained; where one of them cannot, its reason is noted and no more."""
    try:
        yield from _along(ground, number, way, _trained)
    except (CampaignStopped, Refused) as error:
        log.warning("chain %d, %s cannot be had: %s", number, way, error)
        ground.gone[number, way] = str(error)


def _along(ground: Ground, number: int, way: str, ask: Callable[..., Conversation]) -> Conversation:
    """Ask the sources of the way's chain, each with what the one before it made."""
    start = Start.of(ground.ancestor(number))
    before: list[str] = []
    _, only = fusion.parted(way)
    order = only or ground.plan.sources
    for i, name in enumerate(order):
        yield from ask(ground, name, number, start, way, before, then=order[i + 1 :])
        if (made := ground.made.get((number, ground.named(name, way)))) is not None:
            start = made.start(ground.nets[name])
            before.append(name)


def side_by_side(ground: Ground, number: int, way: str = "plain") -> list[Conversation]:
    """Every source starts from the ancestor, or from an initialisation of its own."""
    ancestor = Start.of(ground.ancestor(number))
    return [
        source(ground, name, number, _own(ground, number, name) if way == "own" else ancestor, way)
        for name in ground.plan.sources
    ]


def sources(ground: Ground, number: int, way: str = "plain") -> list[Conversation]:
    """The sources' training as the way has it, or the plan's schedule."""
    training, _ = fusion.parted(way)
    chained = training in fusion.CHAINED or (way == "plain" and ground.plan.schedule == "chain")
    return [chain(ground, number, way)] if chained else side_by_side(ground, number, way)


def source(
    ground: Ground,
    name: str,
    number: int,
    start: Start,
    way: str = "plain",
    before: Sequence[str] = (),
    otherwise: Mapping[str, Any] | None = None,
    then: Sequence[str] = (),
) -> Conversation:
    """One source: a stored contribution where there is one, else the site trains; or the campaign goes on without.

    Args:
        ground: the campaign.
        name: the source.
        number: the chain.
        start: what it starts from.
        way: how it trains (`fusion.Method.way`).
        before: the sources of its chain that have trained already.
        otherwise: fields of the task that differ from the plan's (`server.rounds`).
        then: the sources of its chain that train after it.
    """
    since = holding.words(ground.store.folder)["left-out"].get(name)
    if since and not ground.why(number, name):
        ground.leave(name, f"left out by the coordinator on {since}")
    if ground.why(number, name):
        return
    if name in ground.given:
        _given(ground, name, number, start)
        return
    try:
        yield from _trained(ground, name, number, start, way, before, otherwise, then)
    except (CampaignStopped, Refused) as error:  # absent, failed or declined; or what it sent was refused
        if ground.plan.absent != "without":
            raise
        ground.leave(name, str(error), number)


def settle(ground: Ground, chains: tuple[int, ...], ways: Sequence[str] = ("plain",)) -> None:
    """Once the sources have trained: is there enough to go on with?

    Raises:
        CampaignStopped: a chain has lost all its sources; names each with its reason.
    """
    for number in chains:
        if ground.plan.sources and not any(ground.sources(number, way) for way in ways):
            reasons = "; ".join(f"{name}: {ground.why(number, name)}" for name in ground.plan.sources)
            raise CampaignStopped(f"chain {number} has no source left: {reasons}")


def _own(ground: Ground, number: int, name: str) -> Start:
    """An initialisation of the source's own, the same in every run."""
    return Start.of(ground.fresh(seed_of(ground.plan.seed, number, f"initialisation of {name}")))


def _given(ground: Ground, name: str, number: int, start: Start) -> None:
    """A file of the coordinator's stands for the source's training."""
    path = ground.given[name]
    ancestor = ground.ancestor(number)
    found = acceptance.accept(path, acceptance.expected(ground.nets[name], params.digest(ancestor)), name)
    known = {one.digest: one.weights for one in (Start.of(ancestor), start) if one.weights is not None}
    change = distance.change(found.weights, known[found.parent]) if found.parent in known else None
    ground.made[number, name] = Made(name, path, acceptance.name_of(path), change)
    log.info("%s: contribution %s taken as given", name, path.name)


def _trained(
    ground: Ground,
    name: str,
    number: int,
    start: Start,
    way: str,
    before: Sequence[str],
    otherwise: Mapping[str, Any] | None = None,
    then: Sequence[str] = (),
) -> Conversation:
    net, plan, site = ground.nets[name], ground.plan, ground.sites[name]
    training, _ = fusion.parted(way)
    asked = training if training in fusion.CHAINED and before else "plain"  # the first has nothing to look back at
    looked_at = {"ewc": before, "lwf": before[-1:]}.get(training, ())
    earlier = [ground.made[number, ground.named(one, way)] for one in looked_at]
    task = tasks.Contribute(
        key="",
        campaign=plan.name,
        chain=number,
        net=net,
        settings=plan.train.settings(site.train),
        seed=seed_of(plan.seed, number, name),
        fisher=plan.train.sent,
        fisher_cases=plan.train.fisher_cases if plan.train.sent != "none" else 0,
        ancestor=start.digest if way == "own" else params.digest(ground.ancestor(number)),
        parent=start.digest,
        threads=plan.threads,
        buffers=plan.buffers,
        precision=plan.precision,
        way=asked,
        strength=plan.train.strength(asked),
        before=tuple(made.name for made in earlier),
        regional=tuple(one for one in before if ground.nets[one].regions) if asked == "lwf" else (),
    )
    task = replace(task, **(otherwise or {}))
    if plan.train.private:
        noisy = {name: getattr(plan.train, name) for name in PRIVATE}
        task = replace(task, fisher="none" if task.fisher == "none" else "flat", fisher_cases=0, **noisy)
    task = replace(task, key=_key(task, site.data))
    kept = before if training == "lwf" else ()
    readers = {"ewc": then, "lwf": then[:1]}.get(training, ())
    job = Job(ground.named(name, way), name, "train.contribute", start, earlier, kept, then[:1], readers)
    yield from contribution(ground, task, job)


def pooled(ground: Ground, number: int, target: str) -> Conversation:
    """Simulation only: one net with the target's labels, on all sources' cases, for the sum of their steps."""
    net, plan = ground.nets[target], ground.plan
    if any(name not in ground.sites for name in plan.sources):
        return  # its row says so
    start = Start.of(ground.ancestor(number))
    settings = plan.train.settings(1)
    settings["steps"] = sum(plan.train.length(ground.sites[name].train) for name in plan.sources)
    task = tasks.Contribute(
        key="",
        campaign=plan.name,
        chain=number,
        net=net,
        settings={**settings, "validate_every": 0},
        seed=seed_of(plan.seed, number, POOLED),
        fisher="none",
        fisher_cases=0,
        ancestor=start.digest,
        parent=start.digest,
        threads=plan.threads,
        buffers=plan.buffers,
        precision=plan.precision,
    )
    data = {name: ground.sites[name].data for name in (*plan.sources, target)}
    task = replace(task, key=_key(task, data))
    yield from contribution(ground, task, Job(f"{POOLED}:{target}", target, "train.pooled", start))


def _key(task: tasks.Contribute, data: Any) -> str:  # noqa: ANN401 - a digest, or several
    """The name of what a task makes; without differential privacy, the one that it had before there was any."""
    table = {**tasks.to_table(task), "campaign": "", "threads": 0}
    table = {name: value for name, value in table.items() if name not in CARRIED}
    if not task.private:
        table = {name: value for name, value in table.items() if name not in PRIVATE}
    return key(data=data, **table)


def seed_of(seed: int, number: int, name: str) -> int:
    """A seed of its own for each training, the same in every run."""
    return int(key(seed=seed, chain=number, name=name)[:8], 16) & 0x7FFFFFFF
