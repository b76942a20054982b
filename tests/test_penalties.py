"""Penalties: plain loops and autograd in float64, what a minimum of loss plus penalty is, and the limits."""

import math

import pytest
import small_nets
import torch
from monai.losses.dice import DiceLoss

from fedmerge import fisher, partition, penalties
from fedmerge.errors import ConfigError, NetError

NAMES = small_nets.FUSABLE
AXES = partition.kernel_axes(small_nets.make())


def where(seed=0):
    """Parameters in training, where they started, and a normalised Fisher; float64."""
    now = {name: v.requires_grad_() for name, v in small_nets.weights(seed=seed, dtype=torch.float64).items()}
    start = {name: v for name, v in small_nets.weights(seed=seed + 1, dtype=torch.float64).items() if name in NAMES}
    return now, start, fisher.normalise(small_nets.fishers(start, seed))


def flat(params):
    """The fusable parameters as a list of numbers."""
    return [x for name in NAMES for x in params[name].flatten().tolist()]


EACH = {
    "l2": (lambda now, start, F, strength: penalties.l2(now, start, strength), lambda f: 1.0),
    "proximal": (lambda now, start, F, strength: penalties.proximal(now, start, strength), lambda f: 0.5),
    "ewc": (lambda now, start, F, strength: penalties.ewc(now, start, [F], strength), lambda f: 0.5 * f),
}


def pulled(each, strength, start, F):
    """The minimum of (theta - b)^2 / 2 plus a penalty, b a third net."""
    target, best = small_nets.weights(seed=9, dtype=torch.float64), {}
    for name in NAMES:
        w = 2 * strength * EACH[each][1](F[name])
        best[name] = ((target[name] + w * start[name]) / (1 + w)).requires_grad_()
    return best


@pytest.mark.parametrize("each", EACH)
def test_a_penalty_is_its_plain_loop(each):
    """Number by number in Python, and the net's other parameters play no part."""
    now, start, F = where()
    penalty, weight = EACH[each]
    expected = sum(0.7 * weight(f) * (x - y) ** 2 for x, y, f in zip(flat(now), flat(start), flat(F)))
    got = penalty(now, start, F, 0.7)
    assert got.item() == pytest.approx(expected, rel=1e-12)
    got.backward()
    assert now["head.weight"].grad is None


