"""What membership attacks come to, patient by patient, and what reference models say of the same patients."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedmerge import losses
from fedmerge.likelihood import SOFTMAX, Likelihood
from fedmerge.privacy import separation
from fedmerge.privacy.separation import Array, Roc
from sites.cases import Loaded
from sites.draws import generator


@dataclass(frozen=True)
class Finding:
    """One membership attack.

    Attributes:
        attack: its name.
        roc: how well it tells; None where there was nothing to attack.
        why: and then the reason.
        inside: score of each member, by patient; of the Fisher, of those that it was taken of.
        outside: score of each other patient.
    """

    attack: str
    roc: Roc | None
    why: str = ""
    inside: Mapping[str, float] = field(default_factory=dict)
    outside: Mapping[str, float] = field(default_factory=dict)


class References(NamedTuple):
    """What reference models say of all patients, members first; they are the same for all models of these patients.

    Attributes:
        confidence: (R, N), as `attacks.logit` has it.
        saw: (R, N), who was trained on.
    """

    confidence: Array
    saw: NDArray[np.bool_]


def finding(attack: str, inside: Mapping[str, float], outside: Mapping[str, float]) -> Finding:
    """What the scores of an attack come to."""
    return Finding(attack, separation.roc([*inside.values()], [*outside.values()]), "", inside, outside)


def evaluated(net: nn.Module, case: Loaded, loss: losses.Loss, likelihood: Likelihood = SOFTMAX) -> tuple[float, float]:
    """A case's training loss, and its mean negative log-likelihood over voxels, in evaluation mode and float32."""
    where, was = next(net.parameters()).device, net.training
    net.eval()
    try:
        with torch.no_grad():
            logits, label = net(case.image[None].to(where)).float(), case.label[None].to(where)
            nll = -likelihood.log(logits, likelihood.read(label)).item() / label.numel()
            return loss(logits, label).item(), nll
    finally:
        net.train(was)


def halves(patients: int, references: int, seed: int) -> NDArray[np.bool_]:
    """(references, patients): which patients a reference is trained on; rows 2k and 2k + 1 share none and miss none."""
    saw = np.zeros((references, patients), bool)
    for pair in range(references // 2):
        chosen = generator("references", seed, pair).permutation(patients)[: patients // 2]
        saw[2 * pair, chosen] = True
        saw[2 * pair + 1] = ~saw[2 * pair]
    return saw
