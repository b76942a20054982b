"""Nets whose hidden units the tests permute."""

import copy

import pytest
from torch import nn

NETS = [
    pytest.param({"dims": dims, "base_filters": 2, **settings}, id=f"{name}-{dims}d")
    for dims in (2, 3)
    for name, settings in {
        **{f"isensee2017-{depth}": {"name": "isensee2017", "depth": depth} for depth in (2, 3, 4, 5)},
        "unet": {"name": "unet", "depth": 4},
        "unet-one-residual": {"name": "unet", "depth": 3, "residual_units": 1},
        "unet-plain": {"name": "unet", "depth": 3, "residual_units": 0},
        "dynunet": {"name": "dynunet", "depth": 4},
        "dynunet-deep": {"name": "dynunet", "depth": 4, "coarse_heads": 2},
        "dynunet-residual": {"name": "dynunet", "depth": 3, "residual": True},
        "segresnet": {"name": "segresnet", "depth": 3},
    }.items()
]
NETS.append(pytest.param({"name": "resnet", "dims": 2, "base_filters": 2, "depth": 3}, id="resnet-2d"))


class Net(nn.Module):
    """Layers by name, and a function that uses them."""

    def __init__(self, layers, does):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, copy.deepcopy(layer))
        self.does = does

    def forward(self, x):
        """Whatever the function does."""
        return self.does(self, x)


def classifier(classes, channels=1, width=8):
    """Two convs with batch norms, global pooling, a linear layer: logits (B, classes)."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, classes),
    )  # fmt: skip
