"""The diagonal Fisher against loops written independently of it, and its normalisation."""

import copy
import math

import pytest
import small_nets
import torch
from torch import nn

from fedmerge import fisher, likelihood, nets
from fedmerge.errors import DataError, NetError, Refused

NAMES = (*small_nets.FUSABLE, *small_nets.NORMS)


def by_hand(net, cases, names, labels, seed):
    """Case by case: label, log-probability voxel by voxel, backward, square, add up; at the end divide."""
    net = net.double().eval()
    own = dict(net.named_parameters())
    g = torch.Generator().manual_seed(seed)
    total = {name: torch.zeros_like(own[name]) for name in names}
    for image, label in cases:
        logits = net(image.double().unsqueeze(0))[0]  # (K, *S)
        p = torch.softmax(logits, 0)
        if labels == "sampled":
            u = torch.rand(label.numel(), generator=g).reshape(p.shape[1:])
            label = torch.full(p.shape[1:], len(p) - 1)
            reached = torch.zeros_like(u, dtype=torch.double)
            drawn = torch.zeros_like(u, dtype=torch.bool)
            for k in range(len(p)):
                reached = reached + p[k].detach()
                label[~drawn & (u < reached)] = k
                drawn |= u < reached
        label = label.reshape(p.shape[1:])
        log_likelihood = sum(torch.log(p[k])[label == k].sum() for k in range(len(p)))
        net.zero_grad()
        log_likelihood.backward()
        for name in names:
            total[name] += own[name].grad ** 2
    return {name: value / len(cases) for name, value in total.items()}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("labels", ["sampled", "observed"])
@pytest.mark.parametrize("method", ["loop", "vmap"])
def test_the_fisher_is_the_mean_over_cases_of_the_squared_score(dims, labels, method):
    """Both methods, both kinds of labels: what the loop in this file gives."""
    cases = small_nets.cases(dims, count=11)  # more than one batch of the vmap
    expected = by_hand(small_nets.make(dims), cases, NAMES, labels, seed=3)
    g = torch.Generator().manual_seed(3)
    got = fisher.diagonal(small_nets.make(dims), cases, NAMES, labels=labels, generator=g, method=method)
    assert tuple(got) == NAMES
    largest = max(value.max().float() for value in expected.values())
    for name in NAMES:
        assert got[name].dtype == torch.float32
        scale = expected[name].max().float().clamp_min(1e-9 * largest)  # stem.bias, before a norm, is all noise
        torch.testing.assert_close(got[name] / scale, expected[name].float() / scale, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("labels", ["sampled", "observed"])
@pytest.mark.parametrize("method", ["loop", "vmap"])
def test_the_fisher_of_a_classifier_has_one_label_an_image(labels, method):
    """The same loop over a net that answers (B, K): a case is an image, and its label one number."""
    settings = {"name": "resnet", "base_filters": 2, "depth": 2}
    net = nets.build(settings, in_channels=1, out_channels=3, seed=0)
    names = [name for name, _ in net.named_parameters()]
    g = torch.Generator().manual_seed(7)
    cases = [(torch.randn(1, 6, 6, generator=g), torch.tensor(k % 3)) for k in range(9)]
    expected = by_hand(copy.deepcopy(net), cases, names, labels, seed=3)
    got = fisher.diagonal(net, cases, names, labels=labels, generator=torch.Generator().manual_seed(3), method=method)
    for name in names:
        scale = expected[name].max().float()
        torch.testing.assert_close(got[name] / scale, expected[name].float() / scale, rtol=1e-3, atol=1e-5)


def test_cases_of_different_sizes_are_taken_by_both_methods():
    """Vmap groups neighbours of one shape."""
    cases = small_nets.cases(count=3, size=6) + small_nets.cases(count=2, size=8)
    first, second = (
        fisher.diagonal(small_nets.make(), cases, NAMES, generator=torch.Generator().manual_seed(0), method=method)
        for method in ("loop", "vmap")
    )
    for name in NAMES:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-5)


