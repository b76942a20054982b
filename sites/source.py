"""What a site does as a source: describe itself, contribute what it trained at home, score a model on its own task."""

import dataclasses
import time
from pathlib import Path
from typing import Any

from fedmerge import contribution_cards, devices, params, partition, tasks, training, whole, wire
from sites import budget, cases, correspondence, outbound, patches, predict, private, sealing, trainer, vouched
from sites.cases import Loaded
from sites.config import Site
from sites.inbound import Declined
from sites.parts import received
from sites.progress import report

Payload = dict[str, bytes | Path]  # by name: bytes, or the file that holds them


def parts(
    site: Site, patch: tuple[int, ...], *, field: str = "centre", seed: int = 0, target_cases: int | None = None
) -> dict[str, list[Loaded]]:
    """The site's cases, read and prepared: train (drawn and ordered by `seed`), validate, test."""
    chosen = cases.select(cases.find(site.data), site.data.cases)
    split = cases.split(chosen, site.data, seed=seed, target_cases=target_cases)
    return {
        name: cases.load(site, found, patch=patch, field=field)
        for name, found in (("train", split.train), ("validate", split.validate), ("test", split.test))
    }


def describe(site: Site, task: dict[str, Any]) -> dict[str, Any]:
    """The site in numbers; reads every selected case on the way."""
    asked = tasks.from_table(tasks.Describe, task, "server")
    chosen = cases.select(cases.find(site.data), site.data.cases)
    split = cases.split(chosen, site.data, seed=0, target_cases=None)
    everyone = [*split.validate, *split.test, *split.train]
    cases.load(
        site,
        everyone,
        patch=asked.patch,
        field=asked.field,
        progress=lambda done: report(site.name, "reading cases", done, len(everyone)),
    )
    return tasks.to_table(
        tasks.Description(
            site=site.name,
            role=site.role,
            labels=tuple(site.data.labels),
            channels=site.data.modalities,
            train=len(split.train),
            pool=len(cases.split(chosen, dataclasses.replace(site.data, train=None), seed=0).train),
            validate=len(split.validate),
            test=len(split.test),
            by_patient=split.by_patient,
            data=private.digest(site, cases.digest(chosen, site.data, site.scanner)),
            device=devices.describe(wanted=asked.precision),
            simulation=site.simulation,
            receive_fused=site.policy.receive_fused,
            reuse=site.policy.reuse,
            keys=correspondence.told(site),
            regions=site.data.answered,
        )
    )


def contribute(
    site: Site, task: dict[str, Any], payload: Payload, heard: sealing.Heard = sealing.forget_it
) -> tuple[dict[str, Any], Payload]:
    """Train from the given start, take the Fisher, pack the contribution; done before, it is sent again.

    Args:
        site: the source.
        task: a `tasks.Contribute`.
        payload: what it names.
        heard: as `sealing.open_to` has it.
    """
    asked = tasks.from_table(tasks.Contribute, task, "server")
    outbound.check_trust(site, asked.trust)
    _check_net(site, asked.net)
    _check_cases(site, asked)
    if not asked.private:
        budget.check_plain(site)
    elif site.data.landmarks is not None:
        raise Declined(
            f"{site.name}: 'landmarks' are taken over all patients at once, which the noise of a training with"
            " differential privacy does not cover"
        )
    own = parts(site, asked.net.patch, field=asked.net.field)
    return _train(site, asked, payload, own["train"], own["validate"], site.name, heard)


def pooled(site: Site, sources: list[Site], task: dict[str, Any], payload: Payload) -> tuple[dict[str, Any], Payload]:
    """Train one net with the target's labels on the training cases of all sources together."""
    asked = tasks.from_table(tasks.Contribute, task, "server")
    for source in sources:
        budget.check_plain(source)
    own = [parts(source, asked.net.patch, field=asked.net.field)["train"] for source in sources]
    together = [case for train in own for case in train]
    answer, left = _train(site, asked, payload, together, [], "pooled")
    if asked.trust != "server":  # it is here already, and needs no seal
        vouched.keep(site, answer["digest"], "pooled")
        whole.write(received(site, answer["digest"]), sealing.kept(site, asked.key).read_bytes())
    return answer, left


