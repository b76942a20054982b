"""Regions: unions of labels, each answered by a channel of its own, where labels share a softmax.

A tumour's core lies in the whole tumour, and the enhancing part lies in the core. A net that answers regions says yes
or no to each at every voxel, by a sigmoid: region-based training (Isensee et al. 2021, "nnU-Net for Brain Tumor
Segmentation").

Any two regions are nested or disjoint, and each has one label that is in none of its narrower ones. So there are as
many regions as labels, and a region's channel stands where that label stands:

    label map to regions    a region is on where the label is one of its labels
    regions to label map    painted from the widest to the narrowest: the narrowest region that is on says the label

>>> tumour = of(("necrosis", "oedema"), {"whole": ("necrosis", "oedema"), "core": ("necrosis",)})
>>> tumour.names
('core', 'whole')
>>> tumour.label_map(torch.tensor([[0.9, 0.1, 0.9], [0.9, 0.9, 0.1]]))  # in both, in the whole, in the core alone
tensor([1, 2, 1], dtype=torch.uint8)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedmerge.errors import ConfigError
from fedmerge.likelihood import ELSEWHERE, Likelihood

Table = Mapping[str, Sequence[str]]  # name of a region -> its labels

MOST = 255  # labels of a label map, and so regions
ON = 0.5 - 1e-6  # a tie is the region's, as it is a label's where labels exclude each other


@dataclass(frozen=True)
class Regions:
    """Regions from which a label map can be made; `of` checks that.

    Attributes:
        names: in the order of the channels: the k-th region has the k-th label of its own.
        members: of each region the values of its labels, from 1.
        rows: of each region its name and labels, in words: what heads of several sites are compared by.
    """

    names: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]
    rows: tuple[str, ...]

    @property
    def order(self) -> list[int]:
        """Channels from the widest region, that of the most labels, to the narrowest; of equals in their order."""
        return sorted(range(len(self.names)), key=lambda k: -len(self.members[k]))

    def read(self, labels: Tensor) -> Tensor:
        """Which regions each voxel is in.

        Args:
            labels: (B, 1, *S), whole numbers from 0 to the number of labels.

        Returns:
            (B, R, *S) bool.
        """
        holds = [[value in own for value in range(len(self.names) + 1)] for own in self.members]
        return torch.tensor(holds, device=labels.device)[:, labels[:, 0].long()].movedim(0, 1)

    def label_map(self, shares: Tensor) -> Tensor:
        """The label map of what a net says: at each voxel the label of the narrowest region that is on.

        Args:
            shares: (R, *S), the probability of each region.

        Returns:
            (*S) uint8, 0 where no region is on.
        """
        found = torch.zeros(shares.shape[1:], dtype=torch.uint8, device=shares.device)
        for channel in self.order:
            found[shares[channel] > ON] = channel + 1
        return found

    @property
    def likelihood(self) -> Likelihood:
        """An independent Bernoulli variable for each region and voxel."""
        return Likelihood(log_likelihood, sample, self.read, draws=len(self.names), values=len(self.names) + 1)


def of(labels: Sequence[str], table: Table) -> Regions:
    """The regions of a task, in the order of their channels.

    Args:
        labels: the names of the values 1..K.
        table: the regions, in any order.

    Raises:
        ConfigError: two regions overlap and none holds the other, or a region has not exactly one label of its own;
            names them. Or there are too many.
    """
    if (count := max(len(labels), len(table))) > MOST:
        raise ConfigError(f"expected at most {MOST} labels and regions, got {count}")
    sets = {name: frozenset(parts) for name, parts in table.items()}
    for name, parts in sets.items():
        if strange := sorted(parts - set(labels)):
            raise ConfigError(f"the region '{name}' expected labels of {', '.join(labels)}, got '{strange[0]}'")
    for (one, here), (other, there) in combinations(sets.items(), 2):
        if here & there and not (here <= there or there <= here):
            raise ConfigError(
                f"the regions '{one}' and '{other}' share {_listed(labels, here & there)}, and neither holds the "
                "other: regions that a net answers are nested or disjoint"
            )
    owner = {
        label: min((n for n in sets if label in sets[n]), key=lambda n: len(sets[n]), default="") for label in labels
    }
    for label, name in owner.items():
        if not name:
            raise ConfigError(f"the label '{label}' is in no region, so a net that answers regions cannot say it")
    for name in sets:
        own = [label for label in labels if owner[label] == name]
        if len(own) != 1:
            got = " and ".join(f"'{label}'" for label in own) or "none"
            raise ConfigError(
                f"the region '{name}' expected one label that no narrower region holds, got {got}: "
                "a label map could not be made back from such regions"
            )
    names = tuple(owner.values())
    members = tuple(tuple(k for k, label in enumerate(labels, start=1) if label in sets[name]) for name in names)
    rows = tuple(f"{name} ({_listed(labels, sets[name])})" for name in names)
    return Regions(names, members, rows)


def table_of(labels: Sequence[str], table: Table) -> dict[str, list[str]]:
    """The table in the one form in which sites and server compare it: channels in their order, labels in theirs.

    Raises:
        ConfigError: as `of`.
    """
    found = of(labels, table)
    return {name: [labels[k - 1] for k in own] for name, own in zip(found.names, found.members)}


def log_likelihood(logits: Tensor, truth: Tensor) -> Tensor:
    """Log-probability of each case's regions: independent Bernoulli variables, summed over regions and voxels.

    Args:
        logits: (B, R, *S) float.
        truth: the same shape, 0 and 1, or `ELSEWHERE`.

    Returns:
        (B,) of the logits' dtype.
    """
    counted = truth != ELSEWHERE
    there = torch.where(counted, truth, 0).to(logits.dtype)
    voxels = F.binary_cross_entropy_with_logits(logits, there, reduction="none") * counted
    return -voxels.reshape(len(logits), -1).sum(1)


def sample(logits: Tensor, uniform: Tensor) -> Tensor:
    """Yes or no for each region and voxel, each with the probability sigmoid(logits), at the given random numbers.

    Args:
        logits: (B, R, *S).
        uniform: as many numbers in [0, 1).

    Returns:
        (B, R, *S) bool.
    """
    return uniform.reshape(logits.shape) < logits.detach().sigmoid()


def _listed(labels: Sequence[str], some: frozenset[str]) -> str:
    return ", ".join(label for label in labels if label in some)
