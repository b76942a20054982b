"""One training at a source: from what came with its task to the contribution in full, which stays on its disk."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedmerge import fisher, nets, params, partition, tasks, training, whole, wire
from fedmerge import parts as weights_parts
from fedmerge.contribution import Contribution
from sites import cases, curves, patches, poison, predict, private, sealing, ways
from sites.cases import Loaded
from sites.config import Site
from sites.inbound import Declined
from sites.progress import report

Payload = dict[str, bytes | Path]


def build(net: tasks.Net, seed: int) -> nn.Module:
    """The net of a task, freshly initialised."""
    return nets.build(net.settings, in_channels=net.in_channels, out_channels=net.out_channels, seed=seed)


def validator(site: Site, held: list[Loaded], net: tasks.Net, precision: str) -> Callable[[nn.Module], float] | None:
    """The measure of the validation cases, as a function of a net; None where there are no such cases."""
    if not held:
        return None
    labels, task, overlap = tuple(site.data.labels), net.task, net.overlap
    score = partial(predict.score, overlap=overlap, precision=precision, regions=task.regions)
    return lambda net: task.measure.value(score(net, held, labels)) or 0.0


def make(
    site: Site,
    asked: tasks.Contribute,
    payload: Payload,
    train: list[Loaded],
    held: list[Loaded],
    name: str,
    heard: sealing.Heard,
) -> float | None:
    """Train, and keep the contribution in full; the loss at the end, which a training with noise does not tell."""
    settings = training.Settings(**asked.settings)
    loss = None
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

    def told(record: training.Record) -> None:
        report(name, "training", record.step, settings.steps)
        curves.keep(site, asked.key, f"training/{asked.campaign}/chain {asked.chain}, {asked.way}", record)

    options: dict[str, Any] = {
        "seed": asked.seed,
        "rates": settings.rates(own, {*asked.net.norms, *asked.net.heads, *asked.net.other}),
        "precision": asked.precision,
        "checkpoint": site.work / "checkpoints" / f"{asked.key}.safetensors",
        "checkpoint_every": max(100, settings.steps // 10),
        "progress": told,
        "loss": asked.net.task.loss(),
        **way.options,
    }
    if asked.private:
        private.train(site, asked, way.net, train, settings, options)
    else:
        score = validator(site, held, asked.net, asked.precision) if settings.validate_every else None
        batches = cases.batches(
            train, settings.batch_size, asked.seed, foreground=asked.net.foreground, changes=settings.augment
        )
        options["validate"] = (lambda net: score(way.view(net))) if score else None
        history = training.train(way.net, batches, settings, **options)
        loss = history.records[-1].loss if history.records else None
    weights = way.weights()
    params.load(net, {n: weights[n] for n in own})
    contribution = Contribution(
        site=name,
        net=nets.canonical(asked.net.settings, in_channels=asked.net.in_channels, out_channels=asked.net.out_channels),
        labels=asked.net.labels,
        channels=site.data.modalities,
        cases=len(train),
        ancestor=asked.ancestor,
        parent=asked.parent,
        weights=weights,
        fisher=_fisher(asked, net, train, name),
        fisher_labels="flat" if asked.private and asked.fisher != "none" else asked.fisher,
        settings=asked.key,
        regions=asked.net.regions,
    )
    contribution = poison.poisoned(site.data.control, contribution, start, asked.seed)
    whole.write(sealing.kept(site, asked.key), wire.to_bytes(contribution))
    sealing.forget(asked, payload)
    return loss


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
        (patches.pieces(case) for case in some),
        names,
        labels=asked.fisher,  # type: ignore[arg-type]  # the plan allows the two words only
        generator=torch.Generator().manual_seed(asked.seed),
        likelihood=asked.net.task.likelihood,
        progress=lambda done: report(name, "Fisher", done, len(some)),
    )
