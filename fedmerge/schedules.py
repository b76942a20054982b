"""Learning-rate schedules: a factor for each step, to be multiplied with the rate.

With t = step / steps, 0 at the first step and near 1 at the last, and `final` the factor at t = 1:

    constant     1
    linear       1 - (1 - final) t
    polynomial   final + (1 - final) (1 - t)^0.9             the power of nnU-Net (Isensee et al. 2021)
    cosine       final + (1 - final) (1 + cos(pi t)) / 2     SGDR without restarts (Loshchilov & Hutter 2017)
    cyclical     down from 1 to `final` and up again, `cycles` times, piecewise linear
                                                             fast geometric ensembling (Garipov et al. 2018),
                                                             as in FissionFusion (Sanjeev et al. 2024)

    >>> [round(factor("linear", step, 4, final=0.2), 3) for step in range(4)]
    [1.0, 0.8, 0.6, 0.4]
"""

import math
from collections.abc import Callable

from fedmerge.errors import ConfigError


def constant(t: float, final: float, cycles: int) -> float:
    """1 at every step."""
    return 1.0


def linear(t: float, final: float, cycles: int) -> float:
    """A straight line from 1 to `final`."""
    return 1 - (1 - final) * t


def polynomial(t: float, final: float, cycles: int) -> float:
    """(1 - t)^0.9, from 1 to `final`."""
    return final + (1 - final) * math.pow(1 - t, 0.9)


def cosine(t: float, final: float, cycles: int) -> float:
    """Half a period of a cosine, from 1 to `final`."""
    return final + (1 - final) * (1 + math.cos(math.pi * t)) / 2


def cyclical(t: float, final: float, cycles: int) -> float:
    """`cycles` triangles: 1 at the start of each, `final` in its middle."""
    phase = t * cycles % 1
    return final + (1 - final) * abs(1 - 2 * phase)


SCHEDULES: dict[str, Callable[[float, float, int], float]] = {
    "constant": constant,
    "linear": linear,
    "polynomial": polynomial,
    "cosine": cosine,
    "cyclical": cyclical,
}


def factor(name: str, step: int, steps: int, *, final: float = 0.1, cycles: int = 1) -> float:
    """The factor for the step with index `step` (0 to steps - 1).

    Raises:
        ConfigError: an unknown schedule.
    """
    if name not in SCHEDULES:
        raise ConfigError(f"schedule expected one of {', '.join(SCHEDULES)}, got {name!r}")
    return SCHEDULES[name](step / steps, final, cycles)


def snapshot_steps(steps: int, cycles: int) -> tuple[int, ...]:
    """How many steps are done when a cycle's rate is lowest: when fast geometric generation copies the weights.

    A copy is taken after that many steps, the last of which was made at about the lowest rate.

    Raises:
        ConfigError: cycles shorter than two steps.
    """
    if cycles < 1 or steps < 2 * cycles:
        raise ConfigError(f"cycles expected between 1 and half of the {steps} steps, got {cycles}")
    return tuple(math.floor((cycle + 0.5) * steps / cycles) + 1 for cycle in range(cycles))
