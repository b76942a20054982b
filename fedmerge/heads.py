"""Heads as rows: put side by side for a net that keeps an earlier task, and stitched for a target of several tasks.

A head's parameters count the labels along one axis: channel 0 is the background, channel k the k-th label. That holds
for a conv or linear layer; a net that ends otherwise (MONAI's UNet, whose last norm counts labels too) is refused.

    logit(label) - logit(background)        is all that softmax and argmax see of one task's head

so heads of several tasks over the same features become one (stitching): the background's row of the first, and for each
label its row minus its own head's background row, plus that of the first. Where several heads know a label, the mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fedmerge import params, partition
from fedmerge.errors import NetError
from fedmerge.params import Params

KEPT = "@"  # a head that a site kept for an earlier one travels as "NAME@SITE"


@dataclass(frozen=True)
class Head:
    """One task's head.

    Attributes:
        labels: in the order of the channels, background left out.
        weights: name -> tensor with `len(labels) + 1` rows.
    """

    labels: tuple[str, ...]
    weights: Params


def axes(net: nn.Module, names: Sequence[str]) -> dict[str, int]:
    """The axis of each head parameter that counts labels.

    Args:
        net: any module; the meta device is enough.
        names: its heads (`nets.heads`).

    Raises:
        NetError: a head's parameter belongs to no conv or linear layer, so its rows do not stand for themselves.
    """
    kernels = partition.kernel_axes(net)
    for name in names:
        layer = net.get_submodule(name.rpartition(".")[0])
        if not isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)) or getattr(layer, "groups", 1) > 1:
            raise NetError(f"'{name}' is of a {type(layer).__name__}: heads of such a net cannot be put together")
    inner = {name.rpartition(".")[0] for name in names}
    shapes = params.shapes(net)
    if any(len({shapes[n][kernels[n]] for n in names if n.startswith(f"{layer}.")}) > 1 for layer in inner):
        raise NetError("a layer of the head counts labels along two axes: heads of such a net cannot be put together")
    return {name: kernels[name] for name in names}


def join(heads: Sequence[Params], axis: Mapping[str, int]) -> Params:
    """Several heads' rows behind one another: name -> (sum of rows, ...)."""
    return {name: torch.cat([head[name] for head in heads], dim=axis[name]) for name in axis}


def split(joined: Params, rows: Sequence[int], axis: Mapping[str, int]) -> list[Params]:
    """Undoes `join`: one head for each number of rows."""
    cut = {name: torch.split(joined[name], list(rows), dim=axis[name]) for name in axis}
    return [{name: cut[name][k].contiguous() for name in axis} for k in range(len(rows))]


def kept(weights: Params, names: Sequence[str]) -> dict[str, Params]:
    """The heads that a model keeps for other sites, by site, in the order in which they come."""
    found: dict[str, Params] = {}
    for full, value in weights.items():
        name, mark, site = full.partition(KEPT)
        if mark and name in names:
            found.setdefault(site, {})[name] = value
    return found


def stitch(labels: Sequence[str], heads: Sequence[Head], axis: Mapping[str, int]) -> Params:
    """A head for these labels out of the heads that know them.

    Args:
        labels: the wanted ones, in the order of the channels.
        heads: at least one; those that know none of the labels are left aside.
        axis: from `axes`.

    Returns:
        name -> tensor with `len(labels) + 1` rows. Where one head knows all labels, its own rows bit for bit.

    Raises:
        NetError: a label is in none of the heads.
    """
    knowing = [head for head in heads if set(head.labels) & set(labels)]
    for label in labels:
        if not any(label in head.labels for head in knowing):
            known = ", ".join(dict.fromkeys(name for head in heads for name in head.labels))
            raise NetError(f"the label '{label}' is none of the sources' ({known}): heads cannot be stitched")
    stitched = {}
    for name, along in axis.items():
        first = knowing[0].weights[name].movedim(along, 0)[0]
        rows = [first]
        for label in labels:
            found = []
            for head in knowing:
                if label in head.labels:
                    own = head.weights[name].movedim(along, 0)
                    row = own[head.labels.index(label) + 1]
                    found.append(row if head is knowing[0] else row - own[0] + first)
            rows.append(found[0] if len(found) == 1 else torch.stack(found).mean(0))
        stitched[name] = torch.stack(rows).movedim(0, along).contiguous()
    return stitched
