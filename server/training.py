"""The first phase as conversations: sources train in a chain or side by side, `pooled` on all their cases at once."""

import logging
from dataclasses import replace
from pathlib import Path

from fedmerge import params, tasks, wire
from fedmerge.contribution import Contribution
from fedmerge.params import Params
from server import inbound
from server.exchange import Ask, Conversation
from server.ground import Ground, Made
from server.store import key

log = logging.getLogger("fedmerge")

POOLED = "pooled"


def chain(ground: Ground, number: int) -> Conversation:
    """Each source starts from the one before it; the first from the ancestor."""
    start = ground.ancestor(number)
    for name in ground.plan.sources:
        yield from source(ground, name, number, start)
        start = ground.made[number, name].body(ground.nets[name])


def side_by_side(ground: Ground, number: int) -> list[Conversation]:
    """Every source starts from the ancestor."""
    return [source(ground, name, number, ground.ancestor(number)) for name in ground.plan.sources]


def sources(ground: Ground, number: int) -> list[Conversation]:
    """The sources' training as the plan's schedule has it."""
    return [chain(ground, number)] if ground.plan.schedule == "chain" else side_by_side(ground, number)


def source(ground: Ground, name: str, number: int, start: Params) -> Conversation:
    """One source: a stored contribution where there is one, else the site trains."""
    net, plan = ground.nets[name], ground.plan
    ancestor = params.digest(ground.ancestor(number))
    want = inbound.expected(net, ancestor)
    if name in ground.given:
        given = next(m.contribution for m in plan.members if m.name == name)
        assert given is not None  # noqa: S101 - `given` lists the members that have one
        ground.made[number, name] = _made(inbound.accept(given.read_bytes(), want, name), given)
        log.info("%s: contribution %s taken as given", name, given.name)
        return
    site = ground.sites[name]
    task = tasks.Contribute(
        key="",
        campaign=plan.name,
        chain=number,
        net=net,
        settings=plan.train.settings(site.train),
        seed=_seed(plan.seed, number, name),
        fisher=plan.train.fisher,
        fisher_cases=plan.train.fisher_cases,
        ancestor=ancestor,
        parent=params.digest(start),
        threads=plan.threads,
        buffers=plan.buffers,
        precision=plan.precision,
    )
    task = replace(task, key=key(data=site.data, **{**tasks.to_table(task), "campaign": "", "threads": 0}))
    yield from _train(ground, task, name, name, "train.contribute", wire.params_to_bytes(start))


def pooled(ground: Ground, number: int, target: str) -> Conversation:
    """Simulation only: one net with the target's labels, on all sources' cases, for the sum of their steps."""
    net, plan = ground.nets[target], ground.plan
    start = ground.ancestor(number)
    settings = plan.train.settings(1)
    settings["steps"] = sum(plan.train.length(ground.sites[name].train) for name in plan.sources)
    task = tasks.Contribute(
        key="",
        campaign=plan.name,
        chain=number,
        net=net,
        settings={**settings, "validate_every": 0},
        seed=_seed(plan.seed, number, POOLED),
        fisher="none",
        fisher_cases=0,
        ancestor=params.digest(start),
        parent=params.digest(start),
        threads=plan.threads,
        buffers=plan.buffers,
        precision=plan.precision,
    )
    data = {name: ground.sites[name].data for name in (*plan.sources, target)}
    task = replace(task, key=key(data=data, **{**tasks.to_table(task), "campaign": "", "threads": 0}))
    yield from _train(ground, task, target, f"{POOLED}:{target}", "train.pooled", wire.params_to_bytes(start))


def _train(ground: Ground, task: tasks.Contribute, site: str, name: str, kind: str, start: bytes) -> Conversation:
    pool = kind == "train.pooled"
    want = inbound.expected(task.net, task.ancestor, fisher=not pool)
    who = POOLED if pool else site
    policy = ground.sites[site].reuse
    path = ground.store.contribution(task.key, own=policy != "never", reuse=policy == "consortium")
    if path is None:
        answer = yield Ask(site, kind, tasks.to_table(task), {"start": start}, "contribution")
        data = answer.need("contribution", site)
        contribution = inbound.accept(data, want, who)
        path = ground.store.keep_contribution(task.key, data)
        told = tasks.from_table(tasks.Trained, answer.task, site)
        log.info("%s: trained %d steps on %d cases in %.1f s", name, told.steps, told.cases, told.seconds)
    else:
        contribution = inbound.accept(path.read_bytes(), want, who)
        log.info("%s: contribution taken from the store", name)
    ground.made[task.chain, name] = _made(contribution, path)


def _made(contribution: Contribution, path: Path) -> Made:
    return Made(contribution, path, inbound.name_of(path.read_bytes()))


def _seed(seed: int, number: int, name: str) -> int:
    """A seed of its own for each training, the same in every run."""
    return int(key(seed=seed, chain=number, name=name)[:8], 16) & 0x7FFFFFFF
