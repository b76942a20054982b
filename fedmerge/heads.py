"""Heads as rows: put side by side for a net that keeps an earlier task, and stitched for a target of several tasks.

A head's parameters count the labels along one axis: channel 0 is the background, channel k the k-th label. That holds
for a conv or linear layer; a net that ends otherwise (MONAI's UNet, whose last norm counts labels too) is refused.

    logit(label) - logit(background)        is all that softmax and argmax see of one task's head

so heads of several tasks over the same features become one (stitching): the background's row of the first, and for each
label its row minus its own head's background row, plus that of the first. Where several heads know a label, the mean.

A classifier has a row for each class and none for the background: of its head, softmax sees the differences between
classes only. Two such heads can be put beside each other where they share a class, which takes the background's part.

A row of a region (`fedmerge.regions`) says yes or no by itself: such rows stand beside each other as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedmerge import params, partition
from fedmerge.errors import NetError
from fedmerge.params import Params

KEPT = "@"  # a head that a site kept for an earlier one travels as "NAME@SITE"


@dataclass(frozen=True)
class Head:
    """One task's head.

    Attributes:
        labels: what its rows stand for (`answers.Task.rows`), background left out.
        weights: name -> tensor with `len(labels) + 1` rows; of a classifier and of regions with `len(labels)`.
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


def knowing(labels: Sequence[str], known: Sequence[Sequence[str]], what: str = "label") -> list[int]:
    """Which heads know one of the labels, or regions.

    Args:
        labels: the wanted ones.
        known: those of each head.
        what: what they are called.

    Raises:
        NetError: a label is in none of the heads.
    """
    for label in labels:
        if not any(label in own for own in known):
            theirs = ", ".join(dict.fromkeys(name for own in known for name in own))
            raise NetError(
                f"the {what} '{label}' is none of the sources' ({theirs or 'none'}): heads cannot be stitched"
            )
    return [k for k, own in enumerate(known) if set(own) & set(labels)]


def linked(labels: Sequence[str], known: Sequence[Sequence[str]]) -> list[int]:
    """Which classifiers' heads know one of the classes, in an order in which each shares a class with those before.

    Where one head knows all of them, it alone.

    Raises:
        NetError: a class is in none of the heads, or heads that are needed have no class in common with the others.
    """
    waiting = knowing(labels, known)
    for k in waiting:
        if set(labels) <= set(known[k]):
            return [k]
    order = [waiting.pop(0)]
    while waiting:
        seen = {label for k in order for label in known[k]}
        head = next((k for k in waiting if seen & set(known[k])), None)
        if head is None:
            here, there = ", ".join(known[order[0]]), ", ".join(known[waiting[0]])
            raise NetError(
                f"the classes ({here}) and ({there}) of two sources have none in common: a classifier's head says "
                "how its classes differ from each other, so such heads cannot be stitched"
            )
        waiting.remove(head)
        order.append(head)
    return order


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
    needed = [heads[k] for k in knowing(labels, [head.labels for head in heads])]
    stitched = {}
    for name, along in axis.items():
        first = needed[0].weights[name].movedim(along, 0)[0]
        rows = [first]
        for label in labels:
            found = []
            for head in needed:
                if label in head.labels:
                    own = head.weights[name].movedim(along, 0)
                    row = own[head.labels.index(label) + 1]
                    found.append(row if head is needed[0] else row - own[0] + first)
            rows.append(found[0] if len(found) == 1 else torch.stack(found).mean(0))
        stitched[name] = torch.stack(rows).movedim(0, along).contiguous()
    return stitched


def stitch_regions(labels: Sequence[str], heads: Sequence[Head], axis: Mapping[str, int]) -> Params:
    """A head for these regions out of the heads that know them: each row as it is, of several heads the mean.

    Args:
        labels: the wanted regions, in the order of the channels.
        heads: at least one; those that know none of the regions are left aside, and so are heads of labels.
        axis: from `axes`.

    Returns:
        name -> tensor with `len(labels)` rows.

    Raises:
        NetError: a region is in none of the heads.
    """
    knowing(labels, [head.labels for head in heads], "region")
    stitched = {}
    for name, along in axis.items():
        rows = []
        for label in labels:
            places = [(head, head.labels.index(label)) for head in heads if label in head.labels]
            found = [head.weights[name].movedim(along, 0)[place] for head, place in places]
            rows.append(found[0] if len(found) == 1 else torch.stack(found).mean(0))
        stitched[name] = torch.stack(rows).movedim(0, along).contiguous()
    return stitched


def stitch_classes(labels: Sequence[str], heads: Sequence[Head], axis: Mapping[str, int]) -> Params:
    """A classifier's head for these classes out of the heads that know them.

    The rows of a head may all be moved by one vector without changing its answers. So each head is moved until the
    classes that it shares with those before it lie, on the mean, where they lie there:

        row(c) + mean over shared s of (placed(s) - row(s))

    Args:
        labels: the wanted classes, in the order of the channels.
        heads: at least one; those that know none of the classes are left aside.
        axis: from `axes`.

    Returns:
        name -> tensor with `len(labels)` rows. Where one head knows all classes, its own rows bit for bit.

    Raises:
        NetError: a class is in none of the heads, or heads that are needed have no class in common with the others.
    """
    order = [heads[k] for k in linked(labels, [head.labels for head in heads])]
    return {name: _placed(labels, order, name, along) for name, along in axis.items()}


def _placed(labels: Sequence[str], order: Sequence[Head], name: str, along: int) -> Tensor:
    """The rows of one parameter: each head moved onto the classes that it shares with those before."""
    placed: dict[str, list[Tensor]] = {}
    for head in order:
        own = dict(zip(head.labels, head.weights[name].movedim(along, 0)))
        shared = [torch.stack(placed[label]).mean(0) - own[label] for label in own if label in placed]
        for label, row in own.items():
            placed.setdefault(label, []).append(row + torch.stack(shared).mean(0) if shared else row)
    rows = [placed[label][0] if len(placed[label]) == 1 else torch.stack(placed[label]).mean(0) for label in labels]
    return torch.stack(rows).movedim(0, along).contiguous()
