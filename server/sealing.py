"""Campaigns with `trust = "target"`: contributions stay at their sources and travel sealed; nobody here can read them.

The server trains the sources one after the other or side by side as ever, and is told digests. For each site that a
contribution is for it asks the source for one sealed file, checks who sealed it, stores it and carries it there: to
every target, and to the next site of a chain. The target opens, checks and judges.
"""

import json
import logging
from collections.abc import Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedmerge import acceptance, seals, tasks, whole
from fedmerge.container import parse
from fedmerge.errors import Absent, CampaignStopped, Refused
from fedmerge.privacy import envelope, seal
from fedmerge.trust import keys
from server import wanted
from server.exchange import Answer, Ask, Conversation
from server.ground import Ground
from server.made import SEALED, Made, Stays
from server.wanted import POOLED, Job

log = logging.getLogger("fedmerge")


def folder(ground: Ground, key: str) -> Path:
    """Where what is known of a contribution lies, and what is sealed of it."""
    return ground.store.folder / SEALED / key


def stays(
    ground: Ground, task: tasks.Contribute, job: Job, heads: dict[str, tuple[int, ...]]
) -> Generator[Ask, Answer, Made]:
    """Have a source train, and keep what it makes; what is for others is fetched from it at once.

    Args:
        ground: the campaign.
        task: what it is to do.
        job: the rest of it.
        heads: shapes of those that it keeps for other sites.

    Raises:
        CampaignStopped: a site is absent, or failed.
        Refused: it declined, or what it sealed was refused twice.
    """
    record = folder(ground, task.key) / ("made.json" if ground.plan.trust == "target" else "trained.json")
    if not record.exists() or ground.sites[job.site].reuse == "never":
        yield from _train(ground, task, job, record)
    told = parse(record.read_bytes(), str(record))
    after = (job.start.made.name,) if job.start.made is not None else ()
    made = Made(job.who, record.parent, told["digest"], stays=Stays(task, told["body"], heads, after))
    if job.who == POOLED or ground.plan.trust == "group":  # the target has made it itself, or nobody is to have it
        return made
    for target in ground.plan.targets:
        yield from letter(ground, made, envelope.CONTRIBUTION, target)
    for what, others in ((envelope.BODY, job.then), (envelope.CONTRIBUTION, job.readers)):
        for other in others:
            if not ground.why(task.chain, other):
                yield from letter(ground, made, what, other)
    return made


def _train(ground: Ground, task: tasks.Contribute, job: Job, record: Path) -> Conversation:
    """Ask for a training; the source says by which digests others will know what it made."""
    payload: dict[str, bytes | Path] = {}
    sealed: dict[str, Any] = {}
    looked_at = {f"before-{k}": made for k, made in enumerate(job.before)}
    if job.start.made is None:
        payload["start"] = ground.on_disk(job.start.need())
    else:
        looked_at["start"] = job.start.made
    for name, made in looked_at.items():
        what = envelope.BODY if name == "start" else envelope.CONTRIBUTION
        payload[name] = yield from letter(ground, made, what, job.site)
        task_of = _stays(made).task
        sealed[name] = {"sender": made.site, "round": task_of.key, "net": asdict(task_of.net)}
    asked = tasks.to_table(task) | {
        "trust": ground.plan.trust,
        "run": ground.run,
        "sealed": sealed,
        "epoch": ground.epoch,
        "keys": {made.site: ground.sites[made.site].keys for made in looked_at.values()},
    }
    letters = [path for name, path in payload.items() if name in sealed and isinstance(path, Path)]
    answer = yield from _or_anew(Ask(job.site, job.kind, asked, payload, "training"), letters)
    told = tasks.from_table(tasks.Trained, answer.task, job.site)
    if "" in (told.digest, told.body) and (ground.plan.trust == "target" or job.who == POOLED):
        raise Refused(f"{job.site}: expected the digests of what it has trained, got none")
    wanted.keep_noise(ground, task, told, job.site)
    log.info("%s: trained %d steps on %d cases in %.1f s", job.who, told.steps, told.cases, told.seconds)
    facts = {"site": job.who, "digest": told.digest, "body": told.body, "parent": task.parent, "run": ground.run}
    whole.write(record, json.dumps(facts).encode())


