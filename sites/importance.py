"""The Fisher of a received model, made at the target: on its own images, with labels drawn from the model itself.

A source's Fisher is a second release of its patients, and one that tests for a single patient (`docs/attacks.md`). This
one is of the target's patients, and stays where they are. It asks what the model would say of the images that it is
wanted for; its own head answers, and no label of the target is looked at.
"""

import hashlib
from collections.abc import Sequence

import torch

from fedmerge import answers, devices, fisher, nets, params, partition, tasks
from fedmerge.contribution import Contribution
from fedmerge.params import Params
from sites import inbound, patches
from sites.inbound import Declined
from sites.loading import Loaded
from sites.progress import report
from sites.records import Site


def fisher_of(site: Site, row: tasks.Row, model: Contribution, train: Sequence[Loaded]) -> Params:
    """The diagonal Fisher of a model over the target's training cases.

    Args:
        site: the target.
        row: what the Fisher is for: P and the norm parameters of its net; its seed draws the labels.
        model: a source's contribution.
        train: the cases.

    Returns:
        name -> float32, not normalised.

    Raises:
        Declined: the model reads other channels than the target's images have, or its net is not the policy's.
    """
    settings = dict(model.net)
    inputs, outputs = settings["in_channels"], settings["out_channels"]
    if inputs != row.net.in_channels:
        raise Declined(
            f"{site.name}: a Fisher at the target expected models of {row.net.in_channels} image channels, "
            f"got {inputs} in that of {model.site}"
        )
    inbound.check_net(site, settings)
    net = nets.build(settings, in_channels=inputs, out_channels=outputs, seed=0)
    params.load(net, {name: model.weights[name] for name in params.shapes(net)})
    devices.place(net, devices.resolve())
    if row.buffers == "re-estimate":
        partition.reestimate(net, patches.images(train))
    return fisher.diagonal(
        net,
        [patches.pieces(case) for case in train],
        [*row.net.fusable, *row.net.norms],
        generator=torch.Generator().manual_seed(seed_of(row, model)),
        likelihood=answers.of(settings, model.labels, model.regions).likelihood,
        progress=lambda done: report(site.name, f"Fisher of {model.site}", done, len(train)),
    )


def seed_of(row: tasks.Row, model: Contribution) -> int:
    """A seed of its own for each model, the same in every run of the row."""
    return int(hashlib.sha256(f"{row.seed} {params.digest(model.weights)}".encode()).hexdigest()[:8], 16)
