"""Anchored ratios: where they begin, their gradient, and how a fit keeps them on the simplex."""

import itertools

import pytest
import torch
from mixes import AXES, NAMES, by_formula, gradient, ingredients, loss_of, mixed

from fedmerge.fusion import fitting, kinds, mixing

GRAINS = ["model", "layer", "kernel"]


def plain(mix, ratios, models, fishers):
    """(sum a F theta) / (sum a F) without the exact copy of lone models, which autograd cannot see through."""
    fused = {}
    for name in NAMES:
        a = ratios[mix.group_of[name]]
        if mix.grain == "kernel":
            a = a.reshape(len(models), *[-1 if d == AXES[name] else 1 for d in range(models[0][name].dim())])
        else:
            a = a.reshape(len(models), *[1] * models[0][name].dim())
        theta = torch.stack([model[name] for model in models])
        weight = a * mix_precision(mix, name, theta)
        fused[name] = (weight * theta).sum(0) / weight.sum(0)
    return fused


def mix_precision(mix, name, theta):
    """The normalised Fishers in the parameter's own shape; ones for rule mean."""
    if mix.rule == "mean":
        return torch.ones_like(theta)
    return torch.stack([mixing.unfold(mix, name, F) for F in mix.precision[name]])


def spread(logits):
    """The definition: a_t = l_t, and the anchor has the rest."""
    return {group: torch.cat([1 - value[1:].sum(0, keepdim=True), value[1:]]) for group, value in logits.items()}


def inner_logits(mix, seed=0):
    """Logits inside the simplex; the anchor's own is any number."""
    g = torch.Generator().manual_seed(seed)
    return {
        group: torch.rand(value.shape, generator=g, dtype=value.dtype) / value.shape[0]
        for group, value in mixing.zeros(mix).items()
    }


def nearest_by_search(a):
    """The nearest point of the simplex, by bisection of tau in max(a - tau, 0)."""
    low, high = min(a) - 1, max(a)
    for _ in range(200):
        tau = (low + high) / 2
        low, high = (tau, high) if sum(max(x - tau, 0) for x in a) > 1 else (low, tau)
    return [max(x - tau, 0) for x in a]


def test_anchored_ratios_worked_by_hand():
    """Logits (anything, 0.2, 0.3) are ratios (0.5, 0.2, 0.3); zeros are the anchor alone."""
    got = mixing.ratios({"a": torch.tensor([9.0, 0.2, 0.3]), "b": torch.zeros(3)}, "anchored")
    assert got["a"].tolist() == pytest.approx([0.5, 0.2, 0.3])
    assert got["b"].tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("grain", GRAINS)
@pytest.mark.parametrize("rule", ["mean", "mode"])
@pytest.mark.parametrize("T", [1, 2, 3])
def test_the_start_is_the_anchor_bit_for_bit(grain, rule, T):
    """In float32, at every grain."""
    mix = mixed(T, rule, grain, dtype=torch.float32)
    anchor = ingredients(T, dtype=torch.float32)[0][0]
    got = mixing.fuse(mix, mixing.ratios(mixing.zeros(mix), "anchored"))
    assert all(torch.equal(got[name], anchor[name]) for name in NAMES)


@pytest.mark.parametrize("grain", GRAINS)
@pytest.mark.parametrize("rule", ["mean", "mode"])
@pytest.mark.parametrize("T", [2, 3])
@pytest.mark.parametrize("start", [True, False])
def test_the_closed_form_is_autograd(grain, rule, T, start):
    """To 1e-10 in float64: inside the simplex, and at the start, where all ratios but the anchor's are zero."""
    mix, loss = mixed(T, rule, grain), loss_of(2)
    logits = mixing.zeros(mix) if start else inner_logits(mix)
    leaves = {group: value.clone().requires_grad_() for group, value in logits.items()}
    loss(plain(mix, spread(leaves), *ingredients(T))).backward()
    fused = mixing.fuse(mix, mixing.ratios(logits, "anchored"))
    got = fitting.pull_back(mix, logits, fused, gradient(loss, fused), "anchored")
    largest = max(leaf.grad.abs().max() for leaf in leaves.values())
    assert largest > 1e-6
    for group, leaf in leaves.items():
        assert (got[group] - leaf.grad).abs().max() <= 1e-10 * largest
        assert (got[group][0] == 0).all()


