"""Made-up sites with contributions of any size: a stack of 3D convs with a Fisher of every number."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from benchmarks.modes.parties import Party
from fedmerge import params, wire
from fedmerge.contribution import Contribution, Expected
from fedmerge.params import Params

WIDTHS = (1, 2, 4, 8, 16, 8, 4, 2, 1)  # filters of each level, times the first one's
KEY = "0" * 24  # of the task
SETTINGS = {"name": "stack", "dims": 3}


def shapes(parameters: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of so many numbers: two convs a level, and what is missing in a last tensor."""
    found: dict[str, tuple[int, ...]] = {}
    width = 1
    while (more := _stack(width)) and _count(more) < parameters:
        found, width = more, width + 1
    return found | {"last.weight": (parameters - _count(found),)}


def _stack(width: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for level, (inside, outside) in enumerate(zip((4 / width, *WIDTHS), WIDTHS)):
        for number, channels in enumerate((inside, outside)):
            found[f"levels.{level}.conv{number}.weight"] = (width * outside, int(width * channels), 3, 3, 3)
            found[f"levels.{level}.conv{number}.bias"] = (width * outside,)
    return found


def _count(stack: dict[str, tuple[int, ...]]) -> int:
    return sum(map(math.prod, stack.values()))


@dataclass(frozen=True)
class Net:
    """A net of so many parameters, and what everybody in the campaign has of it.

    Attributes:
        parameters: how many.
        T: how many sources.
        folder: for everybody's files; what the source has sent is deleted.
    """

    parameters: int
    T: int
    folder: Path

    @cached_property
    def ancestor(self) -> Params:
        """The common starting weights."""
        g = torch.Generator().manual_seed(0)
        return {name: 0.1 * torch.randn(shape, generator=g) for name, shape in shapes(self.parameters).items()}

    @cached_property
    def ancestor_digest(self) -> str:
        """Their digest."""
        return params.digest(self.ancestor)

    @property
    def sources(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(f"site{number}" for number in range(self.T))

    @property
    def expected(self) -> Expected:
        """What the server knows of a contribution beforehand."""
        found = shapes(self.parameters)
        one = self.ancestor_digest
        return Expected(found, tuple(found), one, SETTINGS, ("organ",), one, KEY, ("sampled",))

    def contribution(self, site: str) -> Contribution:
        """A model some way from the ancestor, and a Fisher over some decades."""
        g = torch.Generator().manual_seed(1 + self.sources.index(site))
        weights, fisher = {}, {}
        for name, began in self.ancestor.items():
            fisher[name] = torch.randn(began.shape, generator=g)
            weights[name] = torch.add(began, fisher[name], alpha=0.02)
            fisher[name].square_()
        one = self.ancestor_digest
        return Contribution(site, SETTINGS, ("organ",), ("T1",), 30, one, one, weights, fisher, "sampled", KEY)

    def written(self, site: str, source: Party) -> Path:
        """The file that a site keeps of what it has trained."""
        made, path = self.contribution(site), self.folder / site / "contribution.safetensors"
        with source.at_work():
            wire.write(made, path)
        return path
