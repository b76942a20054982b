"""Bad sources on purpose, in simulations only: what a hospital could send that is broken, or means harm.

random-giant    weights drawn at random, and a Fisher of 1e20 everywhere: "all of mine matters"
random-flat     weights drawn at random, and a Fisher of ones
change-x30      thirty times as far from the start as training went
"""

from dataclasses import replace

import torch

from fedmerge.contribution import Contribution
from fedmerge.params import Params

GIANT = 1e20
FAR = 30.0
CONTROLS = ("random-giant", "random-flat", "change-x30")


def poisoned(control: str | None, made: Contribution, start: Params, seed: int) -> Contribution:
    """The contribution as a bad source sends it; any other control leaves it as it is.

    Args:
        control: a name of the table above.
        made: what training came to.
        start: P and the norm parameters that it started from.
        seed: of the random weights, which have the spread of the trained ones, tensor by tensor.
    """
    if control not in CONTROLS:
        return made
    if control == "change-x30":
        far = {name: start[name] + FAR * (made.weights[name] - start[name]) for name in start}
        return replace(made, weights={**made.weights, **far})
    draw = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.randn(value.shape, generator=draw) * value.std(correction=0) for name, value in made.weights.items()
    }
    size = GIANT if control == "random-giant" else 1.0
    return replace(made, weights=weights, fisher={n: torch.full_like(value, size) for n, value in made.fisher.items()})
