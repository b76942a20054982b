"""Blocks of hidden units that are permuted together, tied to each other as a net is read.

A `Block` stands for units of which nothing is known yet but that they may change places among themselves. What a net
does with them makes blocks smaller or the same: a sum ties two blocks, a cut divides one, an output fixes one. This is
a union-find whose members can also be divided. Dividing and fixing only ever take permutations away, so whatever order
the net is read in, those that are left are allowed.
"""

from collections.abc import Sequence


class Block:
    """Units that change places among themselves only.

    Attributes:
        length: how many.
        fixed: they do not change places at all.
        into: the blocks that stand for this one now: one that it was tied to, or two that it was divided into.
    """

    __slots__ = ("fixed", "into", "length")

    def __init__(self, length: int, *, fixed: bool = False) -> None:
        self.length = length
        self.fixed = fixed
        self.into: tuple[Block, ...] = ()

    def divide(self, at: int) -> None:
        """Two blocks in place of this one, the first with `at` units."""
        self.into = (Block(at, fixed=self.fixed), Block(self.length - at, fixed=self.fixed))


Span = tuple[Block, int]
"""A block along an axis, and how many consecutive entries of the axis each of its units takes (1 but after flatten)."""


def resolve(spans: Sequence[Span]) -> list[Span]:
    """The same entries in the blocks that stand for them now."""
    found: list[Span] = []
    waiting = list(reversed(spans))
    while waiting:
        block, width = waiting.pop()
        if block.into:
            waiting.extend((part, width) for part in reversed(block.into))
        else:
            found.append((block, width))
    return found


def entries(spans: Sequence[Span]) -> int:
    """How many entries of an axis the spans take."""
    return sum(block.length * width for block, width in spans)


def fix(spans: Sequence[Span]) -> None:
    """These units keep their places."""
    for block, _ in resolve(spans):
        block.fixed = True


def cut(spans: Sequence[Span], at: int) -> tuple[list[Span], list[Span]]:
    """The spans of the first `at` entries and those of the rest; nothing crosses that line from now on."""
    rest, left = resolve(spans), 0
    done: list[Span] = []
    while left < at:
        block, width = rest[0]
        size = block.length * width
        if left + size <= at:
            done.append(rest.pop(0))
            left += size
        elif (at - left) % width:
            rest[0] = _as_fixed(rest[0])
        else:
            block.divide((at - left) // width)
            rest, done = resolve(rest), resolve(done)
    return done, rest


def tie(first: Sequence[Span], second: Sequence[Span]) -> None:
    """Both axes are permuted alike from now on: blocks are divided at each other's ends, and joined.

    Args:
        first: spans of some entries.
        second: spans of as many.
    """
    a, b = resolve(first), resolve(second)
    while a:
        (x, width), (y, other) = a[0], b[0]
        if width != other:  # a unit on one side is a part of a unit on the other
            a[0], b[0] = _as_fixed(a[0]), _as_fixed(b[0])
            continue
        if x.length > y.length:
            x.divide(y.length)
        elif y.length > x.length:
            y.divide(x.length)
        else:
            a.pop(0), b.pop(0)
            if x is not y:
                x.fixed |= y.fixed
                y.into = (x,)
        a, b = resolve(a), resolve(b)


def _as_fixed(span: Span) -> Span:
    """The same entries one by one, where they stand."""
    block, width = span
    fix([span])
    return Block(block.length * width, fixed=True), 1
