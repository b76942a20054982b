"""What a net sees of a case at once: patches drawn for a step, and tiles that hold every voxel.

A patch is drawn first, with dice of its own, and cut afterwards. A share of the patches lies around a labelled voxel:
the label is drawn evenly among those that the case shows, then one of its voxels; the other patches lie anywhere. So
does nnU-Net (Isensee et al., Nature Methods 2021; a third of the patches). No patch reaches beyond the volume.
"""

import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from fedmerge import augment
from fedmerge.fisher import Piece
from sites.loading import Case, Loaded
from sites.pictures import Picture

Start = tuple[int, ...]

FOREGROUND = 0.33  # share of the patches around a labelled voxel: nnU-Net's


def fits(case: Loaded) -> bool:
    """Whether the net sees all of the case at once."""
    return isinstance(case, Picture) or tuple(case.image.shape[1:]) == case.window


def see(
    case: Loaded, dice: np.random.Generator, *, foreground: float = FOREGROUND, changes: Collection[str] = ()
) -> tuple[Tensor, Tensor]:
    """What a training step sees of a case: all of it, or a patch, as it is or changed at random.

    Args:
        case: the case.
        dice: of this step and case alone; a case that the net sees at once rolls none.
        foreground: share of the patches around a labelled voxel.
        changes: names of `augment.NAMES`; pictures are left as they are.

    Returns:
        image (C, *patch) float32, label (1, *patch) int64; of a picture ().
    """
    if isinstance(case, Picture):
        return case.image, case.label
    start = (0, 0, 0) if fits(case) else draw(case, dice, foreground)
    drawn = augment.draw(changes, dice, len(case.image)) if changes else []
    if drawn and drawn[0].kind == "resample":  # out of the volume, so that no corner is empty where the volume goes on
        image, label = turned(case, start, **drawn.pop(0).numbers)
    else:
        image, label = cut(case, start)
    image, label = augment.apply(drawn, image, label)
    return image, label.long()


def draw(case: Case, dice: np.random.Generator, foreground: float) -> Start:
    """Where a patch begins, in voxels of the case's image."""
    size = case.image.shape[1:]
    room = [side - window for side, window in zip(size, case.window, strict=True)]
    if dice.random() < foreground and case.voxels:
        shown = case.voxels[dice.integers(len(case.voxels))]
        at = np.unravel_index(shown[dice.integers(len(shown))], size)
        return tuple(min(max(int(a) - w // 2, 0), r) for a, w, r in zip(at, case.window, room))
    return tuple(int(dice.integers(r + 1)) for r in room)


def cut(case: Case, start: Start) -> tuple[Tensor, Tensor]:
    """The patch that begins there: views of the image (C, *patch) and of the label (1, *patch)."""
    box = (slice(None), *(slice(a, a + w) for a, w in zip(start, case.window)))
    return case.image[box], case.label[box]


def turned(case: Case, start: Start, **numbers: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - as `augment.resample` has them
    """The patch around the same centre with its content turned and enlarged."""
    centre = np.add(start, np.divide(case.window, 2))  # from the volume's corner, in voxels
    reach = np.abs(augment.matrix(**numbers)) @ np.divide(case.window, 2) + 1
    low = np.maximum(np.floor(centre - reach), 0).astype(int)
    high = np.minimum(np.ceil(centre + reach), case.image.shape[1:]).astype(int)
    box = (slice(None), *(slice(a, b) for a, b in zip(low.tolist(), high.tolist())))
    return augment.resample(
        case.image[box], case.label[box], centre=(centre - (low + high) / 2).tolist(), window=case.window, **numbers
    )


def pieces(case: Loaded) -> list[Piece]:
    """The case as tiles of the net's size, as `fisher.diagonal` takes it.

    Tiles lie evenly along each axis, as few as can hold the volume. Where two overlap, a voxel belongs to the one in
    which it lies deeper, so that each voxel counts once.
    """
    if isinstance(case, Picture) or fits(case):
        return [Piece(case.image, case.label)]
    axes = [list(_tiles(side, window)) for side, window in zip(case.image.shape[1:], case.window, strict=True)]
    found = []
    for tile in itertools.product(*axes):
        image, label = cut(case, tuple(start for start, _ in tile))
        found.append(Piece(image, label, tuple(own for _, own in tile)))
    return found


def _tiles(side: int, window: int) -> Iterator[tuple[int, slice]]:
    """Along one axis: where each tile begins, and which of its own voxels count for it."""
    count = math.ceil(side / window)
    starts = [round(k * (side - window) / (count - 1)) if k else 0 for k in range(count)]
    walls = [0, *((a + window + b) // 2 for a, b in itertools.pairwise(starts)), side]
    for start, (low, high) in zip(starts, itertools.pairwise(walls)):
        yield start, slice(low - start, high - start)


def images(cases: Sequence[Loaded]) -> list[Tensor]:
    """Every tile of the cases as a batch of one: (1, C, *patch)."""
    return [piece.image[None] for case in cases for piece in pieces(case)]
