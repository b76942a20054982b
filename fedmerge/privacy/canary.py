"""DP-SGD on the bench: does the patient that stands out most show in what a training releases?

The mechanism that is attacked is `dpsgd.train` itself, on a tiny net and the middle of a few patients' images, many
times, with and without one more patient, the canary (Jagielski, Ullman & Oprea 2020; Nasr et al. 2021, whose attacker
sees every released gradient, as the accountant assumes). The canary has an image channel that nobody else has, far
brighter than any image, and labels drawn by lot. So its gradient is longer than any clipping norm, and lies almost
wholly in weights that no other patient moves. The attacker knows everything but whether it took part. At each step it
takes the released sum S along the canary's own gradient u at the weights of that step,

    x = <S, u> / C        N(0, sigma^2) without the canary; with it, 1 more at those steps that draw it

and adds up what x speaks for the canary, the logarithm of the likelihood ratio (Neyman & Pearson 1933):

    score = sum over steps of  log(1 - q + q exp((2 x - 1) / (2 sigma^2)))

No test of those x tells better, so this is as far as an attack on these trainings can go.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from fedmerge.errors import ConfigError
from fedmerge.privacy import dpsgd
from fedmerge.privacy.dpsgd import Patient
from fedmerge.privacy.lower_bound import Evidence, evidence
from fedmerge.privacy.mechanism import Mechanism
from fedmerge.records import Settings

BRIGHT = 1000.0
SIDE = 4  # voxels of the cube that is left of an image
LR = 1e-3
BREAKS = ("no noise", "no clipping")
FAR = 1e6  # times the norm: no gradient comes as far


def cohort(patients: Sequence[Patient]) -> list[Patient]:
    """The middle of every case, with one more channel that is zero.

    Args:
        patients: cases of images (C, X, Y, Z) and labels (1, X, Y, Z), at least `SIDE` voxels a side.

    Returns:
        cases of images (C + 1, SIDE, SIDE, SIDE) and labels (1, SIDE, SIDE, SIDE).
    """
    return [[(F.pad(_middle(x), (0, 0) * 3 + (0, 1)), _middle(y)) for x, y in patient] for patient in patients]


def canary(channels: int, classes: int, seed: int) -> Patient:
    """The patient that stands out: noise in the last channel, a thousandfold, and labels by lot.

    Args:
        channels: of the cohort's images, with the one that is the canary's own.
        classes: of the labels, background included.
        seed: of noise and labels.
    """
    draw, shape = torch.Generator().manual_seed(seed), (SIDE,) * 3
    image = torch.zeros(channels, *shape)
    image[-1] = BRIGHT * torch.randn(shape, generator=draw)
    return [(image, torch.randint(classes, (1, *shape), generator=draw))]


def broken(mechanism: Mechanism, how: str) -> Mechanism:
    """A mechanism that was broken on purpose, to see whether the attack finds out.

    Args:
        mechanism: a sound one.
        how: `"no noise"`; or `"no clipping"`: the noise stays as strong as it is, and no gradient is held back.
    """
    if how == "no noise":
        return replace(mechanism, noise_multiplier=0.0)
    if how == "no clipping":
        return replace(mechanism, noise_multiplier=mechanism.noise_multiplier / FAR, clip=mechanism.clip * FAR)
    raise ConfigError(f"to break a mechanism expected one of {', '.join(BREAKS)}, got {how!r}")


def audit(
    patients: Sequence[Patient],
    classes: int,
    mechanism: Mechanism,
    steps: int,
    claimed: float,
    delta: float,
    *,
    members: int,
    others: int,
    seed: int,
) -> Evidence:
    """The lower bound on epsilon from many trainings, with the canary and without it.

    Args:
        patients: the others, as `cohort` makes them.
        classes: of their labels, background included.
        mechanism: what a step does to them.
        steps: of each training.
        claimed: the noise multiplier that was accounted, at the clipping norm 1; a sound mechanism has it.
        delta: of the privacy claimed.
        members: trainings with the canary; the first quarter chooses the threshold, the others are counted.
        others: trainings without it; likewise.
        seed: of everything.
    """
    odd = canary(patients[0][0][0].shape[0], classes, seed)
    scores: dict[bool, list[float]] = {True: [], False: []}
    for run in range(members + others):
        present = run < members
        seen = observed(patients, odd, classes, mechanism, steps, present=present, seed=seed, run=run)
        scores[present].append(ratio(seen, mechanism.rate, claimed))
    return evidence(scores[True], scores[False], delta)


def ratio(observed: Sequence[float], rate: float, noise: float) -> float:
    """The log-likelihood ratio of a training with the canary to one without.

    Args:
        observed: (T,) x of each step.
        rate: q.
        noise: sigma.
    """
    speaks = (2 * np.asarray(observed, np.float64) - 1) / (2 * noise**2)
    absent = math.log1p(-rate) if rate < 1 else -math.inf
    return float(np.logaddexp(absent, math.log(rate) + speaks).sum())


def observed(
    patients: Sequence[Patient],
    odd: Patient,
    classes: int,
    mechanism: Mechanism,
    steps: int,
    *,
    present: bool,
    seed: int,
    run: int,
) -> list[float]:
    """One training of a tiny net: x of each step.

    Args:
        patients: the others.
        odd: the canary.
        classes: of the labels, background included.
        mechanism: what a step does; `patients` is the number of the others, in both worlds.
        steps: of the training.
        present: whether the canary takes part.
        seed: of the net's first weights, the same in every run.
        run: gives draw and noise of their own.
    """
    (image, label), found = odd[0], []
    net = nn.Conv3d(image.shape[0], classes, 1, bias=False)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)))
    seen = image[-1].flatten()  # (V,), what only the canary has; net.weight[:, -1] is moved by it alone
    truth = F.one_hot(label.flatten(), classes).T.float()  # (K, V)

    @torch.no_grad()
    def look() -> None:
        assert net.weight.grad is not None  # noqa: S101 - the optimiser is about to use it
        weight, mean = net.weight[:, -1].flatten(), net.weight.grad[:, -1].flatten()
        u = (torch.outer(weight, seen).softmax(0) - truth) @ seen  # of the cross-entropy, summed
        found.append(float(mean @ u / u.norm()) * mechanism.rate * mechanism.patients)

    together = [*patients, odd] if present else patients
    with _before_each_step(net, look):
        dpsgd.train(
            net,
            together,
            Settings(steps=steps, lr=LR),
            mechanism,
            seed=seed,
            device="cpu",
            precision="float32",
            loss=_loss,
            unsafe_seed=(seed << 32) + run,  # the score does not use it, and every run has other numbers
        )
    return found


@contextmanager
def _before_each_step(net: nn.Module, look: Callable[[], None]) -> Iterator[None]:
    """Call `look` whenever an optimiser is about to change the net: gradients are the released ones by then."""
    own = next(net.parameters())

    def hook(optimiser: torch.optim.Optimizer, *_: object) -> None:
        if any(p is own for group in optimiser.param_groups for p in group["params"]):
            look()

    handle = register_optimizer_step_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels[:, 0])


def _middle(value: Tensor) -> Tensor:
    sides = [slice((n - SIDE) // 2, (n - SIDE) // 2 + SIDE) for n in value.shape[1:]]
    return value[(slice(None), *sides)].contiguous()
