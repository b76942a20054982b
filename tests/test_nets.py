"""The nets: shapes, seeds, heads, and what a mergeable net must not have."""

import json
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedmerge import nets
from fedmerge.errors import ConfigError, NetError

SMALL = {
    "isensee2017": {"base_filters": 4, "depth": 3},
    "unet": {"base_filters": 4, "depth": 3},
    "segresnet": {"base_filters": 4, "depth": 3},
    "dynunet": {"base_filters": 4, "depth": 3},
}
MAPS = [pytest.param({"name": n, "dims": d, **s}, id=f"{n}-{d}d") for n, s in SMALL.items() for d in (2, 3)]
RESNET = {"name": "resnet", "dims": 2, "base_filters": 4, "depth": 3}
ALL = [*MAPS, pytest.param(RESNET, id="resnet-2d")]


def small(settings, seed=0, **channels):
    """A small net with two image channels and three logits."""
    return nets.build(settings, seed=seed, **{"in_channels": 2, "out_channels": 3, **channels})


def size(settings):
    """An image size whose sides differ and that every small net accepts."""
    return (8, 12, 16)[: settings["dims"]]


def fit(net, x, y):
    """Thirty steps; the first and the last cross-entropy."""
    optimiser = torch.optim.AdamW(net.parameters(), lr=5e-3)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(net(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


@pytest.mark.parametrize("settings", MAPS)
def test_logits_have_the_size_of_the_image(settings):
    """(B, C, *S) becomes (B, K, *S)."""
    net = small(settings)
    assert net(torch.zeros(2, 2, *size(settings))).shape == (2, 3, *size(settings))


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (1, 1)])
def test_a_classifier_answers_once_an_image(size):
    """Of any size."""
    assert small(RESNET)(torch.zeros(2, 2, *size)).shape == (2, 3)


def test_resnet_counts_its_parameters():
    """Worked by hand for one channel in, two classes, base 2, depth 2.

    Convs: stem 18, first block 36 + 36, down 72, second block 144 + 144, head 8 + 2; norms: first block 4 + 4, down 4,
    second block 8 + 8, last 8.
    """
    net = nets.build({"name": "resnet", "base_filters": 2, "depth": 2}, in_channels=1, out_channels=2)
    assert sum(p.numel() for p in net.parameters()) == 460 + 36


def test_resnet_tells_two_textures_apart():
    """Stripes along one side or the other, of equal brightness: thirty steps at least halve the cross-entropy."""
    net = small(RESNET, in_channels=1, out_channels=2)
    stripes = (torch.arange(12) % 4 < 2).float().expand(12, 12)
    x = torch.stack([stripes, stripes.T] * 4)[:, None]
    x = x + 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1] * 4)
    first, last = fit(net, x, y)
    assert last < first / 2


@pytest.mark.parametrize("settings", ALL)
def test_weights_are_a_function_of_the_seed_alone(settings):
    """One seed gives one net whatever the global generator holds, which is left as it was."""
    torch.manual_seed(1)
    first = small(settings).state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again, other = small(settings).state_dict(), small(settings, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("settings", ALL)
def test_weights_without_a_seed_differ(settings):
    """Two nets built without a seed are two nets."""
    one, two = small(settings, seed=None), small(settings, seed=None)
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize("settings", ALL)
def test_heads_are_what_the_number_of_labels_shapes(settings):
    """Between three and five logits only the heads change their shape, and the last layer is one of them."""
    three, five = small(settings), small(settings, out_channels=5)
    shapes = {name: p.shape for name, p in five.named_parameters()}
    changed = [name for name, p in three.named_parameters() if p.shape != shapes[name]]
    heads = nets.heads(settings, in_channels=2, out_channels=3)
    assert list(heads) == changed
    assert any(dict(three.named_parameters())[name].shape[0] == 3 for name in heads)


@pytest.mark.parametrize("settings", ALL)
def test_nothing_but_parameters_and_affine_norms_of_one_image(settings):
    """No buffer stays behind at a site, norms have weight and bias, no activation works in place."""
    net = small(settings)
    assert not list(net.buffers())
    norms = [m for m in net.modules() if "Norm" in type(m).__name__]
    assert norms
    assert all(isinstance(m, nn.modules.instancenorm._InstanceNorm | nn.GroupNorm) and m.affine for m in norms)
    assert not any(getattr(m, "inplace", False) for m in net.modules())


@pytest.mark.parametrize("settings", ALL)
def test_every_parameter_gets_a_gradient(settings):
    """A parameter that the loss does not reach has no business in a contribution."""
    net = small(settings).eval()
    net(torch.randn(1, 2, *size(settings), generator=torch.Generator().manual_seed(0))).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize("settings", MAPS)
def test_fits_a_toy_volume(settings):
    """Thirty steps on one bright box at least halve the cross-entropy."""
    net = small(settings, in_channels=1, out_channels=2)
    x = torch.randn(2, 1, *size(settings), generator=torch.Generator().manual_seed(0)) * 0.1
    x[..., 2:6, 3:9] += 2
    first, last = fit(net, x, (x[:, 0] > 1).long())
    assert last < first / 2


@pytest.mark.parametrize("settings", ALL)
def test_canonical_settings_survive_json_and_build_the_same_net(settings):
    """What a contribution says about its net is enough to build it."""
    told = json.loads(json.dumps(nets.canonical(settings, in_channels=2, out_channels=3)))
    assert nets.canonical(told, in_channels=2, out_channels=3) == told
    same = nets.build(told, in_channels=2, out_channels=3, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), small(settings).parameters(), strict=True))


