"""What a step of DP-SGD does to the patients: who is drawn, how far each may pull, and the noise over their sum.

Abadi et al. 2016, algorithm 1. The sensitivity of the sum to one patient, added or removed, is the clipping norm.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmerge.errors import ConfigError
from fedmerge.privacy.noise import Stream


@dataclass(frozen=True)
class Mechanism:
    """What a step does to the patients.

    Attributes:
        rate: q, the probability with which a step draws a patient.
        noise_multiplier: sigma, the noise's standard deviation in units of `clip`.
        clip: C, the largest norm of a patient's gradient; inf only without noise.
        patients: n, a number that everybody may know; q n is what a sum is divided by.
    """

    rate: float
    noise_multiplier: float
    clip: float
    patients: int

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ConfigError(f"the sampling rate expected a number above 0 and at most 1, got {self.rate}")
        if not self.noise_multiplier >= 0 or math.isinf(self.noise_multiplier):
            raise ConfigError(f"the noise multiplier expected a number of at least 0, got {self.noise_multiplier}")
        if not self.clip > 0 or (math.isinf(self.clip) and self.noise_multiplier > 0):
            raise ConfigError(f"the norm to clip to expected a finite positive number, got {self.clip}")
        if self.patients < 1:
            raise ConfigError(f"patients expected at least 1, got {self.patients}")


def draw(patients: int, rate: float, stream: Stream) -> list[int]:
    """Who is in a step: each of 0..patients - 1 with probability `rate`, independently (Poisson sampling)."""
    return (stream.uniforms(patients) < rate).nonzero().flatten().tolist()


def clipped_sum(gradients: Iterable[Sequence[Tensor | None]], like: Sequence[Tensor], clip: float) -> list[Tensor]:
    """sum_i g_i min(1, C / |g_i|), the norm over all parameters together.

    Args:
        gradients: for each patient a gradient of each parameter; None stands for zeros.
        like: the parameters.
        clip: C.

    Returns:
        a float64 tensor for each parameter, on its device. A gradient with a number that is not finite adds nothing.
    """
    total = [torch.zeros_like(p, dtype=torch.float64, requires_grad=False) for p in like]
    for gradient in gradients:
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradient if g is not None))
        if not math.isfinite(norm):
            continue
        factor = min(1.0, clip / norm) if norm > 0 else 1.0
        for there, g in zip(total, gradient, strict=True):
            if g is not None:
                there.add_(g.double(), alpha=factor)
    return total


def add_noise(total: Sequence[Tensor], std: float, stream: Stream) -> None:
    """Add independent normal numbers of this standard deviation to every number, in place."""
    if std == 0:
        return
    for value in total:
        value.add_(stream.normals(value.numel()).view(value.shape).to(value.device), alpha=std)


def released(
    gradients: Callable[[Sequence[int]], Iterable[Sequence[Tensor | None]]], like: Sequence[Tensor],
    mechanism: Mechanism, people: int, stream: Stream,
) -> list[Tensor]:  # fmt: skip
    """The noised mean of one step: all that anybody ever learns of the patients in it.

    Args:
        gradients: those of the mean loss over a patient's cases, for each of these of `people`, in their order.
        like: the parameters.
        mechanism: the draw, the norm and the noise.
        people: how many patients there really are, which nobody outside need know.
        stream: of this step alone.

    Returns:
        a float64 tensor for each parameter.
    """
    drawn = draw(people, mechanism.rate, stream)
    total = clipped_sum(gradients(drawn), like, mechanism.clip)
    add_noise(total, mechanism.noise_multiplier * mechanism.clip if mechanism.noise_multiplier else 0.0, stream)
    expected = mechanism.rate * mechanism.patients
    return [value / expected for value in total]