@pytest.mark.parametrize("each", EACH)
def test_its_gradient_is_the_difference_times_its_weight(each):
    """2 * strength * weight * (theta - theta*), element by element."""
    now, start, F = where()
    penalty, weight = EACH[each]
    penalty(now, start, F, 0.7).backward()
    for name in NAMES:
        expected = 2 * 0.7 * weight(F[name]) * (now[name] - start[name]).detach()
        torch.testing.assert_close(now[name].grad, expected * torch.ones_like(start[name]), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("each", EACH)
def test_no_strength_is_no_penalty_and_the_start_has_none(each):
    """Zero, and a gradient of zero."""
    now, start, F = where()
    penalty, _ = EACH[each]
    for parameters, strength in ((now, 0.0), ({n: v.clone().requires_grad_() for n, v in start.items()}, 3.0)):
        got = penalty(parameters, start, F, strength)
        assert got.item() == 0
        grads = torch.autograd.grad(got, [parameters[name] for name in NAMES])
        assert all((g == 0).all() for g in grads)


@pytest.mark.parametrize("each", EACH)
@pytest.mark.parametrize("strength", [0.0, 0.5, 100.0])
def test_with_a_quadratic_loss_the_minimum_is_the_weighted_mean(each, strength):
    """Loss (theta - b)^2 / 2: the gradient of loss and penalty is zero at (b + w theta*) / (1 + w)."""
    _, start, F = where()
    target, best = small_nets.weights(seed=9, dtype=torch.float64), pulled(each, strength, start, F)
    loss = sum((best[name] - target[name]).square().sum() / 2 for name in NAMES)
    total = loss + EACH[each][0](best, start, F, strength)
    assert all(g.abs().max() < 1e-10 for g in torch.autograd.grad(total, [best[name] for name in NAMES]))


@pytest.mark.parametrize("each", EACH)
def test_no_strength_leaves_the_minimum_and_a_huge_one_pulls_it_back_to_the_start(each):
    """Strength 0 and 1e12."""
    _, start, F = where()
    target = small_nets.weights(seed=9, dtype=torch.float64)
    for name in NAMES:
        torch.testing.assert_close(pulled(each, 0.0, start, F)[name].detach(), target[name])
        torch.testing.assert_close(pulled(each, 1e12, start, F)[name].detach(), start[name], rtol=0, atol=1e-8)


def test_fishers_of_several_predecessors_are_added():
    """Two at once are the sum of both."""
    now, start, F = where()
    G = fisher.normalise(small_nets.fishers(start, 5))
    both = penalties.ewc(now, start, [F, G], 0.3)
    each = penalties.ewc(now, start, [F], 0.3) + penalties.ewc(now, start, [G], 0.3)
    torch.testing.assert_close(both, each, rtol=1e-12, atol=0)


def test_a_flat_fisher_is_the_proximal_term():
    """EWC with F = 1 is FedProx's term, and L2-transfer is twice that."""
    now, start, _ = where()
    flat_fisher = {name: torch.ones_like(value) for name, value in start.items()}
    ewc = penalties.ewc(now, start, [flat_fisher], 0.3)
    torch.testing.assert_close(ewc, penalties.proximal(now, start, 0.3), rtol=1e-12, atol=0)
    torch.testing.assert_close(2 * ewc, penalties.l2(now, start, 0.3), rtol=1e-12, atol=0)


def outputs(*shape):
    """Logits of a model and of its predecessor, float64."""
    g = torch.Generator().manual_seed(3)
    return [2 * torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(2)]


def distillation_by_loop(logits, teacher, T):
    """Case by case and voxel by voxel."""
    total, dice = [], []
    for case, old in zip(logits.flatten(2).tolist(), teacher.flatten(2).tolist()):
        softened = []
        for rows in (case, old):
            voxels = []
            for voxel in zip(*rows):
                weights = [math.exp(x / T) for x in voxel]
                voxels.append([w / sum(weights) for w in weights])
            softened.append(voxels)
        p, q = softened
        total += [-sum(b * math.log(a) for a, b in zip(x, y)) for x, y in zip(p, q)]
        for k in range(1, len(case)):
            above = 2 * sum(x[k] * y[k] for x, y in zip(p, q)) + 1e-5
            dice.append(1 - above / (sum(x[k] ** 2 for x in p) + sum(y[k] ** 2 for y in q) + 1e-5))
    return sum(total) / len(total) + sum(dice) / len(dice)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 2, 2, 3, 4)])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_distillation_is_its_plain_loop(shape, temperature):
    """2D and 3D."""
    logits, teacher = outputs(*shape)
    got = penalties.distillation(logits, teacher, temperature)
    assert got.item() == pytest.approx(distillation_by_loop(logits, teacher, temperature), rel=1e-12)


def test_the_dice_of_distillation_is_monais_with_squares():
    """Of the same smoothing, without background."""
    logits, teacher = outputs(2, 3, 4, 5)
    entropy = -(teacher.softmax(1) * logits.log_softmax(1)).sum(1).mean()
    monai = DiceLoss(softmax=True, include_background=False, squared_pred=True)(logits, teacher.softmax(1))
    torch.testing.assert_close(penalties.distillation(logits, teacher), entropy + monai, rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (6, 3)])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distillation_is_least_where_the_model_agrees_with_its_predecessor(shape, temperature):
    """There its gradient is zero and its value the entropy of the softened output; elsewhere it is more."""
    logits, teacher = outputs(*shape)
    same = teacher.clone().requires_grad_()
    least = penalties.distillation(same, teacher, temperature)
    q = (teacher / temperature).softmax(1)
    assert least.item() == pytest.approx(-(q * q.log()).sum(1).mean().item(), rel=1e-9)
    (grad,) = torch.autograd.grad(least, same)
    assert grad.abs().max() < 1e-12
    assert penalties.distillation(logits, teacher, temperature) > least


def test_a_classifier_is_distilled_by_cross_entropy_alone():
    """(B, K): torch's own cross-entropy with soft targets."""
    logits, teacher = outputs(6, 3)
    expected = torch.nn.functional.cross_entropy(logits, teacher.softmax(1))
    torch.testing.assert_close(penalties.distillation(logits, teacher), expected, rtol=1e-12, atol=0)


def test_no_gradient_goes_to_the_predecessor():
    """Even if its logits would take one."""
    logits, teacher = (x.requires_grad_() for x in outputs(2, 3, 4))
    penalties.distillation(logits, teacher).backward()
    assert teacher.grad is None
    assert logits.grad.abs().max() > 0


def drop(p, seed=0, now=None, start=None):
    """One draw for the small net."""
    own, begun, _ = where()
    generator = torch.Generator().manual_seed(seed)
    now, start = now or own, start or begun
    return penalties.drop_transfer(start, now, NAMES, p, generator, axes=AXES), now, start


