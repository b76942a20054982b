"""Training images changed at random, so that a net learns what does not matter: nnU-Net's augmentations.

What is drawn is data, a list of named changes with their numbers, and a pure function applies it. Strengths and
probabilities are those that nnU-Net (Isensee et al., Nature Methods 2021) has for 3D patches in the code of its version
2: `nnUNetTrainer.get_training_transforms` of nnunetv2 2.8.1, with the transforms of batchgeneratorsv2 0.3.6.
`docs/patches.md` says what differs. Resampling, smoothing and gamma are MONAI's. Images are expected as they are
trained on: each channel with mean 0 and standard deviation 1.

    changes = draw(["rotate", "gamma"], dice, channels=4)
    image, label = apply(changes, image, label)
"""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Dice = np.random.Generator


class Change(NamedTuple):
    """One change: a name of `CHANGES`, and the numbers that were drawn."""

    kind: str
    numbers: dict[str, Any]


NAMES = ("rotate", "scale", "noise", "blur", "brightness", "contrast", "resolution", "gamma", "flip")
ALL = "all"


def draw(names: Collection[str], dice: Dice, channels: int) -> list[Change]:
    """Which changes are made, in the order in which they are applied.

    Args:
        names: of `NAMES`, or "all"; the others never happen.
        dice: everything is drawn whether it is wanted or not, so that one name does not move another one's numbers.
        channels: of the image; intensities are changed channel by channel, all but the strength of noise.
    """
    angles = [math.radians(dice.uniform(-30, 30)) for _ in range(3)]
    turned, scaled = dice.random() < 0.2, dice.random() < 0.2
    size = 1 / dice.uniform(0.7, 1.4)  # nnU-Net draws by how much farther apart the voxels are looked at
    spatial: dict[str, Any] = {}
    if turned and wanted("rotate", names):
        spatial["angles"] = angles
    if scaled and wanted("scale", names):
        spatial["size"] = size
    found = [Change("resample", spatial)] if spatial else []
    noisy, deviation, seed = dice.random() < 0.1, dice.uniform(0, 0.1), int(dice.integers(2**62))
    if noisy and wanted("noise", names):
        found.append(Change("noise", {"deviation": deviation, "seed": seed}))
    for name, chance, share, make in INTENSITIES:
        happens = dice.random() < chance
        drawn = [make(dice) if dice.random() < share else None for _ in range(channels)]
        if happens and wanted(name, names) and any(one is not None for one in drawn):
            found.append(Change(name, {"by": drawn}))
    axes = [axis for axis in (1, 2, 3) if dice.random() < 0.5]
    if axes and wanted("flip", names):
        found.append(Change("flip", {"axes": axes}))
    return found


def wanted(name: str, names: Collection[str]) -> bool:
    """Whether a change is among those asked for."""
    return name in names or ALL in names


