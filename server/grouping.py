"""Campaigns with `trust = "group"`: what sources made enters one masked sum a group, and the target opens the sums.

Once the members of a group have trained, each and the target say hello, and each sends its model under masks that
cancel in the sum of all. The server adds what is noise to it and brings the sum to the target, whose rows mix groups as
if they were sources. All is on disk here before it is used, so a stopped campaign goes on with the same bytes. A
message is asked for again where the site's policy lets nothing be used twice, and then it comes the same.
"""

import json
import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from fedmerge import seals, sums, tasks, whole
from fedmerge.container import parse
from fedmerge.errors import Absent, CampaignStopped, Refused
from fedmerge.privacy import masking, message
from fedmerge.privacy.transcript import Transcript
from server import summed, wanted
from server.exchange import Answer, Ask, Conversation
from server.ground import Ground
from server.made import Made
from server.summed import Whole

log = logging.getLogger("fedmerge")

SLACK = 1 << 16  # bytes of a header beyond ours


def phases(ground: Ground, chains: Sequence[int]) -> Iterator[list[Conversation]]:
    """Hellos, then masked messages, then the sums: each phase when the one before it is over.

    Raises:
        CampaignStopped: as `summed.sums_of`.
        Refused: a hello is not what was agreed.
    """
    every = [one for chain in chains for one in summed.sums_of(ground, chain)]
    new = [one for one in every if not one.opened.exists()]
    yield [_hello(ground, one, site) for one in new for site in (*one.made, one.group.target)]
    together = {one.group.run: summed.gathered(ground, one) for one in new}
    yield [_message(ground, one, site, together[one.group.run]) for one in new for site in one.made]
    yield [_sum(ground, one) for one in every]


def _hello(ground: Ground, one: Whole, site: str) -> Conversation:
    """A site's hello: stored already, or asked for."""
    path = one.folder / f"{site}.hello"
    if path.exists():
        return
    task = sums.Greet(ground.plan.name, one.group)
    answer = yield Ask(site, "query.hello", tasks.to_table(task), what="hello")
    whole.write(path, tasks.from_table(sums.Greeted, answer.task, site).hello)


def _message(ground: Ground, one: Whole, site: str, together: Transcript) -> Conversation:
    """A member's masked message: stored already, or asked for.

    Raises:
        CampaignStopped: the member is absent, or failed.
        Refused: it declined, or what it sent was refused twice.
    """
    path = one.folder / f"{site}.masked"
    if path.exists() and ground.sites[site].reuse != "never":
        return
    ancestor = ground.ancestor(one.chain)
    task = sums.Mask(
        campaign=ground.plan.name,
        key=one.made[site],
        group=one.group,
        hellos=tuple(summed.hellos(one)),
        keys=summed.public_keys(ground, one),
        epoch=ground.epoch,
    )
    shapes = {name: tuple(value.shape) for name, value in ancestor.items()}
    most = message.length(shapes, [site]) + SLACK

    def take(answer: Answer) -> None:
        came = ground.store.arrived(f"{one.folder.name}-{site}", answer.came("message", site))
        _check(came, site, together, shapes)
        came.replace(path)

    payload = {"ancestor": ground.on_disk(ancestor)}
    ask = Ask(site, "query.mask", tasks.to_table(task), payload, "masked message", most)
    yield from wanted.twice(ground, ask, take)
    log.info("%s: masked its model for %s", site, one.group.name)


def _check(came: Path, site: str, together: Transcript, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse what is no message of this member's to this group; whether its masks cancel, the target finds out."""
    try:
        found = message.read(came)
        facts = {"transcript": together.digest, "members": (site,), "shapes": dict(shapes)}
        for what, want in facts.items():
            if (got := getattr(found, what)) != want:
                raise Refused(f"{what} of the masked message expected {want!r:.200}, got {got!r:.200}")  # noqa: TRY301
    except Refused as error:
        came.unlink()
        raise Refused(f"{site}: {str(error).replace(str(came), 'the masked message')}") from None


def _sum(ground: Ground, one: Whole) -> Conversation:
    """Add the messages, have the target open the sum, and take the group for a source from here on.

    Raises:
        CampaignStopped: the target is absent, or does not open it; the messages are asked for again at the next start.
    """
    if not one.opened.exists():
        try:
            digest = yield from _brought(ground, one)
        except Absent:
            raise
        except CampaignStopped:
            for path in (*one.folder.glob("*.masked"), *one.folder.glob("*.sum")):
                path.unlink()
            raise
        facts = {"group": one.group.name, "members": list(one.made), "digest": digest, "run": one.group.run}
        whole.write(one.opened, json.dumps(facts).encode())
        log.info("%s: %d models, opened as one at %s", one.group.name, len(one.made), one.group.target)
    told = parse(one.opened.read_bytes(), str(one.opened))
    ground.made[one.chain, one.group.name] = Made(one.group.name, one.folder, told["digest"])


def _brought(ground: Ground, one: Whole) -> Generator[Ask, Answer, str]:
    """Bring the sum to the target; by which digest it has the group's model."""
    plan, target = ground.plan, one.group.target
    path = one.folder / summed.TOTAL
    if not path.exists():
        whole.write(path, masking.add([one.folder / f"{site}.masked" for site in one.made]))
    task = sums.Sum(
        campaign=plan.name,
        group=one.group,
        hellos=tuple(summed.hellos(one)),
        net=asdict(ground.nets[target]),
        fisher="flat" if plan.train.private else plan.train.sent,
        cases=sum(ground.sites[site].train for site in one.made),
        keys=summed.public_keys(ground, one),
        epoch=ground.epoch,
    )
    payload = {"sum": path, "ancestor": ground.on_disk(ground.ancestor(one.chain))}
    answer = yield Ask(target, "query.sum", tasks.to_table(task), payload, "masked sum")
    return tasks.from_table(seals.Opened, answer.task, target).digest


def deliver(ground: Ground, target: str, chain: int, made: Sequence[tuple[str, Made]]) -> Conversation:
    """Bring a sum again whose model is not at the target any more."""
    for name, one in made:
        if (yield from wanted.there(ground, target, one)):
            continue
        (its,) = (whole_ for whole_ in summed.sums_of(ground, chain) if whole_.group.name == name)
        digest = yield from _brought(ground, its)
        if digest != one.name:
            raise Refused(f"{target}: the model of {name} expected {one.name[:15]}, got {digest[:15]}")


def over(ground: Ground, chains: Sequence[int]) -> list[Conversation]:
    """Have the members forget the keys of sums that were opened, so that no thief can take old masks off."""
    if not ground.unshown:
        return []
    every = [one for chain in chains for one in summed.sums_of(ground, chain) if one.opened.exists()]
    return [_forget(ground, one, site) for one in every for site in one.made]


def _forget(ground: Ground, one: Whole, site: str) -> Conversation:
    done = one.folder / f"{site}.forgotten"
    if done.exists():
        return
    try:
        task = tasks.to_table(sums.Forget(ground.plan.name, one.group))
        yield Ask(site, "query.forget", task, what="forget")
    except (CampaignStopped, Refused) as error:  # the results do not wait for this
        log.warning("%s has not forgotten its key for %s: %s", site, one.group.name, error)
    else:
        whole.write(done, b"")
