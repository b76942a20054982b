"""A small contribution whose numbers are the same on every machine."""

import dataclasses

import torch

from fedmerge.contribution import Contribution, Expected

SHAPES = {"stem.weight": (2, 1, 3), "stem.bias": (2,), "norm.weight": (2,), "head.weight": (3, 2)}
FISHER = ("stem.weight", "stem.bias", "norm.weight")
ANCESTOR = "sha256:" + "a" * 64


def ramp(shape, start):
    """Quarters counted up from `start`: exact in float32."""
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape) / 4 + start


def contribution(site="north", **changes):
    """What north sends after three cases."""
    weights = {name: ramp(shape, -1.0 + i) for i, (name, shape) in enumerate(SHAPES.items())}
    made = Contribution(
        site=site,
        net={"name": "isensee2017", "dims": 2, "dropout": 0.3, "size": [1, 3]},
        labels=("organ", "lésion"),
        channels=("T1", "FLAIR"),
        cases=3,
        ancestor=ANCESTOR,
        parent="sha256:" + "b" * 64,
        weights=weights,
        fisher={name: ramp(SHAPES[name], 0.0) for name in FISHER},
        fisher_labels="sampled",
        settings="sha256:" + "c" * 64,
    )
    return dataclasses.replace(made, **changes)


def expected(**changes):
    """What the campaign expects of it."""
    c = contribution()
    agreed = Expected(SHAPES, FISHER, c.ancestor, c.net, c.labels, c.parent, c.settings, ("sampled", "flat"))
    return dataclasses.replace(agreed, **changes)