def _or_anew(ask: Ask, letters: Sequence[Path]) -> Generator[Ask, Answer, Answer]:
    """Ask; where the site fails, the sealed files that it was brought are made anew next time: its keys may be new."""
    try:
        return (yield ask)
    except Absent:
        raise
    except CampaignStopped:
        for path in letters:
            path.unlink(missing_ok=True)
        raise


def letter(ground: Ground, made: Made, what: str, receiver: str) -> Generator[Ask, Answer, Path]:
    """The sealed file for a site: stored already, or asked for.

    Args:
        ground: the campaign.
        made: the contribution.
        what: one of `envelope.WHATS`.
        receiver: who can open it.

    Raises:
        CampaignStopped: the source is absent, or failed.
        Refused: it declined, or what it sent was refused twice.
    """
    path = _place(made, what, receiver)
    if path.exists() and (path in ground.fetched or ground.sites[made.site].reuse != "never"):
        return path
    known = _stays(made)
    task = seals.Seal(
        ground.plan.name,
        ground.run,
        known.task.key,
        what,
        receiver,
        known.task.net,
        ground.sites[receiver].keys,
        ground.epoch,
    )
    most = envelope.length(acceptance.limits(wanted.expected(known.task, known.heads))[0])
    ask = Ask(made.site, "query.seal", tasks.to_table(task), {}, f"sealed {what}", most)
    return (yield from wanted.twice(ground, ask, lambda answer: _taken(ground, made, task, answer, path)))


def _place(made: Made, what: str, receiver: str) -> Path:
    return made.path / f"{what}-{receiver}.sealed"


def _taken(ground: Ground, made: Made, task: seals.Seal, answer: Answer, path: Path) -> Path:
    """A sealed file, stored where it is by the source and for the receiver; what it holds is for the receiver to say.

    Raises:
        Refused: it is not.
    """
    came = ground.store.arrived(f"{task.key}-{path.stem}", answer.came("sealed", made.site))
    facts = envelope.facts(task.run, task.key, task.what, made.site, task.receiver, task.net)
    try:
        if signing := ground.keys.get(made.site, {}).get("signing"):
            seal.check(came, facts, keys.signing_of(signing, made.site))
    except Refused as error:
        came.unlink()
        raise Refused(f"{made.site}: {error}") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    came.replace(path)
    ground.fetched.add(path)
    return path


def deliver(ground: Ground, target: str, chain: int, made: Sequence[tuple[str, Made]]) -> Conversation:
    """Bring to a target what is sealed to it, as far as it is not there; then ask whose weights moved too far."""
    for _, one in made:
        if (yield from wanted.there(ground, target, one)):
            continue
        path = yield from letter(ground, one, envelope.CONTRIBUTION, target)
        opening = Ask(target, "query.open", tasks.to_table(_open(ground, one)), {"sealed": path}, "contribution")
        yield from _or_anew(opening, [_place(one, envelope.CONTRIBUTION, target) for _, one in made])
    ways: dict[str, dict[str, Made]] = {}
    for name, one in made:
        if one.site != POOLED:
            ways.setdefault(name.rpartition(":")[0], {})[name] = one
    for one_way in ways.values():
        models = {one.site: one.name for one in one_way.values()}
        task = seals.Judge(ground.plan.name, models, ground.plan.max_change)
        answer = yield Ask(target, "query.judge", tasks.to_table(task), what="judgement")
        told = tasks.from_table(seals.Judged, answer.task, target)
        for name, one in one_way.items():
            before = ground.judged.get((chain, name), (None, 0))[0]
            beyond = (before or one.site in told.beyond) if one.site in told.known else before
            ground.judged[chain, name] = beyond, len(told.known)


def _open(ground: Ground, made: Made) -> seals.Open:
    known = _stays(made)
    task = known.task
    return seals.Open(
        campaign=ground.plan.name,
        run=ground.run,
        site=made.site,
        key=task.key,
        digest=made.name,
        net=task.net,
        ancestor=task.ancestor,
        parent=task.parent,
        fisher=task.fisher,
        kept={name: list(shape) for name, shape in known.heads.items()},
        after=known.after,
        keys=ground.sites[made.site].keys,
        epoch=ground.epoch,
    )


def _stays(made: Made) -> Stays:
    assert made.stays is not None  # noqa: S101 - in sealed campaigns every contribution stays
    return made.stays