def test_canonical_settings_name_every_default():
    """The paper's net: 16 filters, five levels, dropout 0.3."""
    assert nets.canonical({"name": "isensee2017"}, in_channels=4, out_channels=4) == {
        "name": "isensee2017",
        "in_channels": 4,
        "out_channels": 4,
        "dims": 3,
        "base_filters": 16,
        "depth": 5,
        "dropout": 0.3,
    }


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"name": "vnet"}, "name expected one of isensee2017, unet, segresnet, dynunet, monai, resnet, got 'vnet'"),
        ({}, "name expected one of"),
        ({"name": "isensee2017", "filters": 8}, "unknown setting 'filters'"),
        ({"name": "isensee2017", "depth": 6}, "depth expected 2 to 5, got 6"),
        ({"name": "isensee2017", "dims": 4}, "dims expected 2 or 3, got 4"),
        ({"name": "isensee2017", "base_filters": 0}, "base_filters expected at least 1, got 0"),
        ({"name": "isensee2017", "dropout": 1.0}, r"dropout expected in \[0, 1\), got 1.0"),
        ({"name": "isensee2017", "depth": "3"}, "depth expected int, got '3'"),
        ({"name": "isensee2017", "in_channels": 3}, "in_channels expected 1, got 3"),
        ({"name": "unet", "depth": 2}, "depth expected 3 to 6, got 2"),
        ({"name": "dynunet", "residual": 1}, "residual expected bool, got 1"),
        ({"name": "resnet", "dims": 3}, "dims expected 2, got 3"),
        ({"name": "resnet", "depth": 1}, "depth expected 2 to 6, got 1"),
    ],
)
def test_an_impossible_setting_is_named(settings, says):
    """The sentence has the key, what was expected and what came."""
    with pytest.raises(ConfigError, match=says):
        nets.build(settings, in_channels=1, out_channels=2)


@pytest.mark.parametrize(("depth", "heads"), [(2, 1), (3, 2), (4, 3), (5, 3)])
@pytest.mark.parametrize("dims", [2, 3])
def test_isensee_has_up_to_three_segmentation_layers(dims, depth, heads):
    """One a decoder level, three in the paper's net; each has a weight and a bias."""
    settings = {"name": "isensee2017", "dims": dims, "depth": depth, "base_filters": 2}
    assert len(nets.heads(settings, in_channels=1, out_channels=2)) == 2 * heads
    net = nets.build(settings, in_channels=1, out_channels=2, seed=0)
    side = 2 ** (depth - 1) * 2
    assert net(torch.zeros(1, 1, *[side] * dims)).shape == (1, 2, *[side] * dims)


def test_isensee_counts_its_parameters():
    """Worked by hand for one channel in, two logits, base 2, depth 2.

    Convs: stem 54, contexts 216 + 864, down 216, up 216, localisation 432, head 8 + 2; norms: context 8 + 16,
    down 4, up 8, localisation 8, head 8.
    """
    net = nets.build({"name": "isensee2017", "base_filters": 2, "depth": 2}, in_channels=1, out_channels=2)
    assert sum(p.numel() for p in net.parameters()) == 2008 + 52


def test_a_bias_in_the_body_of_isensee_could_not_change_the_output():
    """A constant added to the output of any conv of the body leaves the logits as they were."""
    net = nets.build({"name": "isensee2017", "base_filters": 4, "depth": 3}, in_channels=1, out_channels=2, seed=0)
    net = net.double().eval()
    x = torch.randn(1, 1, 8, 8, 12, generator=torch.Generator().manual_seed(0)).double()
    plain = net(x)
    body = [m for name, m in net.named_modules() if isinstance(m, nn.Conv3d) and not name.startswith("heads")]
    assert all(conv.bias is None for conv in body)
    for conv in body:
        hook = conv.register_forward_hook(lambda _module, _inputs, out: out + 3.0)
        torch.testing.assert_close(net(x), plain, rtol=0, atol=1e-4)
        hook.remove()


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ((8, 10, 8), "image size 8x10x8: every side must be divisible by 4"),
        ((4, 4, 4), "image size 4x4x4 leaves one voxel at the coarsest level"),
    ],
)
def test_isensee_names_a_size_that_it_cannot_halve(image, says):
    """Depth 3 halves twice."""
    net = small({"name": "isensee2017", **SMALL["isensee2017"]})
    with pytest.raises(NetError, match=says):
        net(torch.zeros(1, 2, *image))


@pytest.mark.parametrize(
    ("patch", "says"),
    [
        ((8, 8), "patch expected 3 sides, got 8x8"),
        ((8, 10, 8), "every side of the patch must be divisible by 4, got 8x10x8"),
        ((4, 4, 4), "patch 4x4x4 leaves one voxel"),
    ],
)
@pytest.mark.parametrize("name", SMALL)
def test_an_impossible_patch_is_named_before_training(name, patch, says):
    """Three levels halve twice, in every net."""
    with pytest.raises(ConfigError, match=says):
        nets.check_patch({"name": name, **SMALL[name]}, patch)
    nets.check_patch({"name": name, **SMALL[name]}, (4, 8, 4))
    assert small({"name": name, **SMALL[name]})(torch.zeros(1, 2, 4, 8, 4)).shape == (1, 3, 4, 8, 4)


def test_dropout_is_off_in_evaluation_and_on_in_training():
    """The same image twice: equal in evaluation, different in training."""
    net = small({"name": "isensee2017", **SMALL["isensee2017"]})
    forward = partial(net, torch.ones(1, 2, 8, 8, 12) * torch.arange(12.0))
    assert not torch.equal(forward(), forward())
    net.eval()
    assert torch.equal(forward(), forward())
