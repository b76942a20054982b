"""Averages of weights: worked numbers, the weights of each step, and the ends of an interpolation."""

import pytest
import small_nets
import torch

from fedmerge.averaging import Average, exponential, interpolate
from fedmerge.errors import ConfigError, NetError


def numbers(*values):
    """Sets of weights of one float64 number each."""
    return [{"w": torch.tensor([x], dtype=torch.float64)} for x in values]


def averaged(sets, decay):
    """All of them, in their order."""
    average = None
    for weights in sets:
        average = exponential(average, weights, decay)
    return average


def test_three_steps_worked_by_hand():
    """Decay 1/2 weighs 1, 2, 6 as 1 : 2 : 4, so (1 + 4 + 24) / 7."""
    got = averaged(numbers(1.0, 2.0, 6.0), 0.5)
    assert got.weights["w"].item() == pytest.approx(29 / 7)
    assert got.count == 3


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("count", [1, 2, 10, 500])
def test_it_is_the_mean_with_geometric_weights(decay, count):
    """sum_j decay^(k-j) theta_j / sum_j decay^(k-j): Adam's bias correction, with no share for the initial weights."""
    values = torch.randn(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.tensor([decay ** (count - 1 - j) for j in range(count)], dtype=torch.float64)
    expected = (weights * values).sum() / weights.sum()
    assert averaged(numbers(*values.tolist()), decay).weights["w"].item() == pytest.approx(expected.item(), abs=1e-12)


def test_it_is_adams_first_moment():
    """Zero at first, moved by 1 - decay, and divided by 1 - decay^k."""
    moment = 0.0
    for k, value in enumerate([3.0, -1.0, 0.5, 7.0], start=1):
        moment = 0.9 * moment + 0.1 * value
        got = averaged(numbers(*[3.0, -1.0, 0.5, 7.0][:k]), 0.9)
        assert got.weights["w"].item() == pytest.approx(moment / (1 - 0.9**k), abs=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_the_average_of_weights_that_stand_still_is_those_weights_bit_for_bit(decay):
    """A whole net in float32, two hundred times."""
    weights = small_nets.weights()
    got = averaged([weights] * 200, decay).weights
    assert all(torch.equal(got[name], value) for name, value in weights.items())


def test_decay_zero_is_the_last_weights():
    """Bit for bit, from numbers that differ by thirty decades."""
    sets = [{"w": torch.tensor([1e30, 1e-30])}, {"w": torch.tensor([1e-30, 1e30])}]
    assert torch.equal(averaged(sets, 0.0).weights["w"], sets[-1]["w"])


def test_the_later_weights_count_for_more():
    """The order matters: the mirrored sequence gives the mirrored average."""
    up, down = averaged(numbers(0.0, 0.5, 1.0), 0.8), averaged(numbers(1.0, 0.5, 0.0), 0.8)
    assert up.weights["w"].item() > 0.5 > down.weights["w"].item()
    assert up.weights["w"].item() + down.weights["w"].item() == pytest.approx(1.0)


def test_an_average_stored_and_gone_on_with_is_the_one_that_was_not():
    """Weights and count are all there is."""
    sets = [small_nets.weights(seed=k) for k in range(6)]
    whole, half = averaged(sets, 0.7), averaged(sets[:3], 0.7)
    again = Average({name: value.clone() for name, value in half.weights.items()}, half.count)
    for weights in sets[3:]:
        again = exponential(again, weights, 0.7)
    assert again.count == whole.count
    assert all(torch.equal(again.weights[name], value) for name, value in whole.weights.items())


def test_the_net_is_left_alone():
    """Averaging a net's own parameters neither changes nor holds them."""
    net = small_nets.make()
    own = dict(net.named_parameters())
    average = exponential(None, own, 0.9)
    with torch.no_grad():
        for p in own.values():
            p.add_(1.0)
    before = {name: p.detach().clone() for name, p in own.items()}
    average = exponential(average, own, 0.9)
    for name, p in own.items():
        assert torch.equal(p, before[name])
        assert not torch.equal(average.weights[name], before[name])
        assert not average.weights[name].requires_grad


def test_interpolation_worked_by_hand():
    """A quarter of the way from 2 to 6 is 3."""
    start, end = numbers(2.0, 6.0)
    assert interpolate(start, end, 0.25)["w"].item() == 3.0


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_ends_of_an_interpolation_are_the_models_bit_for_bit(share):
    """Signed zeros, subnormals and wide ranges included; as new tensors."""
    start = {**small_nets.weights(seed=0), "wild": torch.tensor([-0.0, 1e-42, 1e30])}
    end = {**small_nets.weights(seed=1), "wild": torch.tensor([0.0, 1e30, -1e-30])}
    got, wanted = interpolate(start, end, share), end if share else start
    for name, value in wanted.items():
        assert torch.equal(got[name].view(torch.int32), value.view(torch.int32))
        assert got[name].data_ptr() != value.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.83, 1.0])
def test_equal_models_interpolate_to_themselves(share, dtype):
    """Bit for bit."""
    start = small_nets.weights(dtype=dtype)
    got = interpolate(start, {name: value.clone() for name, value in start.items()}, share)
    assert all(torch.equal(got[name], value) for name, value in start.items())


@pytest.mark.parametrize("share", [0.0, 0.125, 0.3, 0.5, 0.9])
def test_swapping_the_ends_swaps_the_shares(share):
    """Share from here is 1 - share from there, to a float32 rounding of the larger one."""
    start, end = small_nets.weights(seed=0), small_nets.weights(seed=1)
    there, back = interpolate(start, end, share), interpolate(end, start, 1 - share)
    for name, value in there.items():
        torch.testing.assert_close(value, back[name], rtol=2e-7, atol=1e-8)


def test_what_cannot_be_averaged_is_refused():
    """Shares and decays outside their range, other names, other shapes."""
    (one,) = numbers(1.0)
    for call, sentence in [
        (lambda: interpolate(one, one, 1.5), "share expected a number from 0 to 1, got 1.5"),
        (lambda: interpolate(one, one, float("nan")), "share expected a number from 0 to 1, got nan"),
        (lambda: exponential(None, one, 1.0), "decay expected a number from 0 to below 1, got 1.0"),
    ]:
        with pytest.raises(ConfigError, match=sentence):
            call()
    average = exponential(None, one, 0.5)
    for other, sentence in [
        ({}, "'w' is in one of the two sets"),
        ({"w": torch.ones(2)}, r"'w' expected shape \(1,\), got \(2,\)"),
    ]:
        with pytest.raises(NetError, match=sentence):
            exponential(average, other, 0.5)
        with pytest.raises(NetError, match=sentence):
            interpolate(one, other, 0.5)
