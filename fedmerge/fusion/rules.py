"""T tensors of one name -> one tensor: the rules, as formulas.

These are the definitions, differentiable and easy to check. `fusion.mixing` computes the same from what it
prepared once, `fusion.files` in blocks; the tests hold all three together.

Both rules share three laws. A ratio vector with a single non-zero entry returns that model bit for bit.
Equal models return themselves. The order of the models does not matter: sums are taken in float64 here.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Rule = Callable[[Tensor, Tensor | None, Tensor], Tensor]


def mean(theta: Tensor, precision: Tensor | None, ratios: Tensor) -> Tensor:
    """Weighted mean of the models (mean-IMM, Lee et al. 2017, eq. 4; uniform ratios: a model soup).

    Args:
        theta: (T, *s), one tensor a model.
        precision: ignored; both rules are called alike.
        ratios: (T,), or (T, ...) that broadcasts to (T, *s); non-negative.

    Returns:
        (*s).
    """
    return _weighted(theta, None, _spread(ratios, theta))


def mode(theta: Tensor, precision: Tensor | None, ratios: Tensor) -> Tensor:
    """Fisher-weighted mean: the mode of a product of Gaussians (mode-IMM; T-IMM with fitted ratios).

        theta = (sum_t a_t F_t)^-1 sum_t a_t F_t theta_t          Geyer et al. 2019, eq. 2

    Args:
        theta: (T, *s), one tensor a model.
        precision: (T, *s), normalised Fisher, positive (`fisher.normalise`).
        ratios: (T,), or (T, ...) that broadcasts to (T, *s); non-negative.

    Returns:
        (*s).

    Raises:
        ValueError: no precision.
    """
    if precision is None:
        raise ValueError("rule mode needs a precision")
    return _weighted(theta, precision, _spread(ratios, theta))


RULES: dict[str, Rule] = {"mean": mean, "mode": mode}


def centre(theta: Tensor) -> Tensor:
    """Halfway between the smallest and the largest of T values: (T, *s) -> (*s).

    It does not depend on the order of the models, and is exactly theirs where they agree.
    """
    low, high = theta.amin(0), theta.amax(0)
    return low + (high - low) / 2


def alone(ratios: Tensor) -> Tensor:
    """True where one model is the only one with a ratio: (T, ...) -> bool (T, ...)."""
    used = ratios != 0
    return used & (used.sum(0) == 1)


def _weighted(theta: Tensor, precision: Tensor | None, ratios: Tensor) -> Tensor:
    weight = ratios.double() if precision is None else ratios.double() * precision  # (T, *s)
    middle = centre(theta).detach()  # any constant would do; with this one equal models stay what they are
    fused = (middle + (weight * (theta - middle.double())).sum(0) / weight.sum(0)).to(theta.dtype)  # (*s)
    for model, only in zip(theta, alone(ratios)):
        fused = torch.where(only, model, fused)
    return fused


def _spread(ratios: Tensor, theta: Tensor) -> Tensor:
    return ratios.reshape(ratios.shape + (1,) * (theta.dim() - ratios.dim()))
