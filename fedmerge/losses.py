"""The losses: mean Dice plus cross-entropy for label maps and regions, cross-entropy for classes; at several levels."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fedmerge.errors import ConfigError

Loss = Callable[[Tensor, Tensor], Tensor]
Logits = Tensor | Sequence[Tensor]  # of one level, or of several, the finest first


def dice_ce() -> Loss:
    """MONAI's soft Dice loss over the labels without background, plus cross-entropy over all of them.

    Returns:
        (logits (B, K, *S) float32, labels (B, 1, *S) int64) -> scalar. The Dice part is taken per image and
        label, so a label that an image does not have pushes its probability down there.
    """
    from monai.losses.dice import DiceCELoss  # the import takes a second or two

    loss: Loss = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False)
    return loss


def dice_bce(read: Callable[[Tensor], Tensor]) -> Loss:
    """MONAI's soft Dice loss over regions, plus binary cross-entropy, the mean over regions and voxels.

    The Dice part is taken per image and region, as that of `dice_ce`.

    Args:
        read: a label map (B, 1, *S) -> which regions each voxel is in, (B, R, *S).

    Returns:
        (logits (B, R, *S) float32, labels (B, 1, *S) int64) -> scalar.
    """
    from monai.losses.dice import DiceLoss  # as above

    dice = DiceLoss(sigmoid=True)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        truth = read(labels).to(logits.dtype)
        overlap: Tensor = dice(logits, truth)
        return overlap + F.binary_cross_entropy_with_logits(logits, truth)

    return loss


def cross_entropy() -> Loss:
    """The mean over images of -log softmax at the image's class.

    Returns:
        (logits (B, K) float32, labels (B,) int64) -> scalar.
    """
    return F.cross_entropy


def check_mean(loss: Loss, logits: Logits, labels: Tensor) -> None:
    """Refuse a loss that is no mean over images: the gradients of parts of a batch would not add up to its own.

    It is tried on an image and its negative.

    Args:
        loss: (logits, labels) -> scalar.
        logits: of at least one image, as for `at_levels`.
        labels: likewise.

    Raises:
        ConfigError: of the two images it is another number than the mean of both.
    """
    with torch.no_grad():
        finest = (logits if isinstance(logits, Tensor) else logits[0])[:1]
        label = labels[:1]
        both = float(at_levels(loss, torch.cat([finest, -finest]), torch.cat([label, label])))
        mean = (float(at_levels(loss, finest, label)) + float(at_levels(loss, -finest, label))) / 2
    if math.isfinite(mean) and not math.isclose(both, mean, rel_tol=1e-3, abs_tol=1e-6):
        raise ConfigError(
            f"with several devices the loss expected to be a mean over images: of two images it is {both:g}, "
            f"and the mean of both is {mean:g}"
        )


def at_levels(loss: Loss, logits: Logits, labels: Tensor) -> Tensor:
    """A loss of the logits in float32; of several levels their mean, each level with half the weight of the finer one.

    Deep supervision as in nnU-Net (Isensee et al. 2021): coarser logits against labels of their own size, by nearest
    neighbour.

    Args:
        loss: (logits (B, K, *S) float32, labels (B, 1, *S)) -> scalar.
        logits: (B, K, *S), or several of these, each next one with S smaller.
        labels: (B, 1, *S) of the finest level.
    """
    if isinstance(logits, Tensor):
        return loss(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels)
    total = labels.new_zeros((), dtype=torch.float32)
    for level, one in enumerate(logits):
        seen = F.interpolate(labels.float(), size=one.shape[2:], mode="nearest").to(labels.dtype) if level else labels
        total = total + at_levels(loss, one, seen) / 2**level
    return total / sum(2.0**-level for level in range(len(logits)))
