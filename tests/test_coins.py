"""Who is a member by coins: numbers, pairs, and fair coins."""

import numpy as np
import pytest

from fedmerge.errors import ConfigError
from sites import coins

NAMES = [f"p{k:03d}" for k in range(196)]


@pytest.mark.parametrize(("members", "pairs"), [(32, 32), (60, 60), (120, 56)])
def test_there_are_so_many_members_and_a_pair_for_each_other(members, pairs):
    """Nobody is two things; where the patients do not suffice for pairs, the rest are members without one."""
    made = coins.toss(NAMES, members, 20, seed=0)
    assert (len(made.members), len(made.others), len(made.pairs), len(made.scored)) == (members, pairs, pairs, 20)
    together = [*made.members, *made.others, *made.scored]
    assert len(set(together)) == len(together)
    assert {member for member, _ in made.pairs} <= set(made.members)
    assert [other for _, other in made.pairs] == [*made.others]


def test_the_coins_are_fair_and_the_pairs_are_fixed():
    """Over seeds each patient of a pair is a member about every other time; the same seed tosses the same."""
    tossed = [coins.toss(NAMES, 32, 20, seed) for seed in range(200)]
    first = np.mean([[member == NAMES[20 + 2 * k] for k, (member, _) in enumerate(one.pairs)] for one in tossed])
    assert first == pytest.approx(0.5, abs=0.03)  # of 6400 coins
    assert all({*pair} == {NAMES[20 + 2 * k], NAMES[21 + 2 * k]} for one in tossed for k, pair in enumerate(one.pairs))
    assert coins.toss(NAMES, 32, 20, 7) == tossed[7] != tossed[8]


def test_a_tie_is_no_guess():
    """Of three pairs one is found, one is not, and in one both have the same score."""
    pairs = [("a", "x"), ("b", "y"), ("c", "z")]
    assert coins.right(pairs, {"a": 2.0, "b": 1.0, "c": 1.0}, {"x": 1.0, "y": 2.0, "z": 1.0}) == 1


def test_too_few_patients_are_told():
    """A single pair bounds nothing."""
    with pytest.raises(ConfigError, match="more than 10 patients"):
        coins.toss(NAMES[:10], 6, 3, seed=0)
