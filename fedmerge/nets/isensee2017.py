"""The 3D U-Net of Isensee et al., "Brain Tumor Segmentation and Radiomics Survival Prediction" (BraTS 2017).

arXiv:1802.10508, figure 1; the net that T-IMM (Geyer et al. 2019) merges. From the paper:

* a context module per level: two 3x3x3 convs with dropout in between, added to the module's input;
* 3x3x3 convs of stride 2 between the levels, each with twice the features of the level above;
* upsampling by repeating each voxel twice along each axis, then a 3x3x3 conv that halves the features;
* the skip is concatenated, and a localisation module follows: a 3x3x3 conv, then a 1x1x1 conv that halves
  the features; the last level has the 3x3x3 conv alone;
* segmentation layers (1x1x1) at the three finest levels, upsampled and added up;
* LeakyReLU of slope 0.01 and instance norm everywhere.

What the paper leaves open, and what is done here:

* *Pre-activation.* The context modules are "pre-activation" blocks; here every conv but the first is one:
  instance norm, LeakyReLU, conv. The sums between them stay linear.
* *Biases.* The output of every conv of the body reaches instance norms only (through sums, skips and repeated
  voxels, which keep a constant a constant), and an instance norm subtracts whatever is constant in a channel.
  A bias there could not change the output and its gradient would be rounding noise, so there is none: only
  the segmentation layers have one.
* *Dropout* drops whole channels, and stands directly in front of the second conv: in front of the norm its
  factor 1 / (1 - p) would be divided out again.
* *Deep supervision.* The paper calls the sum of the segmentation layers so, and takes its loss of the sum alone.
  `levels` gives the sum as far as it has come at each level, for whoever wants a loss there too; the parameters are
  the same.
* *Depth.* A net of depth 2 or 3 has one or two decoder levels and so many segmentation layers.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedmerge.errors import ConfigError, NetError

HEADS = 3  # segmentation layers of the paper; a shallow net has one per decoder level


class Layers(NamedTuple):
    """The three layers that differ between 2D and 3D."""

    conv: type[nn.Conv2d] | type[nn.Conv3d]
    norm: type[nn.InstanceNorm2d] | type[nn.InstanceNorm3d]
    dropout: type[nn.Dropout2d] | type[nn.Dropout3d]


LAYERS = {
    2: Layers(nn.Conv2d, nn.InstanceNorm2d, nn.Dropout2d),
    3: Layers(nn.Conv3d, nn.InstanceNorm3d, nn.Dropout3d),
}


def upsample(x: Tensor) -> Tensor:
    """Each voxel twice along each axis: (B, C, *S) to (B, C, *2S).

    Repeating is what the paper does; unlike linear interpolation its gradient on a GPU is also the same in
    every run.
    """
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Unit(nn.Module):
    """Instance norm, LeakyReLU, optionally dropout or upsampling, conv."""

    def __init__(
        self,
        layers: Layers,
        inside: int,
        outside: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        dropout: float = 0.0,
        up: bool = False,
    ) -> None:
        super().__init__()
        self.up = up
        self.norm = layers.norm(inside, affine=True)
        self.dropout = layers.dropout(dropout) if dropout else None
        self.conv = layers.conv(inside, outside, kernel, stride=stride, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, *S) to (B, outside, *S / stride), or *2S with `up`."""
        x = F.leaky_relu(self.norm(x), 0.01)
        if self.dropout is not None:
            x = self.dropout(x)
        if self.up:  # repeating commutes with norm and LeakyReLU, and after them those cost an eighth
            x = upsample(x)
        out: Tensor = self.conv(x)
        return out


