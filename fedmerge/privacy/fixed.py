"""What enters a masked sum: `w F (theta - ancestor)` and `w F`, in Z_2^64 with 40 fractional bits.

Real numbers cannot be hidden by adding a random number to them; numbers of a finite group can. F is normalised and
clipped as by `fedmerge.fisher.normalise`. All is done by numpy on one thread, slab by slab, with operations that
IEEE 754 rounds in one way only, so that a member makes the same bytes each time.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedmerge.contribution import check_fisher, check_tensors
from fedmerge.errors import Refused
from fedmerge.privacy.hello import UNIT

Reals = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]

BITS = 40
FLOOR, CAP = 1e-3, 1e4
SLAB = 1 << 16  # numbers that are worked on together: they fit the cache
PARTS = ("denominator", "numerator")
_TINY = float(np.finfo(np.float32).tiny)


def layout(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The tensors of a masked message in their order: all denominators by name, then all numerators by name."""
    return {f"{part}/{name}": tuple(shapes[name]) for part in PARTS for name in sorted(shapes)}


def reach(members: int) -> float:
    """The magnitude that no encoded number of a member may have, 2^(63 - ceil(log2 members)).

    The sum of so many smaller numbers is below 2^63 in magnitude, and Z_2^64 holds it without wrapping.
    """
    return 2.0 ** (63 - (members - 1).bit_length())


def check(
    weights: Mapping[str, Tensor], fisher: Mapping[str, Tensor], ancestor: Mapping[str, Tensor], who: str
) -> None:
    """Refuse what cannot be encoded for another reason than its size.

    Args:
        weights: float32, of exactly the ancestor's names and shapes.
        fisher: the raw Fisher of all of them, or empty.
        ancestor: the common starting weights, float32.
        who: the site, for the sentences.

    Raises:
        Refused: names the tensor: another name, shape or dtype, a value that is not finite, a negative Fisher, or one
            that is zero everywhere.
    """
    shapes = {name: tuple(value.shape) for name, value in ancestor.items()}
    check_tensors(ancestor, shapes, "ancestor", who)
    check_tensors(weights, shapes, "weights", who)
    if fisher:
        check_tensors(fisher, shapes, "fisher", who)
        check_fisher(fisher, who)


def encode(
    weights: Mapping[str, Tensor],
    fisher: Mapping[str, Tensor],
    ancestor: Mapping[str, Tensor],
    *,
    weight: int,
    members: int,
    who: str,
) -> Iterator[Words]:
    """One member's summands in the order of `layout`, in slabs of at most `SLAB`; no slab spans two tensors.

    Args:
        weights: as `check` passed them.
        fisher: raw; empty counts as ones everywhere.
        ancestor: the common starting weights; its names are what is encoded.
        weight: w in units of 2^-20.
        members: how many members the group has.
        who: the site, for the sentences.

    Yields:
        uint64 (n,), fresh memory.

    Raises:
        Refused: names the tensor: a value that could make the group's sum overflow. Nothing is clipped.
    """
    w, limit = weight / UNIT, reach(members)
    means = {name: _mean(fisher[name]) if fisher else 0.0 for name in ancestor}
    for part in PARTS:
        for name in sorted(ancestor):
            theta, origin = _flat(weights[name]), _flat(ancestor[name])
            for start in range(0, len(theta), SLAB):
                here = slice(start, start + SLAB)
                value = _precision(_flat(fisher[name])[here] if fisher else theta[here], means[name])
                value *= w
                if part == "numerator":
                    value *= theta[here].astype(np.float64) - origin[here]
                yield _words(value, limit, f"{who}: {part} of '{name}'")


def decode(words: Words) -> Reals:
    """A sum in Z_2^64 as real numbers: (n,) uint64 -> (n,) float64."""
    return words.view(np.int64).astype(np.float64) / 2.0**BITS


def bounds(weights: tuple[int, ...]) -> tuple[int, int]:
    """The smallest and the largest sum of encoded denominators that members of these weights can make."""
    low, high = (sum(round(w / UNIT * one * 2.0**BITS) for w in weights) for one in (FLOOR, CAP))
    return low, high


def _mean(fisher: Tensor) -> float:
    """The mean as the nearest float32, which does not depend on the order of the sum; 0 below the normal numbers."""
    flat = _flat(fisher)
    sums = [float(flat[start : start + SLAB].sum(dtype=np.float64)) for start in range(0, len(flat), SLAB)]
    mean = float(np.float32(math.fsum(sums) / len(flat)))
    return mean if mean >= _TINY else 0.0


def _precision(fisher: npt.NDArray[np.float32], mean: float) -> Reals:
    if not mean:
        return np.ones(len(fisher))
    value = fisher.astype(np.float64)
    value /= mean
    return np.clip(value, FLOOR, CAP, out=value)


def _words(value: Reals, limit: float, what: str) -> Words:
    value *= 2.0**BITS
    np.rint(value, out=value)
    most = max(float(value.max()), -float(value.min()))
    if not most < limit:
        raise Refused(
            f"{what} expected numbers below {limit / 2.0**BITS:g} in magnitude, got {most / 2.0**BITS:.4g}: "
            "the sum of the group could overflow"
        )
    return value.astype(np.int64).view(np.uint64)


def _flat(value: Tensor) -> npt.NDArray[np.float32]:
    flat: npt.NDArray[np.float32] = value.detach().to("cpu", torch.float32).reshape(-1).numpy()
    return flat
