"""What the target alone may read: contributions that are sealed to it, checked here as a trusted server checks them.

What is good lies in `received` as if the server had brought it in the clear, and beside it how far its training moved
it: the distance is measured here, and only whose weights went too far is told.
"""

from pathlib import Path
from typing import Any

from fedmerge import acceptance, distance, params, parts, seals, tasks, wire
from fedmerge.errors import Refused
from fedmerge.params import Params
from fedmerge.privacy import envelope
from sites import sealing, vouched
from sites.inbound import DIGEST, Declined
from sites.parts import received
from sites.records import Site

Payload = dict[str, bytes | Path]


def open_one(
    site: Site, task: dict[str, Any], payload: Payload, heard: sealing.Heard = sealing.forget_it
) -> dict[str, Any]:
    """Open a contribution, check it, and keep it under its digest; `heard`: as `sealing.open_to` has it.

    Raises:
        Declined: it cannot be opened, which is all that is said; or what was in it is not what was agreed.
    """
    asked = tasks.from_table(seals.Open, task, "server")
    if "sealed" not in payload:
        raise Declined(f"{site.name}: the task brings no sealed contribution")
    facts = envelope.facts(asked.run, asked.key, envelope.CONTRIBUTION, asked.site, site.name, asked.net)
    plain = sealing.open_to(site, payload["sealed"], facts, {asked.site: asked.keys}, asked.epoch, heard)
    try:
        moved = _checked(site, asked, plain)
    except Refused as error:
        plain.unlink(missing_ok=True)
        raise Declined(f"{site.name}: {error}") from None
    path = received(site, asked.digest)
    vouched.keep(site, asked.digest, asked.site, moved)
    plain.replace(path)
    return tasks.to_table(seals.Opened(asked.digest))


def _checked(site: Site, asked: seals.Open, plain: Path) -> float | None:
    """How far the training moved a contribution that is what was agreed; None where its start is not known here.

    Raises:
        Refused: it is not; names the site, the tensor, expected and got.
    """
    heads = {name: tuple(shape) for name, shape in asked.kept.items() if isinstance(shape, list)}
    want = acceptance.of_training(
        asked.net, asked.ancestor, parent=asked.parent, key=asked.key, fisher=asked.fisher, heads=heads
    )
    found = acceptance.accept(plain, want, asked.site)
    if (got := f"sha256:{parts.digest(plain)}") != asked.digest:
        raise Refused(f"{asked.site}: the contribution's digest expected {asked.digest[:15]}, got {got[:15]}")
    start = _start(site, asked)
    return None if start is None else distance.change(found.weights, start)


def _start(site: Site, asked: seals.Open) -> Params | None:
    """What the training began with.

    Raises:
        Refused: the contribution before it is not what the task names.
    """
    path = received(site, asked.after[0] if asked.after else asked.parent)
    if not path.exists():
        return None
    if not asked.after:
        return wire.open_params(path, site=site.name)
    before = wire.read(path, site=site.name)
    body = params.split(before.weights, {*asked.net.fusable, *asked.net.norms})[0]
    if params.digest(body) != asked.parent:
        raise Refused(f"{asked.site}: trained from other weights than those of the site before")
    return body


def judge(site: Site, task: dict[str, Any]) -> dict[str, Any]:
    """Whose weights moved much farther than the others' (`fedmerge.distance`)."""
    asked = tasks.from_table(seals.Judge, task, "server")
    changes: dict[str, float] = {}
    for name, digest in asked.models.items():
        if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
            raise Declined(f"{site.name}: the task's models expected digests, got {str(digest)[:80]!r}")
        facts = vouched.of(site, digest)
        if facts is None or facts["site"] != name:
            raise Declined(f"{site.name}: expected the sealed weights {digest[:15]} of {name:.80} before this task")
        if facts["change"] is not None:
            changes[name] = facts["change"]
    beyond = [name for name, ratio in distance.times(changes).items() if ratio > asked.max_change]
    return tasks.to_table(seals.Judged(tuple(beyond), tuple(changes)))
