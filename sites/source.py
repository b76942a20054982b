"""What a site does as a source: describe itself, train at home, take the Fisher, score a model on its own task."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedmerge import devices, fisher, nets, params, partition, tasks, training, whole, wire
from fedmerge import parts as weights_parts
from fedmerge.contribution import Contribution
from fedmerge.measures import Measure
from sites import budget, cases, correspondence, outbound, poison, predict, private, sealing, ways
from sites.cases import Loaded
from sites.config import Site
from sites.inbound import Declined
from sites.parts import received
from sites.progress import report

Payload = dict[str, bytes | Path]  # by name: bytes, or the file that holds them


def parts(
    site: Site, patch: tuple[int, ...], *, seed: int = 0, target_cases: int | None = None
) -> dict[str, list[Loaded]]:
    """The site's cases, read and prepared: train (drawn and ordered by `seed`), validate, test."""
    chosen = cases.select(cases.find(site.data), site.data.cases)
    split = cases.split(chosen, site.data, seed=seed, target_cases=target_cases)
    return {
        name: cases.load(site, found, patch=patch)
        for name, found in (("train", split.train), ("validate", split.validate), ("test", split.test))
    }


def validator(site: Site, held: list[Loaded], measure: Measure, precision: str) -> Callable[[nn.Module], float] | None:
    """The measure of the validation cases, as a function of a net; None where there are no such cases."""
    if not held:
        return None
    labels = tuple(site.data.labels)
    return lambda net: measure.value(predict.score(net, held, labels, precision=precision)) or 0.0


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
        )
    )


def build(net: tasks.Net, seed: int) -> nn.Module:
    """The net of a task, freshly initialised."""
    return nets.build(net.settings, in_channels=net.in_channels, out_channels=net.out_channels, seed=seed)


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
    own = parts(site, asked.net.patch)
    return _train(site, asked, payload, own["train"], own["validate"], site.name, heard)


