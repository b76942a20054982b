"""Federated averaging over rounds: the sources train a few steps each from their average, again and again.

    fedavg          theta = sum_k n_k theta_k / sum_k n_k           McMahan et al. 2017; n_k: the cases of source k
    fedprox         the same, with mu/2 ||theta_k - theta||^2 in each source's loss          Li et al. 2020
    fedavg-fisher   weighted by the sources' Fishers, element by element         Matena & Raffel 2022

What is averaged is P and the norm parameters. Heads stay each source's own and go on from round to round: the tasks
differ, as in FedPer (Arivazhagan et al. 2019). All rounds together have as many steps as one training of a campaign.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from fedmerge import acceptance, params, schedules
from fedmerge.fusion import mixing
from fedmerge.params import Params
from server import holding, training
from server.exchange import Conversation
from server.ground import Ground
from server.made import Made, Start
from server.stages import Train

log = logging.getLogger("fedmerge")


def rounds(ground: Ground, chain: int, way: str) -> Iterator[list[Conversation]]:
    """The conversations of one round after the other; what they end with is `ground.made[chain, way]`.

    Args:
        ground: the campaign.
        chain: which independent training.
        way: one of `fusion.ROUNDS`.

    Raises:
        CampaignStopped: a round's weights are held for the coordinator's word (`server.holding`).
    """
    plan = ground.plan
    body = ground.ancestor(chain)
    heads: dict[str, Params] = {}
    for number in range(plan.train.rounds):
        name = f"{way}-{number}"
        yield [_one(ground, site, chain, way, number, {**body, **heads.get(site, {})}) for site in plan.sources]
        holding.judge(ground, name)
        came = {site: ground.made.pop((chain, f"{name}:{site}"), None) for site in plan.sources}
        there = {site: made for site, made in came.items() if made is not None}
        if not there:
            return  # its row says so
        for site, made in there.items():
            heads[site] = params.split(made.open().weights, ground.nets[site].heads)[0]
        body = _average(ground, list(there.values()), way)
        log.info("%s, chain %d: round %d of %d, %d sources", way, chain, number + 1, plan.train.rounds, len(there))
    path = ground.keep(body)
    ground.made[chain, way] = Made(way, path, acceptance.name_of(path))


def _one(ground: Ground, site: str, chain: int, way: str, number: int, start: Params) -> Conversation:
    """One source's part in one round."""
    train = ground.plan.train
    return training.source(
        ground,
        site,
        chain,
        Start.of(start),
        f"{way}-{number}",
        otherwise={
            "settings": _settings(train, ground.sites[site].train, number),
            "way": "fedprox" if way == "fedprox" else "plain",
            "strength": train.strength(way),
            "fisher": train.fisher if way == "fedavg-fisher" else "none",
        },
    )


def _settings(train: Train, cases: int, number: int) -> dict[str, Any]:
    """A round's share of the steps, at the rate that the schedule has in its middle."""
    whole = train.settings(cases)
    begin, end = (whole["steps"] * k // train.rounds for k in (number, number + 1))
    factor = schedules.factor(train.schedule, 2 * number + 1, 2 * train.rounds, final=train.final, cycles=train.cycles)
    return {**whole, "steps": end - begin, "lr": train.lr * factor, "schedule": "constant", "validate_every": 0}


def _average(ground: Ground, made: Sequence[Made], way: str) -> Params:
    """P and the norm parameters of the sources as one model."""
    given = [one.open() for one in made]
    net = ground.nets[made[0].site]
    names = [name for name in given[0].weights if name in {*net.fusable, *net.norms}]
    rule = "mode" if way == "fedavg-fisher" else "mean"
    mix = mixing.prepare(
        [c.weights for c in given], [c.fisher for c in given] if rule == "mode" else None, names,
        rule=rule, grain="model", who=[one.site for one in made],
    )  # fmt: skip
    return mixing.fuse(mix, mixing.given(mix, [c.cases for c in given]))
