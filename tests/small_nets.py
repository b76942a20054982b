"""Nets and cases small enough to check by hand, in 2D and 3D."""

import torch
from torch import nn

from fedmerge import params

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
UP = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
FUSABLE = ("stem.weight", "stem.bias", "down.weight", "down.bias", "up.weight", "up.bias")
NORMS = ("norm.weight", "norm.bias")
HEADS = ("head.weight", "head.bias")


class Small(nn.Module):
    """Conv, instance norm, strided conv, transposed conv, dropout, head: logits of the image's own size."""

    def __init__(self, dims=2, channels=1, width=4, classes=3):
        super().__init__()
        self.stem = CONV[dims](channels, width, 3, padding=1)
        self.norm = NORM[dims](width, affine=True)
        self.down = CONV[dims](width, width + 2, 3, stride=2, padding=1)
        self.up = UP[dims](width + 2, width, 2, stride=2)
        self.drop = nn.Dropout(0.5)
        self.head = CONV[dims](width, classes, 1)

    def forward(self, x):
        """(B, C, *S) to (B, K, *S); S even."""
        x = torch.tanh(self.norm(self.stem(x)))
        return self.head(self.drop(torch.tanh(self.up(torch.tanh(self.down(x))))))


def make(dims=2, seed=0, **sizes):
    """A net whose weights are a function of the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Small(dims, **sizes)


def weights(dims=2, seed=0, dtype=torch.float32):
    """All parameters of such a net."""
    return {name: value.to(dtype) for name, value in params.of(make(dims, seed)).items()}


def fishers(like, seed=0):
    """Positive numbers over six decades, as real Fishers have them, for each fusable tensor."""
    g = torch.Generator().manual_seed(1000 + seed)
    return {
        name: (10 ** (torch.rand(like[name].shape, generator=g, dtype=torch.float64) * 6 - 5)).to(like[name].dtype)
        for name in FUSABLE
    }


def cases(dims=2, count=5, size=6, classes=3):
    """(image (1, *S), label (1, *S)) with random voxels and labels."""
    g = torch.Generator().manual_seed(7)
    shape = (1, *[size] * dims)
    return [(torch.randn(shape, generator=g), torch.randint(0, classes, shape, generator=g)) for _ in range(count)]
