"""One contribution: taken from the store, or asked for, checked and kept.

One that is refused is asked for once more: a site has it on its disk, and a link may have broken it.
"""

import logging
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fedmerge import acceptance, distance, heads, nets, params, tasks
from fedmerge.contribution import Expected
from fedmerge.errors import Refused
from fedmerge.params import Params
from fedmerge.privacy import accountant
from server.exchange import Answer, Ask, Conversation
from server.ground import Ground, Made

log = logging.getLogger("fedmerge")

POOLED = "pooled"
TRIES = 2


def contribution(
    ground: Ground,
    task: tasks.Contribute,
    site: str,
    name: str,
    kind: str,
    start: Params,
    before: Mapping[str, Path] | None = None,
    kept: Sequence[str] = (),
) -> Conversation:
    """The contribution of a task: stored already, or asked for.

    Args:
        ground: the campaign; gets it, as `made[task.chain, name]`.
        task: what the site is to do.
        site: who does it.
        name: as `Ground.named` has it.
        kind: the message type.
        start: what it starts from.
        before: contributions that it looks back at, by the name of the payload.
        kept: the sites whose heads it keeps beside its own.

    Raises:
        CampaignStopped: the site is absent, or failed.
        Refused: it declined, or what it sent was refused twice.
    """
    bare = task.fisher == "none"
    want = acceptance.expected(
        task.net,
        task.ancestor,
        fisher=not bare,
        parent=task.parent,
        settings=task.key,
        fisher_labels=("none",) if bare else (task.fisher, "flat"),
    )
    want = replace(want, shapes={**want.shapes, **_more_rows(ground, kept)})
    policy = ground.sites[site].reuse
    path = ground.store.contribution(task.key, own=policy != "never", reuse=policy == "consortium")
    who = POOLED if kind == "train.pooled" else site
    if path is None:
        path, change = yield from _asked(ground, task, site, kind, start, want, before or {})
    else:
        log.info("%s: contribution taken from the store", name)
        change = distance.change(acceptance.accept(path, want, who).weights, start)
    ground.made[task.chain, name] = Made(who, path, acceptance.name_of(path), change)
    if task.private:
        ground.noisy[task.chain, name] = ground.store.noise(task.key)


def _asked(
    ground: Ground,
    task: tasks.Contribute,
    site: str,
    kind: str,
    start: Params,
    want: Expected,
    before: Mapping[str, Path],
) -> Generator[Ask, Answer, tuple[Path, float]]:
    """Ask for a contribution, once more where it is refused; what is good is kept as it came.

    Returns:
        its place in the store, and how far its weights are from the start.

    Raises:
        Refused: twice; what came is not kept.
    """
    payload = {"start": ground.on_disk(start), **before}
    for attempt in range(1, TRIES + 1):
        try:
            answer = yield Ask(site, kind, tasks.to_table(task), payload, "contribution", acceptance.limits(want)[0])
            return _taken(ground, task, site, kind, answer, want, start)
        except Refused as error:
            ground.witness.refused(site, "contribution", str(error))
            if attempt == TRIES:
                raise
            log.warning("%s; asked once more", error)
    raise AssertionError  # the last attempt returns or raises


def _taken(
    ground: Ground, task: tasks.Contribute, site: str, kind: str, answer: Answer, want: Expected, start: Params
) -> tuple[Path, float]:
    """A contribution, checked and stored: its place, and how far its weights are from the start."""
    who = POOLED if kind == "train.pooled" else site
    data = answer.came("contribution", site)
    path = ground.store.arrived(task.key, data)
    try:
        change = distance.change(acceptance.accept(path, want, who).weights, start)
        told = tasks.from_table(tasks.Trained, answer.task, site)
        if task.private:
            ground.store.keep_noise(task.key, _noise(told, site))
    except Refused:
        path.unlink()
        raise
    log.info("%s: trained %d steps on %d cases in %.1f s", who, told.steps, told.cases, told.seconds)
    return ground.store.keep_contribution(task.key, path), change


def _noise(told: tasks.Trained, site: str) -> accountant.Training:
    """The mechanism that a site says that it has trained with.

    Raises:
        Refused: it is none.
    """
    if not (0 < told.rate <= 1 and told.noise_multiplier > 0):
        raise Refused(f"{site}: expected a training with differential privacy, got one without noise")
    return accountant.Training(told.rate, told.noise_multiplier, told.steps)


def _more_rows(ground: Ground, kept: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The heads that a source keeps for those before it: names and shapes."""
    found: dict[str, tuple[int, ...]] = {}
    for site in kept:
        net = ground.nets[site]
        shapes = params.shapes(nets.on_meta(net.settings, in_channels=net.in_channels, out_channels=net.out_channels))
        found |= {f"{name}{heads.KEPT}{site}": shapes[name] for name in net.heads}
    return found
