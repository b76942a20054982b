"""What whoever merges does, in every mode: open, prepare, a step of the fit, the merge in the end."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.modes.made import Net
from benchmarks.modes.parties import Party, Spent
from fedmerge import params, wire
from fedmerge.contribution import Contribution, check
from fedmerge.fusion import fitting, mixing
from fedmerge.fusion.mixing import Mix
from fedmerge.params import Params

Model = tuple[Params, Params]  # weights, Fisher

STEPS = 3  # of the fit are measured; the rest cost as much


def checked(path: Path, net: Net, site: str) -> Contribution:
    """A contribution opened and checked by a target whose server cannot look at it."""
    found = wire.read(path, site=site)
    check(found, net.expected, site)
    return found


def mixed(party: Party, net: Net, models: Sequence[Model]) -> Mix:
    """All that does not change during a fit; T-IMM, ratios by layer."""
    with party.at_work():
        weights, fishers = zip(*models)
        return mixing.prepare(weights, fishers, tuple(net.ancestor), rule="mode", grain="layer")


def gradient_of(fused: Params) -> Params:
    """A gradient at these weights; any numbers will do."""
    return {name: value.square() for name, value in fused.items()}


def fit(mix: Mix, spent: Spent) -> Params:
    """The state after some steps at the target, without the net's forward and backward pass; a first one warms up."""
    state, measured = fitting.fit_state(mix), Party()
    gradient = gradient_of(mixing.fuse(mix, mixing.uniform(mix)))
    for now in (Party(), *[measured] * STEPS):
        with now.at_work():
            fused = mixing.fuse(mix, mixing.ratios(fitting.fit_logits(mix, state)))
            state = fitting.fit_step(mix, state, gradient, 0.05, fused=fused)
    spent.step.target = measured * (1 / STEPS)
    return state


def merge(party: Party, mix: Mix, state: Params, path: Path | None = None) -> tuple[bytes, str]:
    """Fuse with the fitted ratios: the logits as bytes, and the digest of the merged weights.

    Args:
        party: whose work it is.
        mix: from `mixed`.
        state: of the fit.
        path: a model file is written there, where one is kept.
    """
    with party.at_work():
        logits = fitting.fit_logits(mix, state)
        fused = mixing.fuse(mix, mixing.ratios(logits))
        digest = params.digest(fused)
        if path is not None:
            wire.write_model(fused, {"digest": digest}, path)
        return wire.params_to_bytes(logits), digest