@pytest.mark.parametrize("p", [0.2, 0.5, 0.7])
def test_drop_transfer_puts_whole_kernels_back_and_keeps_the_expectation(p):
    """A kernel and its bias are the start's, or (now - p start) / (1 - p): p of one and 1 - p of the other make now."""
    mixed, now, start = drop(p)
    seen = []
    for layer in ("stem", "down", "up"):
        axis = AXES[f"{layer}.weight"]
        for k in range(start[f"{layer}.bias"].numel()):
            back = torch.equal(mixed[f"{layer}.bias"][k], start[f"{layer}.bias"][k])
            seen.append(back)
            for name, at in ((f"{layer}.weight", axis), (f"{layer}.bias", 0)):
                got, old, own = (x[name].select(at, k) for x in (mixed, start, now))
                kept = (own - p * old) / (1 - p)
                torch.testing.assert_close(got, old if back else kept, rtol=1e-12, atol=1e-14)
                torch.testing.assert_close(p * old + (1 - p) * kept, own, rtol=1e-12, atol=1e-14)
    assert {True, False} == set(seen)


def test_the_share_of_kernels_put_back_is_p():
    """Of 20000 draws of a bias's kernels, 0.3 within five standard errors."""
    start, now = {"w": torch.zeros(20000)}, {"w": torch.ones(20000)}
    got = penalties.drop_transfer(start, now, ["w"], 0.3, torch.Generator().manual_seed(0))["w"]
    assert (got == 0).double().mean().item() == pytest.approx(0.3, abs=5 * math.sqrt(0.21 / 20000))
    assert got.unique().tolist() == pytest.approx([0, 1 / 0.7])


def test_drop_transfer_lets_the_gradient_through_where_it_keeps():
    """1 / (1 - p) there, nothing where the start stands."""
    mixed, now, start = drop(0.5)
    sum(value.sum() for value in mixed.values()).backward()
    for name in NAMES:
        expected = torch.where(mixed[name] == start[name], 0.0, 2.0)
        torch.testing.assert_close(now[name].grad, expected.to(torch.float64))


def test_drop_transfer_at_its_limits():
    """P = 0 is the parameters in training, and parameters that never moved stay where they are, bit for bit."""
    mixed, now, _ = drop(0.0)
    assert all(torch.equal(mixed[name], now[name]) for name in NAMES)
    _, _, start = drop(0.0)
    mixed, _, _ = drop(0.7, now=start)
    assert all(torch.equal(mixed[name], start[name]) for name in NAMES)


def test_drop_transfer_is_a_function_of_the_generator():
    """The same seed gives the same, another one does not."""
    first, again, other = drop(0.5, 1)[0], drop(0.5, 1)[0], drop(0.5, 2)[0]
    assert all(torch.equal(first[name], again[name]) for name in NAMES)
    assert any(not torch.equal(first[name], other[name]) for name in NAMES)


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda n, s, F: penalties.l2(n, s, -1.0), ConfigError, "strength expected a number of at least 0, got -1.0"),
        (
            lambda n, s, F: penalties.proximal(n, s, math.nan),
            ConfigError,
            "mu expected a number of at least 0",
        ),
        (lambda n, s, F: penalties.ewc(n, s, [], 1.0), ConfigError, "needs the Fisher of a predecessor"),
        (lambda n, s, F: penalties.ewc(n, s, [{}], 1.0), NetError, "expected a Fisher of 'stem.weight', got none"),
        (lambda n, s, F: penalties.l2({}, s, 1.0), NetError, "the net has no parameter 'stem.weight'"),
        (lambda n, s, F: penalties.l2(n, {}, 1.0), NetError, "needs parameters to start from"),
        (
            lambda n, s, F: penalties.l2(n, {"up.bias": torch.ones(5)}, 1.0),
            NetError,
            r"'up.bias' expected shape \(4,\), got \(5,\)",
        ),
        (lambda n, s, F: drop(1.0), ConfigError, "p expected a number from 0 to below 1, got 1.0"),
        (
            lambda n, s, F: penalties.drop_transfer({}, n, NAMES, 0.5, torch.Generator()),
            NetError,
            "the start has no parameter 'stem.weight'",
        ),
        (
            lambda n, s, F: penalties.distillation(*outputs(2, 3, 4), 0.0),
            ConfigError,
            "temperature expected",
        ),
        (
            lambda n, s, F: penalties.distillation(torch.ones(2, 3, 4), torch.ones(2, 2, 4)),
            NetError,
            r"logits expected shape \(2, 3, 4\), got \(2, 2, 4\)",
        ),
    ],
)
def test_what_cannot_be_is_refused(call, error, sentence):
    """The sentence says what was expected."""
    with pytest.raises(error, match=sentence):
        call(*where())
