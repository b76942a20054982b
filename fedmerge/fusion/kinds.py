"""Kinds of ratios: how free numbers, the logits, become mixing ratios, and how a gradient goes back through that.

    sigmoid    a_t = sigmoid(l_t) / sum_s sigmoid(l_s)                  T-IMM, Geyer et al. 2019
    softmax    a_t = exp(l_t) / sum_s exp(l_s)
    anchored   a_t = l_t for t > 0,  a_0 = 1 - sum_(t>0) l_t            for MedMerge, Almakky et al. 2024

Logits begin at zero. For the first two that is the same ratio for every model; for `anchored` it is model 0, the
anchor, bit for bit. A sigmoid reaches no ratio of zero, so it could not begin there. Anchored logits are kept where
all ratios are non-negative: what a step moves out is put back at the nearest point of the simplex.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal["sigmoid", "softmax", "anchored"]


@dataclass(frozen=True)
class Row:
    """A kind: three functions of tensors (T, ...), whose first axis is the models.

    Attributes:
        ratios: logits -> ratios, non-negative, of sum 1.
        chain: (dL/da, ratios, logits) -> dL/dl.
        settle: logits after a step of a fit -> logits that the kind allows.
    """

    ratios: Callable[[Tensor], Tensor]
    chain: Callable[[Tensor, Tensor, Tensor], Tensor]
    settle: Callable[[Tensor], Tensor]


def project(a: Tensor) -> Tensor:
    """The nearest point of the simplex, column by column (Held et al. 1974; Duchi et al. 2008, figure 1).

    Args:
        a: (T, ...).

    Returns:
        (T, ...), non-negative, of sum 1 over the first axis: max(a - tau, 0) with the tau that makes it so.
    """
    falling = a.sort(0, descending=True).values
    excess = falling.cumsum(0) - 1
    count = torch.arange(1, a.shape[0] + 1, device=a.device, dtype=a.dtype).reshape(-1, *(1,) * (a.dim() - 1))
    support = (falling * count > excess).sum(0, keepdim=True)  # how many stay above zero
    tau = excess.gather(0, support - 1) / support
    return (a - tau).clamp(min=0)


def _sigmoid(logits: Tensor) -> Tensor:
    # sigmoid(l) / sum sigmoid(l) = softmax(log sigmoid(l)), which neither overflows nor divides 0 by 0
    return F.logsigmoid(logits).softmax(0)


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(0)


def _anchored(logits: Tensor) -> Tensor:
    others = _back_to_simplex(logits)[1:]
    return torch.cat([(1 - others.sum(0, keepdim=True)).clamp(min=0), others])  # the clamp is for rounding


def _back_to_simplex(logits: Tensor) -> Tensor:
    """Logits whose ratios are allowed stay bit for bit; the anchor's own is ignored, and becomes zero."""
    others = logits[1:]
    a = torch.cat([1 - others.sum(0, keepdim=True), others])
    moved = torch.where((a >= 0).all(0), a, project(a))
    return torch.cat([torch.zeros_like(moved[:1]), moved[1:]])


def _sigmoid_chain(v: Tensor, a: Tensor, logits: Tensor) -> Tensor:
    return _softmax_chain(v, a, logits) * torch.sigmoid(-logits)


def _softmax_chain(v: Tensor, a: Tensor, logits: Tensor) -> Tensor:
    return a * (v - (a * v).sum(0))


def _anchored_chain(v: Tensor, a: Tensor, logits: Tensor) -> Tensor:
    return v - v[0]


def _as_they_are(logits: Tensor) -> Tensor:
    return logits


KINDS: dict[str, Row] = {
    "sigmoid": Row(_sigmoid, _sigmoid_chain, _as_they_are),
    "softmax": Row(_softmax, _softmax_chain, _as_they_are),
    "anchored": Row(_anchored, _anchored_chain, _back_to_simplex),
}
