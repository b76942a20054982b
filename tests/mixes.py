"""Fusions of small nets, the formula that they should give, and a loss that asks for a gradient."""

import small_nets
import torch
import torch.nn.functional as F
from torch.func import functional_call

from fedmerge import fisher, partition
from fedmerge.fusion import mixing, rules

NAMES = small_nets.FUSABLE
AXES = partition.kernel_axes(small_nets.make())


def ingredients(T, dims=2, dtype=torch.float64):
    """T models of one net, and their raw Fishers."""
    models = [small_nets.weights(dims, seed, dtype) for seed in range(T)]
    return models, [small_nets.fishers(model, seed) for seed, model in enumerate(models)]


def mixed(T=3, rule="mode", grain="layer", dims=2, dtype=torch.float64):
    """Those, prepared."""
    models, fishers = ingredients(T, dims, dtype)
    return mixing.prepare(models, fishers if rule == "mode" else None, NAMES, rule=rule, grain=grain, axes=AXES)


def by_formula(mix, ratios, models, fishers):
    """`rules` on whole tensors, with the ratios spread by hand; differentiable."""
    fused = {}
    for name in mix.names:
        theta = torch.stack([model[name] for model in models])
        precision = torch.stack([fisher.normalise(f)[name] for f in fishers]) if mix.rule == "mode" else None
        a = ratios[mix.group_of[name]]
        if mix.grain == "kernel":
            sizes = [1] * theta.dim()
            sizes[0], sizes[1 + AXES[name]] = a.shape
            a = a.reshape(sizes)
        fused[name] = rules.RULES[mix.rule](theta, precision, a)
    return fused


def loss_of(dims):
    """A net's loss on a few cases as a function of the fused weights."""
    net = small_nets.make(dims, seed=99).double().eval()
    cases = small_nets.cases(dims)
    images, labels = torch.stack([c[0] for c in cases]).double(), torch.cat([c[1] for c in cases])
    return lambda fused: F.cross_entropy(functional_call(net, fused, (images,)), labels)


def gradient(loss, fused):
    """DL / d fused, as a target answers."""
    leaves = {name: value.detach().requires_grad_() for name, value in fused.items()}
    return dict(zip(leaves, torch.autograd.grad(loss(leaves), list(leaves.values()))))


def drawn_logits(mix, seed=0):
    """Standard normal logits."""
    return mixing.random_logits(mix, torch.Generator().manual_seed(seed))
