"""A compact residual net for images of one class each, after He et al., "Identity Mappings in Deep Residual Networks".

arXiv:1603.05027 (2016): every conv stands behind a norm and an activation, and what is added up stays linear.

* a 3x3 conv as stem;
* at each level two units (norm, LeakyReLU, 3x3 conv) added to their input; between levels one unit of stride 2 that
  doubles the features;
* a last norm and LeakyReLU, the mean over all pixels, and a linear layer with a row for each class.

*Norm.* Group norm with a single group (Wu & He 2018): no running statistics. Instance norm would give every channel
the same mean in every image, just before the means are all that is left; and since a single group asks for no order of
the channels, all hidden units may change places, as alignment needs it.
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from fedmerge.errors import ConfigError


class Unit(nn.Module):
    """Norm, LeakyReLU, conv without bias."""

    def __init__(self, inside: int, outside: int, *, stride: int = 1) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, inside)
        self.conv = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, X, Y) to (B, outside, X / stride, Y / stride)."""
        out: Tensor = self.conv(F.leaky_relu(self.norm(x), 0.01))
        return out


class Block(nn.Module):
    """Two units, added to their input."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.first = Unit(features, features)
        self.second = Unit(features, features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, features, X, Y) to the same shape."""
        out: Tensor = x + self.second(self.first(x))
        return out


class ResNet(nn.Module):
    """The net; see the module's docstring."""

    def __init__(self, in_channels: int, out_channels: int, features: list[int], dropout: float) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, features[0], 3, padding=1, bias=False)
        self.down = nn.ModuleList(Unit(a, b, stride=2) for a, b in pairwise(features))
        self.blocks = nn.ModuleList(Block(n) for n in features)
        self.norm = nn.GroupNorm(1, features[-1])
        self.dropout = nn.Dropout(dropout) if dropout else None
        self.head = nn.Linear(features[-1], out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, out_channels) of images (B, in_channels, X, Y)."""
        x = self.blocks[0](self.stem(x))
        for down, block in zip(self.down, self.blocks[1:]):
            x = block(down(x))
        x = F.leaky_relu(self.norm(x), 0.01).mean((2, 3))
        if self.dropout is not None:
            x = self.dropout(x)
        out: Tensor = self.head(x)
        return out


def build(
    in_channels: int,
    out_channels: int,
    *,
    dims: int = 2,
    base_filters: int = 16,
    depth: int = 3,
    dropout: float = 0.0,
) -> nn.Module:
    """The net with `depth` levels, the first of `base_filters` features.

    Raises:
        ConfigError: dims other than 2, depth outside 2 to 6, no filters, or dropout outside [0, 1).
    """
    if dims != 2:
        raise ConfigError(f"net resnet: dims expected 2, got {dims}")
    if not 2 <= depth <= 6:
        raise ConfigError(f"net resnet: depth expected 2 to 6, got {depth}")
    if base_filters < 1:
        raise ConfigError(f"net resnet: base_filters expected at least 1, got {base_filters}")
    if not 0 <= dropout < 1:
        raise ConfigError(f"net resnet: dropout expected in [0, 1), got {dropout}")
    return ResNet(in_channels, out_channels, [base_filters * 2**level for level in range(depth)], dropout)