def _train(
    site: Site,
    asked: tasks.Contribute,
    payload: Payload,
    train: list[Loaded],
    held: list[Loaded],
    name: str,
    heard: sealing.Heard = sealing.forget_it,
) -> tuple[dict[str, Any], Payload]:
    kept = sealing.kept(site, asked.key)
    began = time.monotonic()
    settings = training.Settings(**asked.settings)
    with whole.alone(kept):  # two chains may ask a simulated site for the same at the same time
        loss = None if kept.exists() else trainer.make(site, asked, payload, train, held, name, heard)
    answer = tasks.Trained(len(train), settings.steps, time.monotonic() - began, loss, **private.told(site, asked))
    if not contribution_cards.path_of(kept).exists():
        contribution_cards.write(kept, asked, answer, site.policy.reuse)
    if asked.trust == "server":
        return outbound.answer(site, answer), {"contribution": outbound.contribution(site, kept, asked.key)}
    if asked.trust == "group" and name == site.name:  # by a digest, who guesses a model could see whether it is the one
        return outbound.answer(site, answer), {}
    digest, body = sealing.leaving(site, kept, asked.net)
    return outbound.answer(site, dataclasses.replace(answer, digest=digest, body=body)), {}


def score(site: Site, task: dict[str, Any], payload: Payload) -> dict[str, Any]:
    """The score of the given weights on this site's test cases (its validation cases where it holds no test cases)."""
    asked = tasks.from_table(tasks.Score, task, "server")
    if not site.policy.receive_fused:
        raise Declined(f"{site.name}: policy line 'receive_fused = false': no merged model is taken in")
    check_regions(site, asked.net)
    own = parts(site, asked.net.patch, field=asked.net.field)
    net = trainer.build(asked.net, 0)
    params.load(net, wire.open_params(payload["weights"], site="server"))
    if asked.buffers == "re-estimate":
        partition.reestimate(net, patches.images(own["train"]))
    held = own["test"] or own["validate"]
    found = predict.score(
        net,
        held,
        tuple(site.data.labels),
        measures=asked.measures,
        overlap=asked.net.overlap,
        flips=asked.flips,
        precision=asked.precision,
        regions=asked.net.task.regions,
    )
    return outbound.answer(site, tasks.Scored(found))


def _check_cases(site: Site, asked: tasks.Contribute) -> None:
    """What leaves tells of no fewer cases than the policy says, however many the site has.

    A single step on one case is that patient's gradient, and the Fisher of one case is its square: from either an image
    can be drawn back.

    Raises:
        Declined: the steps see fewer cases, or the Fisher is of fewer.
    """
    least, settings = site.policy.min_cases, training.Settings(**asked.settings)
    seen = settings.steps * settings.batch_size
    if seen < least:
        raise Declined(f"{site.name}: policy line 'min_cases = {least}': the steps asked for see {seen} at most")
    if asked.fisher not in ("none", "flat") and site.policy.fisher != "none" and 0 < asked.fisher_cases < least:
        raise Declined(f"{site.name}: policy line 'min_cases = {least}': the Fisher would be of {asked.fisher_cases}")


def _check_net(site: Site, net: tasks.Net) -> None:
    """What the server asks for has to fit what the site holds.

    Raises:
        Declined: its labels, regions or channels are not the site's.
    """
    if net.labels != tuple(site.data.labels):
        raise Declined(f"{site.name}: the task expected labels {net.labels}, got {tuple(site.data.labels)}")
    check_regions(site, net)
    if net.in_channels != len(site.data.modalities):
        raise Declined(f"{site.name}: expected {net.in_channels} channels, got {len(site.data.modalities)}")


def check_regions(site: Site, net: tasks.Net) -> None:
    """Whether the net answers what the site's settings say: these regions, or labels.

    Raises:
        Declined: it answers something else.
    """
    want, got = site.data.answered, net.regions
    if want != got:
        asked, own = ("; ".join(f"{name}: {', '.join(parts)}" for name, parts in one.items()) for one in (got, want))
        raise Declined(f"{site.name}: the task expected regions ({asked or 'none'}), got ({own or 'none'})")
