"""The two rules: worked numbers, and the laws of exactness."""

import itertools

import pytest
import torch

from fedmerge.fusion import rules


def draw(T, dtype=torch.float32, size=20_000, seed=0):
    """Models, Fishers over seven decades (as clipped ones are), ratios."""
    g = torch.Generator().manual_seed(seed)
    theta = torch.randn(T, size, generator=g, dtype=torch.float64).to(dtype)
    precision = (10 ** (torch.rand(T, size, generator=g, dtype=torch.float64) * 7 - 3)).to(dtype)
    ratios = torch.rand(T, generator=g, dtype=torch.float64).to(dtype)
    return theta, precision, ratios / ratios.sum()


def ulps(got, expected, operands):
    """The largest difference in float32 steps of the largest operand, element by element."""
    largest = operands.abs().amax(0)
    step = torch.nextafter(largest, torch.tensor(torch.inf)) - largest
    return ((got.double() - expected.double()).abs() / step.double()).max().item()


def test_mode_worked_by_hand():
    """Models 1 and 4, Fishers 2 and 1, ratios 1/4 and 3/4: (0.5 * 1 + 0.75 * 4) / (0.5 + 0.75) = 2.8."""
    theta, precision = torch.tensor([[1.0], [4.0]]), torch.tensor([[2.0], [1.0]])
    assert rules.mode(theta, precision, torch.tensor([0.25, 0.75])).item() == pytest.approx(2.8)
    assert rules.mean(theta, None, torch.tensor([0.25, 0.75])).item() == pytest.approx(3.25)


@pytest.mark.parametrize("T", [1, 2, 3, 5])
@pytest.mark.parametrize("rule", ["mean", "mode"])
def test_the_rules_are_their_formulas(T, rule):
    """(sum a F theta) / sum (a F), written plainly in float64."""
    theta, precision, ratios = draw(T, torch.float64)
    F = precision if rule == "mode" else torch.ones_like(precision)
    plain = sum(ratios[t] * F[t] * theta[t] for t in range(T)) / sum(ratios[t] * F[t] for t in range(T))
    torch.testing.assert_close(rules.RULES[rule](theta, precision, ratios), plain, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rule", ["mean", "mode"])
@pytest.mark.parametrize("only", [0, 1, 2])
def test_a_single_ratio_returns_that_model_bit_for_bit(rule, only):
    """Signed zeros and subnormals included."""
    theta, precision, _ = draw(3)
    theta[:, :3] = torch.tensor([-0.0, 1e-42, 0.0])
    ratios = torch.zeros(3)
    ratios[only] = 1.0
    got = rules.RULES[rule](theta, precision, ratios)
    assert torch.equal(got.view(torch.int32), theta[only].view(torch.int32))


def test_a_single_ratio_counts_kernel_by_kernel():
    """Ratios (T, K, 1): the first kernel has one model only, the second has both."""
    theta = torch.randn(2, 2, 5)
    ratios = torch.tensor([[0.0, 0.5], [1.0, 0.5]]).unsqueeze(-1)
    got = rules.mean(theta, None, ratios)
    assert torch.equal(got[0], theta[1, 0])
    torch.testing.assert_close(got[1], theta[:, 1].mean(0))


@pytest.mark.parametrize("T", [2, 3, 5])
@pytest.mark.parametrize("rule", ["mean", "mode"])
def test_equal_models_return_themselves(T, rule):
    """Bit for bit, whatever the Fishers and ratios."""
    theta, precision, ratios = draw(T)
    same = theta[:1].expand(T, -1)
    assert torch.equal(rules.RULES[rule](same, precision, ratios), theta[0])


@pytest.mark.parametrize("T", [2, 3, 5])
@pytest.mark.parametrize("rule", ["mean", "mode"])
def test_the_order_of_the_models_matters_to_no_more_than_rounding(T, rule):
    """4 float32 ulp of the largest operand; 1e-14 of it in float64."""
    for dtype in (torch.float32, torch.float64):
        theta, precision, ratios = draw(T, dtype)
        expected = rules.RULES[rule](theta, precision, ratios)
        for order in itertools.islice(itertools.permutations(range(T)), 24):
            got = rules.RULES[rule](theta[[*order]], precision[[*order]], ratios[[*order]])
            if dtype == torch.float32:
                assert ulps(got, expected, theta) <= 4
            else:
                assert ((got - expected).abs() / theta.abs().amax(0)).max() <= 1e-14


def test_where_nobody_cares_mode_is_mean():
    """All Fishers at the floor: the plain ratio-weighted mean."""
    theta, _, ratios = draw(3)
    floor = torch.full_like(theta, 1e-3)
    torch.testing.assert_close(rules.mode(theta, floor, ratios), rules.mean(theta, None, ratios))


def test_the_result_lies_between_the_models():
    """A weighted mean leaves the range of its operands by rounding at most."""
    theta, precision, ratios = draw(5)
    got = rules.mode(theta, precision, ratios)
    slack = 1e-6 * theta.abs().amax(0)
    assert ((got <= theta.amax(0) + slack) & (got >= theta.amin(0) - slack)).all()


def test_mode_without_a_fisher_is_refused():
    """There is no silent fall-back to the mean."""
    with pytest.raises(ValueError, match="needs a precision"):
        rules.mode(torch.ones(2, 3), None, torch.ones(2))