def apply(changes: Sequence[Change], image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """The changed image and label, one after the other; the ones given stay as they are.

    Args:
        changes: as drawn.
        image: (C, X, Y, Z) float32.
        label: (1, X, Y, Z) whole numbers; no new value comes into it.

    Returns:
        both, of the same shapes and dtypes.
    """
    for kind, numbers in changes:
        image, label = CHANGES[kind](image, label, **numbers)
    return image, label


def matrix(angles: Sequence[float] = (0.0, 0.0, 0.0), size: float = 1.0) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(3, 3): from a place in the changed image to where it is seen in the original, both from the centre."""
    from monai.transforms.utils import create_rotate  # the import takes a second or two

    turn: np.ndarray[Any, np.dtype[np.float64]] = np.asarray(create_rotate(3, list(angles)))[:3, :3] / size
    return turn


def resample(
    image: Tensor,
    label: Tensor,
    *,
    angles: Sequence[float] = (0.0, 0.0, 0.0),
    size: float = 1.0,
    centre: Sequence[float] = (0.0, 0.0, 0.0),
    window: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """Turned about each axis and enlarged, both by one matrix: linear for the image, nearest neighbour for the label.

    Args:
        image: (C, X, Y, Z).
        label: (1, X, Y, Z).
        angles: in radians, about the three axes.
        size: above 1 things become larger.
        centre: what lies in the middle of the result, in voxels from the image's middle.
        window: (X, Y, Z) of the result; the image's own when missing. Outside the image there are zeros.
    """
    from monai.transforms.spatial.array import Affine  # as above

    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix(angles, size), centre
    size_out = tuple(window) or tuple(image.shape[1:])

    def seen(voxels: Tensor, mode: str) -> Tensor:
        done = Affine(affine=affine, spatial_size=size_out, mode=mode, padding_mode="zeros", image_only=True)
        out: Any = done(voxels.float())
        plain: Tensor = out.as_tensor()
        return plain

    return seen(image, "bilinear"), seen(label, "nearest").round().to(label.dtype)


def _by_channel(change: Callable[[Tensor, Any], Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """A change of intensities: of each channel for which something was drawn, (1, X, Y, Z) at a time."""

    def changed(image: Tensor, label: Tensor, *, by: Sequence[Any]) -> tuple[Tensor, Tensor]:
        pairs = zip(torch.split(image, 1), by, strict=True)
        return torch.cat([channel if one is None else change(channel, one) for channel, one in pairs]), label

    return changed


def _noise(image: Tensor, label: Tensor, *, deviation: float, seed: int) -> tuple[Tensor, Tensor]:
    return image + deviation * torch.randn(image.shape, generator=torch.Generator().manual_seed(seed)), label


def _blur(channel: Tensor, sigmas: Sequence[float]) -> Tensor:
    from monai.transforms.intensity.array import GaussianSmooth  # as above

    out: Any = GaussianSmooth(sigmas)(channel)
    plain: Tensor = out.as_tensor()
    return plain


def _contrast(channel: Tensor, factor: float) -> Tensor:
    mean = channel.mean()
    return ((channel - mean) * factor + mean).clamp(channel.min(), channel.max())


def _resolution(channel: Tensor, share: float) -> Tensor:
    """Fewer voxels, and back: nearest neighbours on the way down, linear on the way up."""
    small = [max(1, round(side * share)) for side in channel.shape[1:]]
    fewer = F.interpolate(channel[None], size=small, mode="nearest-exact")
    return F.interpolate(fewer, size=channel.shape[1:], mode="trilinear")[0]


def _gamma(channel: Tensor, drawn: tuple[float, bool]) -> Tensor:
    from monai.transforms.intensity.array import AdjustContrast  # as above

    exponent, inverted = drawn
    out: Any = AdjustContrast(exponent, invert_image=inverted, retain_stats=True)(channel)
    plain: Tensor = out.as_tensor()
    return plain


def _flip(image: Tensor, label: Tensor, *, axes: Sequence[int]) -> tuple[Tensor, Tensor]:
    return image.flip(*axes), label.flip(*axes)


def _exponent(dice: Dice) -> float:
    """As often below 1 as above."""
    return dice.uniform(0.7, 1.0) if dice.random() < 0.5 else dice.uniform(1.0, 1.5)


Intensity = tuple[str, float, float, Callable[[Dice], Any]]
INTENSITIES: list[Intensity] = [  # name, how often, for which share of the channels then, how strong
    ("blur", 0.2, 0.5, lambda dice: [dice.uniform(0.5, 1.0) for _ in range(3)]),
    ("brightness", 0.15, 1.0, lambda dice: dice.uniform(0.75, 1.25)),
    ("contrast", 0.15, 1.0, lambda dice: dice.uniform(0.75, 1.25)),
    ("resolution", 0.25, 0.5, lambda dice: dice.uniform(0.5, 1.0)),
    ("gamma", 0.1, 1.0, lambda dice: (_exponent(dice), True)),
    ("gamma", 0.3, 1.0, lambda dice: (_exponent(dice), False)),
]

CHANGES: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "resample": resample,
    "noise": _noise,
    "blur": _by_channel(_blur),
    "brightness": _by_channel(lambda channel, factor: channel * factor),
    "contrast": _by_channel(_contrast),
    "resolution": _by_channel(_resolution),
    "gamma": _by_channel(_gamma),
    "flip": _flip,
}