class Context(nn.Module):
    """Two units with dropout in between, added to their input."""

    def __init__(self, layers: Layers, features: int, dropout: float) -> None:
        super().__init__()
        self.first = Unit(layers, features, features)
        self.second = Unit(layers, features, features, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, features, *S) to the same shape."""
        out: Tensor = x + self.second(self.first(x))
        return out


class Head(nn.Module):
    """A segmentation layer: instance norm, LeakyReLU, 1x1x1 conv with bias."""

    def __init__(self, layers: Layers, features: int, out_channels: int) -> None:
        super().__init__()
        self.norm = layers.norm(features, affine=True)
        self.conv = layers.conv(features, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, features, *S) to logits (B, out_channels, *S)."""
        out: Tensor = self.conv(F.leaky_relu(self.norm(x), 0.01))
        return out


class Isensee2017(nn.Module):
    """The net; see the module's docstring."""

    def __init__(
        self, layers: Layers, in_channels: int, out_channels: int, features: list[int], dropout: float
    ) -> None:
        super().__init__()
        depth = len(features)
        self.stem = layers.conv(in_channels, features[0], 3, padding=1, bias=False)
        self.down = nn.ModuleList(Unit(layers, a, b, stride=2) for a, b in pairwise(features))
        self.context = nn.ModuleList(Context(layers, n, dropout) for n in features)
        # decoder lists are indexed by level: 0 is the finest
        self.up = nn.ModuleList(Unit(layers, b, a, up=True) for a, b in pairwise(features))
        self.localise = nn.ModuleList(Unit(layers, 2 * n, 2 * n) for n in features[:-1])
        self.halve = nn.ModuleList(Unit(layers, 2 * n, n, kernel=1) for n in features[1:-1])
        wide = [2 * features[0], *features[1:-1]]
        self.heads = nn.ModuleList(Head(layers, n, out_channels) for n in wide[:HEADS])
        self.factor = 2 ** (depth - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, out_channels, *S) of images (B, in_channels, *S).

        Raises:
            NetError: a side is not divisible by 2^(depth - 1), or the coarsest level would be one voxel.
        """
        return self.levels(x)[0]

    def levels(self, x: Tensor) -> list[Tensor]:
        """The logits as they add up from level to level, (B, out_channels, *S / 2^level), the finest first.

        Raises:
            NetError: as `forward`.
        """
        self.check(x.shape[2:])
        skips = []
        x = self.context[0](self.stem(x))
        for down, context in zip(self.down, self.context[1:]):
            skips.append(x)
            x = context(down(x))
        found: list[Tensor] = []
        for level in reversed(range(len(skips))):
            x = self.localise[level](torch.cat([self.up[level](x), skips[level]], dim=1))
            if level:
                x = self.halve[level - 1](x)
            if level < len(self.heads):
                here = self.heads[level](x)
                found.insert(0, upsample(found[0]) + here if found else here)
        return found

    def check(self, size: torch.Size) -> None:
        """Refuse an image size that the levels cannot halve (see `forward`)."""
        got = "x".join(map(str, size))
        if any(side < self.factor or side % self.factor for side in size):
            raise NetError(f"image size {got}: every side must be divisible by {self.factor}")
        if all(side == self.factor for side in size):
            raise NetError(f"image size {got} leaves one voxel at the coarsest level: expected larger images")


def build(
    in_channels: int,
    out_channels: int,
    *,
    dims: int = 3,
    base_filters: int = 16,
    depth: int = 5,
    dropout: float = 0.3,
) -> nn.Module:
    """The net of the paper with its defaults, or a smaller one, in 2D or 3D.

    Raises:
        ConfigError: dims other than 2 or 3, depth outside 2 to 5, no filters, or dropout outside [0, 1).
    """
    if dims not in LAYERS:
        raise ConfigError(f"net isensee2017: dims expected 2 or 3, got {dims}")
    if not 2 <= depth <= 5:
        raise ConfigError(f"net isensee2017: depth expected 2 to 5, got {depth}")
    if base_filters < 1:
        raise ConfigError(f"net isensee2017: base_filters expected at least 1, got {base_filters}")
    if not 0 <= dropout < 1:
        raise ConfigError(f"net isensee2017: dropout expected in [0, 1), got {dropout}")
    features = [base_filters * 2**level for level in range(depth)]
    return Isensee2017(LAYERS[dims], in_channels, out_channels, features, dropout)
