"""One contribution: taken from the store, or asked for, checked and kept.

One that is refused is asked for once more: a site has it on its disk, and a link may have broken it.
"""

import logging
from collections.abc import Generator
from pathlib import Path

from fedmerge import acceptance, contribution_cards, distance, tasks
from fedmerge.contribution import Expected
from fedmerge.errors import Refused
from server import sealing, wanted
from server.exchange import Answer, Ask, Conversation
from server.ground import Ground
from server.made import Made
from server.wanted import Job

log = logging.getLogger("fedmerge")


def contribution(ground: Ground, task: tasks.Contribute, job: Job) -> Conversation:
    """The contribution of a task: stored already, or asked for.

    Args:
        ground: the campaign; gets it, as `made[task.chain, job.name]`.
        task: what the site is to do.
        job: the rest of it.

    Raises:
        CampaignStopped: the site is absent, or failed.
        Refused: it declined, or what it sent was refused twice.
    """
    heads = wanted.heads(ground, job.kept)
    if ground.plan.trust == "server":
        made = yield from _brought(ground, task, job, wanted.expected(task, heads))
    else:
        made = yield from sealing.stays(ground, task, job, heads)
    unshown = ground.plan.trust == "group" and job.who != wanted.POOLED
    (ground.unshown if unshown else ground.made)[task.chain, job.name] = made
    if task.private:
        ground.noisy[task.chain, job.name] = ground.store.noise(task.key)


def _brought(ground: Ground, task: tasks.Contribute, job: Job, want: Expected) -> Generator[Ask, Answer, Made]:
    """A contribution that the server may read."""
    policy = ground.sites[job.site].reuse
    path = ground.store.contribution(task.key, own=policy != "never", reuse=policy == "consortium")
    if path is None:
        path, change = yield from _asked(ground, task, job, want)
    else:
        log.info("%s: contribution taken from the store", job.name)
        change = _distance(path, want, job)
    return Made(job.who, path, acceptance.name_of(path), change)


def _distance(path: Path, want: Expected, job: Job) -> float:
    """How far the training moved a contribution that is what was agreed; a Refused where it is not."""
    found = acceptance.accept(path, want, job.who)
    return distance.change(found.weights, job.start.need())


def _asked(
    ground: Ground, task: tasks.Contribute, job: Job, want: Expected
) -> Generator[Ask, Answer, tuple[Path, float]]:
    """Ask for a contribution, once more where it is refused; what is good is kept as it came.

    Returns:
        its place in the store, and how far its weights are from the start.

    Raises:
        Refused: twice; what came is not kept.
    """
    payload = {"start": ground.on_disk(job.start.need())}
    payload |= {f"before-{k}": made.path for k, made in enumerate(job.before)}
    most = acceptance.limits(want)[0]
    ask = Ask(job.site, job.kind, tasks.to_table(task), payload, "contribution", most)
    return (yield from wanted.twice(ground, ask, lambda answer: _taken(ground, task, job, answer, want)))


def _taken(ground: Ground, task: tasks.Contribute, job: Job, answer: Answer, want: Expected) -> tuple[Path, float]:
    """A contribution, checked and stored: its place, and how far its weights are from the start."""
    data = answer.came("contribution", job.site)
    path = ground.store.arrived(task.key, data)
    try:
        change = _distance(path, want, job)
        told = tasks.from_table(tasks.Trained, answer.task, job.site)
        wanted.keep_noise(ground, task, told, job.site)
    except Refused:
        path.unlink()
        raise
    log.info("%s: trained %d steps on %d cases in %.1f s", job.who, told.steps, told.cases, told.seconds)
    place = ground.store.keep_contribution(task.key, path)
    contribution_cards.write(place, task, told, ground.sites[job.site].reuse)
    return place, change