def test_inside_the_simplex_a_fit_is_torchs_adam_through_autograd():
    """Five small steps from ratios of a third: no projection is needed, and both end at the same logits."""
    mix, loss = mixed(3, "mean", "kernel"), loss_of(2)
    thirds = {group: torch.full_like(value, 1 / 3) for group, value in mixing.zeros(mix).items()}
    leaves = {group: value.clone().requires_grad_() for group, value in thirds.items()}
    adam = torch.optim.Adam(leaves.values(), lr=0.01)
    for _ in range(5):
        adam.zero_grad()
        loss(by_formula(mix, spread(leaves), *ingredients(3))).backward()
        adam.step()
    got = fitting.fit(mix, lambda k, f: gradient(loss, f), steps=5, lr=0.01, logits=thirds, kind="anchored")
    for group, leaf in leaves.items():
        torch.testing.assert_close(got[group][1:], leaf.detach()[1:], rtol=1e-8, atol=1e-10)
        assert (got[group][0] == 0).all()


@pytest.mark.parametrize("grain", GRAINS)
def test_every_step_of_a_fit_gives_ratios_that_are_allowed(grain):
    """Large steps that leave the simplex are put back, and the ratios pass the check of those from elsewhere."""
    mix, loss = mixed(3, "mean", grain, dtype=torch.float32), loss_of(2)
    seen = []

    def respond(k, fused):
        return gradient(loss, {name: value.double() for name, value in fused.items()})

    def keep(state):
        ratios = mixing.ratios(fitting.fit_logits(mix, state), "anchored")
        mixing.check_ratios(mix, ratios)
        seen.append(torch.cat([a.flatten() for a in ratios.values()]))

    fitting.fit(mix, respond, steps=10, lr=0.4, kind="anchored", keep=keep)
    assert len(seen) == 10
    assert any((a == 0).any() for a in seen)  # some kernel was at the border


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_a_fit_finds_the_model_that_the_target_wants(wanted):
    """From the anchor to another model and all the way; or it stays at the anchor, exactly."""
    mix = mixed(3, "mean", "kernel", dtype=torch.float32)
    model = ingredients(3, dtype=torch.float32)[0][wanted]
    logits = fitting.fit(
        mix, lambda k, f: {n: f[n] - model[n] for n in f}, steps=100, lr=0.05, kind="anchored"
    )  # fmt: skip
    ratios = mixing.ratios(logits, "anchored")
    assert all((a[wanted] > 0.99).all() for a in ratios.values())
    if wanted == 0:
        assert all((a[0] == 1).all() for a in ratios.values())


def test_a_fit_from_the_anchor_lowers_the_loss():
    """A real net's loss after twenty steps, against the anchor's own."""
    mix, loss = mixed(2, "mean", "kernel"), loss_of(2)
    start = mixing.fuse(mix, mixing.ratios(mixing.zeros(mix), "anchored"))
    logits = fitting.fit(mix, lambda k, f: gradient(loss, f), steps=20, lr=0.05, kind="anchored")
    assert loss(mixing.fuse(mix, mixing.ratios(logits, "anchored"))) < loss(start)


@pytest.mark.parametrize("T", [1, 2, 3, 6])
def test_the_projection_is_the_nearest_point_of_the_simplex(T):
    """Against bisection, for wild columns."""
    a = 3 * torch.randn(T, 40, generator=torch.Generator().manual_seed(T), dtype=torch.float64)
    got = kinds.project(a)
    for column, expected in zip(got.T.tolist(), a.T.tolist()):
        assert column == pytest.approx(nearest_by_search(expected), abs=1e-12)


def test_settling_leaves_allowed_logits_bit_for_bit():
    """The border too; what is outside becomes a ratio vector of sum 1, and the anchor's logit zero."""
    inside = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.3, 1.0, 0.0, 0.7], [0.6, 0.0, 0.0, 0.1]])
    settle = kinds.KINDS["anchored"].settle
    assert torch.equal(settle(inside), inside)
    assert settle(torch.tensor([5.0, -1.0, 0.8])).tolist() == pytest.approx([0.0, 0.0, 0.3])  # of (1.2, -1, .8), tau .5


def test_logits_outside_give_the_ratios_of_the_nearest_allowed_ones():
    """So a sender of wild logits cannot make a ratio negative."""
    for values in itertools.product([-5.0, 0.4, 30.0], repeat=3):
        (ratios,) = mixing.ratios({"a": torch.tensor(values)}, "anchored").values()
        assert (ratios >= 0).all()
        assert ratios.sum().item() == pytest.approx(1, abs=1e-6)
