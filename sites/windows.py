"""What a net says of images: of patches at once, of a whole volume window by window.

Windows lie on a grid with a share of overlap, and their logits are averaged with the weights of a Gaussian around each
window's centre (Isensee et al. 2021), since a net knows least at its borders: MONAI's `sliding_window_inference`. With
flips the logits are the mean over the image and its mirror images along every set of axes, eight in 3D.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fedmerge import devices

OVERLAP = 0.5  # share of a side that neighbouring windows have in common: nnU-Net's

SMALL = 2**16  # voxels of a window: up to here the CPU answers two of them sooner than one


def segment(
    net: nn.Module,
    images: Tensor,
    device: str | torch.device = "auto",
    precision: str = "auto",
    *,
    regions: bool = False,
) -> Tensor:
    """Probabilities in evaluation mode, which is undone afterwards.

    Args:
        net: (B, C, *patch) -> logits (B, K + 1, *patch); it is moved to the device.
        images: (B, C, *patch) float32.
        device: as for training.
        precision: as for training.
        regions: whether the net's channels are regions, each with a probability of its own.

    Returns:
        (B, K + 1, *patch) float32 on the CPU; the channels of a voxel sum to 1. Of a classifier (B, K), of regions
        (B, R, *patch).
    """
    with asking(net, device, precision) as (ask, where):
        logits = ask(images.to(where))
        return (logits.sigmoid() if regions else torch.softmax(logits, dim=1)).cpu()


def sweep(
    net: nn.Module,
    image: Tensor,
    window: Sequence[int],
    *,
    overlap: float = OVERLAP,
    flips: bool = False,
    device: str | torch.device = "auto",
    precision: str = "auto",
    regions: bool = False,
) -> Tensor:
    """Probabilities of a volume, as `segment`, from as many windows as it takes.

    Args:
        net: as for `segment`.
        image: (C, *S) float32, no side below the window's.
        window: (X, Y, Z) of what the net sees at once.
        overlap: share of a side that neighbouring windows have in common, below 1.
        flips: whether to take the mean over the mirrored images too, for eight times the work.
        device: as for training.
        precision: as for training.
        regions: as for `segment`.

    Returns:
        (K + 1, *S), of regions (R, *S), float32 on the CPU. Beside it the memory holds the logits, their weights, and
        one batch of windows.
    """
    from monai.inferers.utils import sliding_window_inference  # the import takes a second or two

    batch = together(count(image.shape[1:], window, overlap))
    axes = range(2, image.dim() + 1)
    mirrors = [sides for n in range(len(axes) + 1) for sides in itertools.combinations(axes, n)] if flips else [()]
    with asking(net, device, precision) as (ask, where):

        def mean(images: Tensor) -> Tensor:
            alone = len(images) == 1 and where.type == "cpu" and math.prod(window) <= SMALL
            images = torch.cat([images, images]) if alone else images
            total = sum(ask(images.flip(sides)).flip(sides) for sides in mirrors)
            return (total / len(mirrors))[: 1 if alone else None]  # type: ignore[index]  # a sum of tensors

        logits = sliding_window_inference(
            image[None].to(where), tuple(window), batch, mean, overlap=overlap, mode="gaussian"
        )
        return (logits[0].sigmoid() if regions else torch.softmax(logits[0], dim=0)).cpu()


def count(size: Sequence[int], window: Sequence[int], overlap: float) -> int:
    """Windows that a volume takes."""
    steps = [max(1, int(side * (1 - overlap))) for side in window]
    return math.prod(math.ceil((n - side) / step) + 1 for n, side, step in zip(size, window, steps, strict=True))


def together(windows: int) -> int:
    """Windows in a batch: few, for the memory's sake, and so that none is left over alone: slow in float32 on a CPU."""
    return next((batch for batch in (2, 3, 4, 5, 7) if windows % batch != 1), 2)


@contextmanager
def asking(
    net: nn.Module, device: str | torch.device, precision: str
) -> Iterator[tuple[Callable[[Tensor], Tensor], torch.device]]:
    """Inside, a function that gives the net's logits in float32, and where it wants its images."""
    where = devices.resolve(device)
    dtype = devices.precision(where, precision)
    training = net.training
    net.to(where).eval()
    try:
        with (
            torch.inference_mode(),
            torch.autocast(where.type, dtype or torch.bfloat16, enabled=dtype is not None),
        ):
            yield lambda images: net(images).float(), where
    finally:
        net.train(training)