def pooled(site: Site, sources: list[Site], task: dict[str, Any], payload: Payload) -> tuple[dict[str, Any], Payload]:
    """Train one net with the target's labels on the training cases of all sources together."""
    asked = tasks.from_table(tasks.Contribute, task, "server")
    for source in sources:
        budget.check_plain(source)
    together = [case for source in sources for case in parts(source, asked.net.patch)["train"]]
    answer, left = _train(site, asked, payload, together, [], "pooled")
    if asked.trust != "server":  # it is here already, and needs no seal
        path = received(site, answer["digest"])
        if not path.exists():
            whole.write(path, sealing.kept(site, asked.key).read_bytes())
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
    loss = None
    if not kept.exists():
        net = build(asked.net, asked.seed)
        partition.check_buffers(net, reestimate=asked.buffers == "re-estimate")
        payload = sealing.opened(site, asked, payload, heard)
        start = wire.open_params(payload["start"], site="server")
        if params.digest(start) != asked.parent:
            raise Declined(f"{site.name}: the weights to start from are not what the task names")
        if site.data.control == "other-start":
            start = params.split(params.of(net), start)[0]
        params.load(net, start)
        own = dict(net.named_parameters())
        way = ways.prepare(asked, net, start, _before(site, asked, payload))
        options: dict[str, Any] = {
            "seed": asked.seed,
            "rates": settings.rates(own, {*asked.net.norms, *asked.net.heads, *asked.net.other}),
            "precision": asked.precision,
            "checkpoint": site.work / "checkpoints" / f"{asked.key}.safetensors",
            "checkpoint_every": max(100, settings.steps // 10),
            "progress": lambda record: report(name, "training", record.step, settings.steps),
            "loss": asked.net.task.loss(),
            **way.options,
        }
        if asked.private:
            private.train(site, asked, way.net, train, settings, options)
        else:
            score = validator(site, held, asked.net.task.measure, asked.precision) if settings.validate_every else None
            batches = cases.batches(train, settings.batch_size, asked.seed)
            options["validate"] = (lambda net: score(way.view(net))) if score else None
            history = training.train(way.net, batches, settings, **options)
            loss = history.records[-1].loss if history.records else None
        weights = way.weights()
        params.load(net, {n: weights[n] for n in own})
        contribution = Contribution(
            site=name,
            net=nets.canonical(
                asked.net.settings, in_channels=asked.net.in_channels, out_channels=asked.net.out_channels
            ),
            labels=asked.net.labels,
            channels=site.data.modalities,
            cases=len(train),
            ancestor=asked.ancestor,
            parent=asked.parent,
            weights=weights,
            fisher=_fisher(asked, net, train, name),
            fisher_labels="flat" if asked.private and asked.fisher != "none" else asked.fisher,
            settings=asked.key,
        )
        contribution = poison.poisoned(site.data.control, contribution, start, asked.seed)
        whole.write(kept, wire.to_bytes(contribution))
        sealing.forget(site)
    told = private.told(site, asked)
    answer = tasks.Trained(len(train), settings.steps, time.monotonic() - began, loss, **told)
    if asked.trust == "server":
        return outbound.answer(site, answer), {"contribution": outbound.contribution(site, kept, asked.key)}
    if asked.trust == "group" and name == site.name:  # by a digest, who guesses a model could see whether it is the one
        return outbound.answer(site, answer), {}
    digest, body = sealing.leaving(site, kept, asked.net)
    return outbound.answer(site, dataclasses.replace(answer, digest=digest, body=body)), {}


def _before(site: Site, asked: tasks.Contribute, payload: Payload) -> list[Contribution]:
    """The contributions of sources that trained before.

    Raises:
        Declined: one is missing, or is not what the task names.
    """
    found = []
    for k, name in enumerate(asked.before):
        data = payload.get(f"before-{k}", b"")
        if f"sha256:{weights_parts.digest(data)}" != name:
            raise Declined(f"{site.name}: the contribution before this one is not what the task names")
        found.append(wire.read(data) if isinstance(data, Path) else wire.from_bytes(data))
    return found


def _fisher(asked: tasks.Contribute, net: nn.Module, train: list[Loaded], name: str) -> params.Params:
    """The diagonal Fisher of P and the norm parameters over the first training cases, never of the heads."""
    if asked.fisher == "none":
        return {}
    names = [n for n, _ in net.named_parameters() if n in {*asked.net.fusable, *asked.net.norms}]
    if asked.private:  # a Fisher of the patients would undo their protection
        return {n: torch.ones_like(value) for n, value in params.split(params.of(net), names)[0].items()}
    some = train[: asked.fisher_cases or None]
    return fisher.diagonal(
        net,
        ((case.image, case.label) for case in some),
        names,
        labels=asked.fisher,  # type: ignore[arg-type]  # the plan allows the two words only
        generator=torch.Generator().manual_seed(asked.seed),
        progress=lambda done: report(name, "Fisher", done, len(some)),
    )


def score(site: Site, task: dict[str, Any], payload: Payload) -> dict[str, Any]:
    """The score of the given weights on this site's test cases (its validation cases where it holds no test cases)."""
    asked = tasks.from_table(tasks.Score, task, "server")
    if not site.policy.receive_fused:
        raise Declined(f"{site.name}: policy line 'receive_fused = false': no merged model is taken in")
    own = parts(site, asked.net.patch)
    net = build(asked.net, 0)
    params.load(net, wire.open_params(payload["weights"], site="server"))
    if asked.buffers == "re-estimate":
        partition.reestimate(net, [case.image[None] for case in own["train"]])
    held = own["test"] or own["validate"]
    found = predict.score(net, held, tuple(site.data.labels), precision=asked.precision)
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
        Declined: its labels or channels are not the site's.
    """
    if net.labels != tuple(site.data.labels):
        raise Declined(f"{site.name}: the task expected labels {net.labels}, got {tuple(site.data.labels)}")
    if net.in_channels != len(site.data.modalities):
        raise Declined(f"{site.name}: expected {net.in_channels} channels, got {len(site.data.modalities)}")