def test_one_voxel_worked_by_hand():
    """Two classes, logits (w x, 0): d log p(0) / dw = x (1 - p), so F = x^2 (1 - p)^2 at label 0."""
    net = nn.Conv2d(1, 2, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([0.7, 0.0]).reshape(2, 1, 1, 1))
    x = 1.5
    p = 1 / (1 + math.exp(-0.7 * x))
    got = fisher.diagonal(net, [(torch.full((1, 1, 1), x), torch.zeros(1, 1, 1))], ["weight"], labels="observed")
    assert got["weight"].flatten().tolist() == pytest.approx([x**2 * (1 - p) ** 2] * 2, rel=1e-6)


def test_sampled_labels_give_the_true_fisher_on_average():
    """Two classes, one voxel: E F = x^2 p (1 - p); 4000 draws come within 5 %."""
    net = nn.Conv2d(1, 2, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([0.7, 0.0]).reshape(2, 1, 1, 1))
    case = (torch.full((1, 1, 1), 1.5), torch.zeros(1, 1))
    p = 1 / (1 + math.exp(-0.7 * 1.5))
    g = torch.Generator().manual_seed(0)
    got = fisher.diagonal(net, [case] * 4000, ["weight"], generator=g, method="vmap")
    assert got["weight"][0].item() == pytest.approx(1.5**2 * p * (1 - p), rel=0.05)


def test_sampling_inverts_the_distribution():
    """Probabilities .2 .3 .5: the label steps up where the random number passes .2 and .5."""
    logits = torch.tensor([0.2, 0.3, 0.5]).log().reshape(1, 3, 1).expand(1, 3, 6)
    uniform = torch.tensor([[0.0, 0.19, 0.21, 0.49, 0.51, 0.999]])
    assert likelihood.sample(logits, uniform).tolist() == [[0, 0, 1, 1, 2, 2]]


def test_the_log_likelihood_sums_over_voxels_and_not_over_cases():
    """Shapes (B, *S) and (B, 1, *S) of the labels mean the same."""
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    expected = torch.stack([sum(logits[b, :, i, j].log_softmax(0)[labels[b, i, j]]
                                for i in range(4) for j in range(5)) for b in range(2)])  # fmt: skip
    torch.testing.assert_close(likelihood.log_likelihood(logits, labels), expected)
    torch.testing.assert_close(likelihood.log_likelihood(logits, labels.unsqueeze(1)), expected)


def test_dropout_is_off_meanwhile_and_everything_is_put_back():
    """Two calls agree; training flags, requires_grad and gradients are as before."""
    net = small_nets.make().train()
    net.up.eval()
    net.stem.weight.requires_grad_(False)
    first, second = (fisher.diagonal(net, small_nets.cases(), NAMES, labels="observed") for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in NAMES)
    assert first["stem.weight"].abs().sum() > 0
    assert net.training
    assert net.drop.training
    assert not net.up.training
    assert not net.stem.weight.requires_grad
    assert net.head.weight.requires_grad
    assert all(p.grad is None for p in net.parameters())


def test_cases_are_read_once_and_progress_is_told():
    """A generator will do."""
    seen = []
    got = fisher.diagonal(small_nets.make(), iter(small_nets.cases(count=3)), ["stem.bias"], progress=seen.append)
    assert seen == [1, 2, 3]
    assert list(got) == ["stem.bias"]


def test_another_likelihood_can_be_passed():
    """Half the log-likelihood: a quarter of the Fisher."""
    whole = fisher.diagonal(small_nets.make(), small_nets.cases(), NAMES, labels="observed")
    half = fisher.diagonal(
        small_nets.make(), small_nets.cases(), NAMES, labels="observed",
        likelihood=likelihood.SOFTMAX._replace(log=lambda z, y: 0.5 * likelihood.log_likelihood(z, y)),
    )  # fmt: skip
    for name in NAMES:
        torch.testing.assert_close(half[name], whole[name] / 4)


def test_a_parameter_that_the_net_does_not_use_has_no_fisher():
    """Zero, and no error."""
    net = small_nets.make()
    net.spare = nn.Parameter(torch.ones(2))
    for method in ("loop", "vmap"):
        got = fisher.diagonal(net, small_nets.cases(), ["spare", "stem.bias"], method=method)
        assert got["spare"].tolist() == [0.0, 0.0]


