"""Who takes part in a training is said by coins, so that an attack on one model bounds epsilon from below.

Patients are taken in pairs, and of each pair a coin makes one a member and the other one not. Whoever guesses the
member of each pair guesses coins, which is what `fedmerge.privacy.lower_bound.paired_lower_bound` counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedmerge.errors import ConfigError
from sites.draws import generator

LEAST = 2  # pairs


@dataclass(frozen=True)
class Cohort:
    """Names of patients.

    Attributes:
        members: who takes part: of each pair one, and those that are no pair's.
        others: of each pair the other one.
        pairs: (member, other).
        scored: nobody's; to measure the model with.
    """

    members: tuple[str, ...]
    others: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    scored: tuple[str, ...]


def toss(names: Sequence[str], members: int, scored: int, seed: int) -> Cohort:
    """So many members: in pairs as far as the patients go, and the rest from those who come after the pairs.

    Args:
        names: of all patients, in an order that says nothing about them.
        members: how many.
        scored: how many of the first names are kept for the measure.
        seed: of the coins.

    Raises:
        ConfigError: there are too few patients for two pairs.
    """
    pool = names[scored:]
    count = min(members, len(pool) - members)
    if count < LEAST:
        raise ConfigError(
            f"{members} members, others beside them and {scored} to score expected more than {len(names)} patients"
        )
    coins = generator("membership", seed, members).integers(0, 2, count)
    pairs = tuple((pool[2 * k + coin], pool[2 * k + 1 - coin]) for k, coin in enumerate(coins))
    always = pool[2 * count : members + count]
    return Cohort(
        members=(*(member for member, _ in pairs), *always),
        others=tuple(other for _, other in pairs),
        pairs=pairs,
        scored=tuple(names[:scored]),
    )


def right(pairs: Sequence[tuple[str, str]], inside: Mapping[str, float], outside: Mapping[str, float]) -> int:
    """In how many pairs the member's score is the higher one; a tie is no guess.

    Args:
        pairs: (member, other).
        inside: the score of each member.
        outside: the score of each other patient.
    """
    return sum(inside[member] > outside[other] for member, other in pairs)
