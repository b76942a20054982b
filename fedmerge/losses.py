"""The losses: mean Dice plus cross-entropy for label maps, cross-entropy alone for classes."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def dice_ce() -> Loss:
    """MONAI's soft Dice loss over the labels without background, plus cross-entropy over all of them.

    Returns:
        (logits (B, K, *S) float32, labels (B, 1, *S) int64) -> scalar. The Dice part is taken per image and
        label, so a label that an image does not have pushes its probability down there.
    """
    from monai.losses.dice import DiceCELoss  # the import takes a second or two

    loss: Loss = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False)
    return loss


def cross_entropy() -> Loss:
    """The mean over images of -log softmax at the image's class.

    Returns:
        (logits (B, K) float32, labels (B,) int64) -> scalar.
    """
    return F.cross_entropy
