"""MONAI's DynUNet with heads at coarser levels, which deep supervision takes a loss of (Isensee et al. 2021).

MONAI's own class answers a training net with all levels in one tensor, the coarser ones enlarged to the finest one's
size, and keeps what its heads said last. Here the net answers with the finest logits whatever its mode, and `levels`
gives each level at its own size. Parameters and their names are MONAI's, so are the numbers.
"""

from monai.networks.nets import dynunet
from torch import Tensor


class Supervised(dynunet.DynUNet):
    """The net; made with `deep_supervision=True`."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, out_channels, *S) of images (B, in_channels, *S); the coarser heads are not asked."""
        out: Tensor = self.output_block(self._decoded(x)[0])
        return out

    def levels(self, x: Tensor) -> list[Tensor]:
        """The logits of each level that has a head, (B, out_channels, *S / stride), the finest first."""
        heads = [self.output_block, *self.deep_supervision_heads]
        return [head(features) for head, features in zip(heads, self._decoded(x))]

    def _decoded(self, x: Tensor) -> list[Tensor]:
        """The decoder's features at each level, the finest first."""
        skips = []
        for block in (self.input_block, *self.downsamples):
            x = block(x)
            skips.append(x)
        x = self.bottleneck(x)
        found: list[Tensor] = []
        for up, skip in zip(self.upsamples, reversed(skips)):
            x = up(x, skip)
            found.insert(0, x)
        return found
