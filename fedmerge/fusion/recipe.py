"""From a method of the table to a mix of contributions: one function for the server and one for the target's side."""

from collections.abc import Mapping, Sequence

import torch

from fedmerge.contribution import Contribution
from fedmerge.fusion import Method, mixing
from fedmerge.params import Params


def mix(method: Method, given: Sequence[Contribution], names: Sequence[str], axes: Mapping[str, int]) -> mixing.Mix:
    """What the method mixes: the named weights of the contributions, and their Fisher for rule mode.

    Args:
        method: a row of the table whose `sources` is "all".
        given: the contributions, in the order of the sites.
        names: the fusable parameters P.
        axes: parameter name -> axis of its output kernels (`partition.kernel_axes`).
    """
    return mixing.prepare(
        [c.weights for c in given],
        [c.fisher for c in given] if method.rule == "mode" else None,
        names,
        rule=method.rule or "mean",
        grain=method.grain,
        axes=axes,
        who=[c.site for c in given],
    )


def starting_logits(mixed: mixing.Mix, method: Method, seed: int) -> Params:
    """Zeros, which make equal ratios, or normal numbers drawn by the row's seed."""
    if method.chooser == "random":
        return mixing.random_logits(mixed, torch.Generator().manual_seed(seed))
    return mixing.zeros(mixed)
