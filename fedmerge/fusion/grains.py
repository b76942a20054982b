"""Grains: what shares one ratio. The whole model, a layer, or an output kernel of a layer.

A group is a set of tensors that share their ratios, and K is how many ratios they have: 1, but for grain kernel.
"""

from collections.abc import Mapping

from torch import Tensor

from fedmerge import partition

GRAINS = ("model", "layer", "kernel")


def groups(
    shapes: Mapping[str, tuple[int, ...]], grain: str, axes: Mapping[str, int]
) -> tuple[dict[str, str], dict[str, int]]:
    """Name -> group, and group -> K. Tensors of a layer that count their kernels differently go apart.

    Args:
        shapes: name -> shape.
        grain: one of `GRAINS`.
        axes: name -> axis of its output kernels (`partition.kernel_axes`); looked at for grain kernel only.
    """
    if grain == "model":
        return dict.fromkeys(shapes, "model"), {"model": 1}
    group_of = partition.layers(shapes)
    if grain == "layer":
        return group_of, dict.fromkeys(group_of.values(), 1)
    count = {name: shape[axes[name]] if shape else 1 for name, shape in shapes.items()}
    counts: dict[str, set[int]] = {}
    for name, group in group_of.items():
        counts.setdefault(group, set()).add(count[name])
    group_of = {name: group if len(counts[group]) == 1 else name for name, group in group_of.items()}
    return group_of, {group: count[name] for name, group in group_of.items()}


def fold(value: Tensor, axis: int | None) -> Tensor:
    """(*s) -> (K, m), m the elements that share a ratio; a view where the kernels come first.

    Args:
        value: a tensor.
        axis: of its output kernels; None: one ratio for the whole tensor.
    """
    if axis is None or not value.dim():
        return value.reshape(1, -1)
    return value.movedim(axis, 0).reshape(value.shape[axis], -1)


def unfold(folded: Tensor, axis: int | None, like: Tensor) -> Tensor:
    """(K, m) -> the shape of `like`; undoes `fold`."""
    if axis is None or not like.dim():
        return folded.reshape(like.shape)
    return folded.reshape(like.movedim(axis, 0).shape).movedim(0, axis).contiguous()


def spread(kernels: Tensor, axis: int | None, like: Tensor) -> Tensor:
    """(K,) -> a view that broadcasts to `like`, one number for each of its kernels."""
    if axis is None or not like.dim():
        return kernels.reshape((1,) * like.dim())
    return kernels.reshape([-1 if d == axis % like.dim() else 1 for d in range(like.dim())])
