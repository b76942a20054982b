"""What a net does with a patch, layer by layer: the order of its convs and linear layers, and what each makes.

Found by running the net without storage, so it holds for every net that can be built from a campaign's settings.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fedmerge import nets

KINDS = nets.DRAWN


@dataclass(frozen=True)
class Layer:
    """One layer in the order in which the net computes.

    Attributes:
        name: the module's.
        size: of its output's axes behind the channels; empty for a linear layer.
        channels: of its output.
        level: how often the patch was halved; 0 is the finest.
        rising: whether it stands behind the coarsest level, on the way back to the patch's size.
    """

    name: str
    size: tuple[int, ...]
    channels: int
    level: int
    rising: bool


def of(settings: Mapping[str, Any], patch: Sequence[int], *, in_channels: int, out_channels: int) -> list[Layer]:
    """The layers of a net.

    Args:
        settings: as for `nets.build`, without the campaign's own keys.
        patch: voxels along each axis.
        in_channels: of an image.
        out_channels: logits.

    Raises:
        ConfigError, NetError: the net cannot be built, or does not take the patch.
    """
    net = nets.on_meta(settings, in_channels=in_channels, out_channels=out_channels).eval()
    found: list[tuple[str, tuple[int, ...]]] = []
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: found.append((name, tuple(out.shape))))
        for name, module in net.named_modules()
        if isinstance(module, KINDS)
    ]
    with torch.no_grad():
        net(torch.empty(1, in_channels, *patch, device="meta"))
    for hook in hooks:
        hook.remove()
    return _levels(found, patch)


def _levels(found: Sequence[tuple[str, tuple[int, ...]]], patch: Sequence[int]) -> list[Layer]:
    """The layers with their levels, each once; what has no sides left belongs to the coarsest level."""
    seen: dict[str, tuple[int, ...]] = {}
    for name, shape in found:
        seen.setdefault(name, shape)
    halved = [
        round(math.log2(math.prod(patch) / math.prod(shape[2:])) / len(patch))
        for shape in seen.values()
        if len(shape) > 2
    ]
    deepest = max(halved, default=0)
    levels = iter(halved)
    layers, bottom = [], False
    for name, shape in seen.items():
        level = next(levels) if len(shape) > 2 else deepest
        layers.append(Layer(name, shape[2:], shape[1], level, rising=bottom and level < deepest))
        bottom = bottom or level == deepest
    return layers
