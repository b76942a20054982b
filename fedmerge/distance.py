"""How far training moved a source's weights, beside how far it moved those of the others.

    change_t = ||theta_t - start_t||        over P and the norm parameters
    times_t  = change_t / median of change_s over the other sources s

A single number a source: it finds weights that were scaled, replaced or trained with another rate, not a patient
attacker. With two sources each is the other's median, and nothing tells which of them is odd.
"""

import math
import statistics
from collections.abc import Mapping

import torch

from fedmerge.contribution import slabs
from fedmerge.params import Params

LEAST = 3  # sources: with fewer there is no majority that could say who is odd


def change(after: Params, before: Params) -> float:
    """||after - before|| over the names that both have, summed in float64."""
    total = 0.0
    for name in after.keys() & before.keys():
        for new, old in zip(slabs(after[name]), slabs(before[name])):
            total += float(torch.linalg.vector_norm(new.double() - old.double()) ** 2)
    return math.sqrt(total)


def times(changes: Mapping[str, float]) -> dict[str, float]:
    """Each change over the median of the others; infinite where only the others stood still."""
    found = {}
    for site, own in changes.items():
        others = [value for name, value in changes.items() if name != site]
        if others:
            middle = statistics.median(others)
            found[site] = own / middle if middle else (math.inf if own else 1.0)
    return found
