"""Learning-rate schedules: a factor for each step, to be multiplied with the rate.

With t = step / steps, 0 at the first step and near 1 at the last, and `final` the factor at t = 1:

    constant     1
    linear       1 - (1 - final) t
    polynomial   final + (1 - final) (1 - t)^0.9             the power of nnU-Net (Isensee et al. 2021)
    cosine       final + (1 - final) (1 + cos(pi t)) / 2     SGDR without restarts (Loshchilov & Hutter 2017)
    cyclical     down from 1 to `final` and up again, `cycles` times, piecewise linear
                                                             fast geometric ensembling (Garipov et al. 2018)
    fgg          such triangles, begun halfway down, with `cycles` minima, the last of them at the very end
                                                             fast geometric generation of FissionFusion
                                                             (Sanjeev et al. 2024)

    >>> [round(factor("linear", step, 4, final=0.2), 3) for step in range(4)]
    [1.0, 0.8, 0.6, 0.4]
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

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


def fgg(t: float, final: float, cycles: int) -> float:
    """Triangles from a quarter of the first one on, so that `cycles` of them end at a minimum."""
    phase = (0.25 + t * (cycles - 0.75)) % 1
    return final + (1 - final) * abs(1 - 2 * phase)


SCHEDULES: dict[str, Callable[[float, float, int], float]] = {
    "constant": constant,
    "linear": linear,
    "polynomial": polynomial,
    "cosine": cosine,
    "cyclical": cyclical,
    "fgg": fgg,
}


@dataclass(frozen=True)
class Generation:
    """How fast geometric generation trains on from a model, to make the models of one soup.

    Attributes:
        epochs: passes over the training cases.
        period: epochs from one minimum of the rate to the next.
        high: the highest learning rate.
        low: the lowest learning rate, at which the weights are copied.
    """

    epochs: int
    period: int
    high: float
    low: float


# Sanjeev et al. 2024, for classifiers pretrained on ImageNet. Their program counts epochs from 1, so the first
# minimum comes after one epoch, and 17 epochs hold five: after 1, 5, 9, 13 and 17. The start is a sixth model.
FGG = Generation(epochs=17, period=4, high=1e-5, low=1e-8)


def factor(name: str, step: int, steps: int, *, final: float = 0.1, cycles: int = 1) -> float:
    """The factor for the step with index `step` (0 to steps - 1).

    Raises:
        ConfigError: an unknown schedule.
    """
    if name not in SCHEDULES:
        raise ConfigError(f"schedule expected one of {', '.join(SCHEDULES)}, got {name!r}")
    return SCHEDULES[name](step / steps, final, cycles)


def snapshot_steps(steps: int, cycles: int) -> tuple[int, ...]:
    """How many steps of schedule `cyclical` are done when a cycle's step of the lowest rate is done.

    Raises:
        ConfigError: cycles shorter than two steps.
    """
    _check_cycles(steps, cycles)
    lowest = [(cycle + 0.5) * steps / cycles for cycle in range(cycles)]
    return tuple(math.ceil(at - 0.5) + 1 for at in lowest)  # the nearest step; the earlier one of two


def fgg_steps(steps: int, cycles: int) -> tuple[int, ...]:
    """How many steps of schedule `fgg` are done when its rate is lowest: when the weights are copied.

    Args:
        steps: of the whole run.
        cycles: how many copies.

    Raises:
        ConfigError: cycles shorter than two steps.
    """
    _check_cycles(steps, cycles)
    return tuple(round(steps * (cycle + 0.25) / (cycles - 0.75)) for cycle in range(cycles))


def fgg_snapshots(epochs: int, period: int, steps_per_epoch: int) -> tuple[int, ...]:
    """The same in epochs: as many copies as there are minima, one a period, the first after a quarter of it.

    As settings of a run: `schedule="fgg"`, `cycles=len(fgg_snapshots(...))`, `steps=epochs * steps_per_epoch`,
    `lr=FGG.high`, `final=FGG.low / FGG.high`.

    Raises:
        ConfigError: the epochs are not whole periods and a quarter, so that they would not end at a minimum.
    """
    copies, rest = divmod(4 * epochs + 3 * period, 4 * period) if period > 0 else (0, 0)
    if rest or copies < 1:
        ends = ", ".join(f"{period / 4 + cycle * period:g}" for cycle in range(1, 5))
        raise ConfigError(f"epochs expected whole periods of {period} and a quarter ({ends}, ...), got {epochs}")
    return fgg_steps(epochs * steps_per_epoch, copies)


def _check_cycles(steps: int, cycles: int) -> None:
    if cycles < 1 or steps < 2 * cycles:
        raise ConfigError(f"cycles expected between 1 and half of the {steps} steps, got {cycles}")
