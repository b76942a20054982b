"""Test cases as a page carries them: cropped to the head, quantised, compressed, and not larger than a budget.

An image has 256 greys between its 0.5th and 99.5th percentile. Images and label maps are zlib streams in base64, which
browsers open by themselves; x runs fastest. A label map is mostly runs of one value, so it takes a few kB.
"""

import base64
import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BUDGET = 24_000_000  # bytes of a page's cases
AHEAD = 4  # cases that are read at the same time
MARGIN = 3  # voxels around the head
DARK = 0.05  # of the brightest: below it is air


@dataclass(frozen=True, eq=False)
class Shown:
    """A test case with what methods found, on canonical axes (right, front, up).

    Attributes:
        case: its id.
        image: (X, Y, Z) intensities.
        truth: (X, Y, Z) labels 0..K.
        found: method -> (X, Y, Z) labels 0..K.
        affine: (4, 4), from voxels to mm in the scanner.
        spacing_mm: voxel size along X, Y, Z.
        scores: method -> measure -> the case's score; None where it has none.
    """

    case: str
    image: NDArray[Any]
    truth: NDArray[Any]
    found: Mapping[str, NDArray[Any]]
    affine: NDArray[Any]
    spacing_mm: tuple[float, float, float]
    scores: Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class Packed:
    """What a page carries.

    Attributes:
        cases: as `pack` makes them, in the order in which they were asked for.
        stride: 1: all voxels; 2: every second one along each axis.
        without: the cases that there was no room for.
    """

    cases: tuple[dict[str, Any], ...]
    stride: int
    without: tuple[str, ...]


def fit(cases: Sequence[str], read: Callable[[str], Shown], budget: int = BUDGET) -> Packed:
    """As many cases as the budget has room for: all voxels where that is all of them, else every second one.

    Where even then there is no room for all, those that are left stand evenly over the order of `cases`.

    Args:
        cases: ids, in the order in which they are shown.
        read: a case by its id; called by several threads.
        budget: bytes.
    """
    if not cases:
        return Packed((), 1, ())
    order = [cases[i] for i in spread(len(cases))]
    whole = _size(pack(read(order[0]), 1)) * len(cases) <= budget
    packed = _fill(order, read, 1, budget) if whole else {}
    stride = 1
    if len(packed) < len(cases):
        packed, stride = _fill(order, read, 2, budget), 2
    kept = [case for case in cases if case in packed]
    return Packed(tuple(packed[case] for case in kept), stride, tuple(case for case in cases if case not in packed))


def _fill(order: Sequence[str], read: Callable[[str], Shown], stride: int, budget: int) -> dict[str, dict[str, Any]]:
    """The first cases of `order` that fit."""
    packed: dict[str, dict[str, Any]] = {}
    room = budget
    with ThreadPoolExecutor(AHEAD) as threads:
        for start in range(0, len(order), AHEAD):
            some = order[start : start + AHEAD]
            for case, one in zip(some, threads.map(lambda case: pack(read(case), stride), some)):
                room -= _size(one)
                if room < 0:
                    return packed
                packed[case] = one
    return packed


def spread(number: int) -> list[int]:
    """0 to `number` - 1 so that each beginning stands evenly over all: halves, quarters, eighths (van der Corput 1935).

    Example:
        >>> spread(5)
        [0, 4, 2, 1, 3]
    """

    def places() -> Iterator[float]:
        yield from (0.0, 1.0)
        for power in itertools.count(1):
            yield from (odd / 2**power for odd in range(1, 2**power, 2))

    found: dict[int, None] = {}
    for place in places():
        found.setdefault(round(place * (number - 1)))
        if len(found) == number:
            return list(found)
    raise AssertionError  # pragma: no cover - the places never end


def pack(one: Shown, stride: int) -> dict[str, Any]:
    """A case as JSON can hold it; `unpack` is in the page's script.

    Args:
        one: the case.
        stride: voxels a side that become one.
    """
    low, high = np.percentile(one.image, [0.5, 99.5])
    box = head(one.image, one.truth, high)
    image = _coarser(np.asarray(one.image[box], np.float32), stride)
    grey = np.clip((image - low) / max(high - low, 1e-6) * 255, 0, 255).round().astype(np.uint8)
    labels = {name: found[box][::stride, ::stride, ::stride] for name, found in {"": one.truth, **one.found}.items()}
    return {
        "case": one.case,
        "shape": list(grey.shape),
        "offset": [int(side.start) for side in box],
        "stride": stride,
        "spacing": [float(mm) * stride for mm in one.spacing_mm],
        "affine": _affine(one.affine, box, stride),
        "window": [float(low), float(high)],
        "image": _text(grey),
        "truth": _text(_to(grey.shape, labels.pop(""))),
        "found": {name: _text(_to(grey.shape, found)) for name, found in labels.items()},
        "scores": {
            method: {key: None if score is None else round(score, 4) for key, score in own.items()}
            for method, own in one.scores.items()
        },
    }


def head(image: NDArray[Any], truth: NDArray[Any], bright: float) -> tuple[slice, slice, slice]:
    """The box around what is not air beside `bright`, and around every label."""
    inside = (image > image.min() + DARK * (bright - image.min())) | (truth > 0)
    sides = []
    for axis in range(3):
        found = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        first, last = (found[0], found[-1]) if len(found) else (0, image.shape[axis] - 1)
        sides.append(slice(max(int(first) - MARGIN, 0), min(int(last) + MARGIN + 1, image.shape[axis])))
    return sides[0], sides[1], sides[2]


def _affine(affine: NDArray[Any], box: Sequence[slice], stride: int) -> list[list[float]]:
    """The first three rows, from the voxels that are shown to mm; a coarse one lies where its label was taken from."""
    first = affine[:3, :3] @ [side.start for side in box] + affine[:3, 3]
    return [[*(round(float(v) * stride, 6) for v in row[:3]), round(float(mm), 4)] for row, mm in zip(affine, first)]


def _coarser(image: NDArray[Any], stride: int) -> NDArray[Any]:
    """The mean of each block of stride^3 voxels; at the end a block may be smaller."""
    for axis in range(3) if stride > 1 else ():
        starts = np.arange(0, image.shape[axis], stride)
        counts = np.diff([*starts, image.shape[axis]]).reshape([-1 if a == axis else 1 for a in range(3)])
        image = np.add.reduceat(image, starts, axis=axis) / counts
    return image


def _to(shape: tuple[int, ...], labels: NDArray[Any]) -> NDArray[np.uint8]:
    if labels.shape != shape:
        raise ValueError(f"a label map expected the image's shape {shape}, got {labels.shape}")
    return labels.astype(np.uint8)


def _text(values: NDArray[np.uint8]) -> str:
    return base64.b64encode(zlib.compress(values.tobytes(order="F"), 6)).decode()


def _size(packed: Mapping[str, Any]) -> int:
    return len(packed["image"]) + len(packed["truth"]) + sum(map(len, packed["found"].values()))
