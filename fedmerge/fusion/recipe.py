"""From a method of the table to a mix of contributions: one function for the server and one for the target's side."""

from collections.abc import Mapping, Sequence

import torch

from fedmerge.fusion import Method, mixing
from fedmerge.params import Params


def mix(
    method: Method,
    models: Sequence[Params],
    fishers: Sequence[Params],
    names: Sequence[str],
    *,
    axes: Mapping[str, int],
    who: Sequence[str],
) -> mixing.Mix:
    """What the method mixes: the named weights of the models, and their Fishers for rule mode.

    Args:
        method: a row of the table whose `sources` is "all".
        models: T sets of parameters, in the order of the sites.
        fishers: their raw Fishers; not looked at for rule mean.
        names: the fusable parameters P.
        axes: parameter name -> axis of its output kernels (`partition.kernel_axes`).
        who: the sites' names, for sentences.
    """
    return mixing.prepare(
        models,
        fishers if method.rule == "mode" else None,
        names,
        rule=method.rule or "mean",
        grain=method.grain,
        axes=axes,
        who=who,
    )


def starting_logits(mixed: mixing.Mix, method: Method, seed: int) -> Params:
    """Zeros, which make equal ratios, or normal numbers drawn by the row's seed."""
    if method.chooser == "random":
        return mixing.random_logits(mixed, torch.Generator().manual_seed(seed))
    return mixing.zeros(mixed)