def broken(index, voxel=None, label=None):
    """Cases of which one has a voxel or a label put in."""
    cases = small_nets.cases()
    if voxel is not None:
        cases[index][0].flatten()[3] = voxel
    if label is not None:
        cases[index][1].flatten()[3] = label
    return cases


@pytest.mark.parametrize(
    ("cases", "names", "error", "sentence"),
    [
        ([], NAMES, DataError, "at least one case"),
        (broken(1, voxel=math.nan), NAMES, DataError, "case 2 .* got NaN or infinity"),
        (broken(4, voxel=math.inf), NAMES, DataError, "case 5 .* got NaN or infinity"),
        (broken(0, label=3), NAMES, DataError, "case 1 expected labels from 0 to 2, got 0 to 3"),
        (small_nets.cases(), ["trunk.weight"], NetError, r"no parameter 'trunk\.weight'"),
        (small_nets.cases(), [], NetError, "no parameter at all"),
    ],
)
def test_bad_cases_and_names_are_refused(cases, names, error, sentence):
    """The sentence names the case or the parameter."""
    with pytest.raises(error, match=sentence):
        fisher.diagonal(small_nets.make(), cases, names, labels="observed")


def test_a_net_that_overflows_is_refused():
    """Weights that are not finite make a Fisher that is not, and the tensor is named."""
    net = small_nets.make()
    with torch.no_grad():
        net.down.weight[0, 0, 0, 0] = math.nan
    with pytest.raises(NetError, match=r"the Fisher of 'stem.weight' is not finite"):
        fisher.diagonal(net, small_nets.cases(), NAMES, labels="observed")


def test_normalised_tensors_have_mean_one_before_they_are_clipped():
    """[1, 3, 0, 0] has mean 1: it stays, but for the floor."""
    got = fisher.normalise({"a": torch.tensor([1.0, 3.0, 0.0, 0.0]) * 5e-9})
    torch.testing.assert_close(got["a"], torch.tensor([1.0, 3.0, 1e-3, 1e-3]))


def test_the_cap_holds_a_spike():
    """One value in 100 thousand carries all: 1e5 times the mean, held at 1e4."""
    spike = torch.zeros(100_000)
    spike[17] = 3.0
    got = fisher.normalise({"a": spike})["a"]
    assert got[17] == 1e4
    assert got[0] == torch.tensor(1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_scale_of_a_sites_fisher_means_nothing(dtype):
    """Powers of two bit for bit, others to rounding; from 1e-30 to 1e30."""
    raw = {name: f.to(dtype) for name, f in small_nets.fishers(small_nets.weights()).items()}
    once = fisher.normalise(raw)
    for factor in (2.0**-60, 2.0**40, 1e-30, 3.7, 1e30):
        again = fisher.normalise({name: f * factor for name, f in raw.items()})
        exact = math.log2(factor).is_integer()
        for name in raw:
            limit = 0 if exact else 4 * torch.finfo(dtype).eps
            torch.testing.assert_close(again[name], once[name], rtol=limit, atol=0)


def test_a_tensor_of_zeros_counts_as_flat_with_a_warning():
    """Ones, and a sentence that names site and tensor."""
    with pytest.warns(UserWarning, match=r"north: fisher\['a'\] is zero everywhere"):
        got = fisher.normalise({"a": torch.zeros(3), "b": torch.ones(2)}, who="north")
    assert got["a"].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        ({"a": torch.zeros(3), "b": torch.zeros(2)}, "north: the whole Fisher is zero"),
        ({"a": torch.tensor([1.0, -1e-9])}, r"north: fisher\['a'\] expected no negative value, got -1e-09"),
        ({"a": torch.tensor([1.0, math.nan])}, r"north: fisher\['a'\] expected finite values"),
        ({"a": torch.tensor([1.0, math.inf])}, r"north: fisher\['a'\] expected finite values"),
    ],
)
def test_an_impossible_fisher_is_refused(raw, sentence):
    """The sentence names site and tensor."""
    with pytest.raises(Refused, match=sentence):
        fisher.normalise(raw, who="north")
