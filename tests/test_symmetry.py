"""The permutation groups of a net: derived from it, and leaving its function as it is."""

import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from permuted_nets import NETS, Net, classifier
from torch import nn

from fedmerge import nets
from fedmerge.errors import NetError
from fedmerge.fusion import symmetry
from fedmerge.fusion.symmetry import Segment


def image(settings, channels=1):
    """The smallest image that a net takes comfortably."""
    return (channels, *[2 ** settings["depth"]] * settings["dims"])


@pytest.mark.parametrize("settings", NETS)
def test_a_permutation_of_hidden_units_changes_nothing(settings):
    """In 2D and 3D, at every depth: random weights, permuted at random, give the same logits to 1e-9."""
    net = nets.on_meta(settings, in_channels=1, out_channels=3)
    symmetry.verify(net, symmetry.of(net, image(settings)), image(settings))


@pytest.mark.parametrize("settings", NETS)
def test_every_axis_but_image_and_logits_is_permuted(settings):
    """No hidden unit is forgotten: what no group covers has the length of the image's channels or of the logits."""
    net = nets.on_meta(settings, in_channels=1, out_channels=3)
    groups = symmetry.of(net, image(settings))
    outside = set()
    for name, p in net.named_parameters():
        covered = {a.axis: sum(s.length * s.width for s in a.segments) for a in groups.axes.get(name, ())}
        for axis in range(min(p.dim(), 2)):
            if covered.get(axis, 0) < p.shape[axis]:
                outside.add(p.shape[axis])
                assert axis not in covered
    assert outside == {1, 3}


def test_the_groups_of_the_papers_net_are_those_that_one_writes_by_hand():
    """Isensee's net of depth 2: sums tie the stem to the context's second conv, the skip is a second segment."""
    settings = {"name": "isensee2017", "base_filters": 4, "depth": 2}
    groups = symmetry.of(nets.on_meta(settings, in_channels=1, out_channels=3), (1, 8, 8, 8))
    assert groups.sizes == {
        "stem": 4, "context.0.first.conv": 4, "down.0.conv": 8, "context.1.first.conv": 8, "up.0.conv": 4,
        "localise.0.conv": 8,
    }  # fmt: skip
    told = {
        f"{name} {axis.axis}": [(s.offset, s.length, s.group) for s in axis.segments]
        for name, axes in groups.axes.items()
        if name.endswith("conv.weight")
        for axis in axes
    }
    assert told == {
        "context.0.first.conv.weight 1": [(0, 4, "stem")],
        "context.0.first.conv.weight 0": [(0, 4, "context.0.first.conv")],
        "context.0.second.conv.weight 1": [(0, 4, "context.0.first.conv")],
        "context.0.second.conv.weight 0": [(0, 4, "stem")],
        "down.0.conv.weight 1": [(0, 4, "stem")],
        "down.0.conv.weight 0": [(0, 8, "down.0.conv")],
        "context.1.first.conv.weight 1": [(0, 8, "down.0.conv")],
        "context.1.first.conv.weight 0": [(0, 8, "context.1.first.conv")],
        "context.1.second.conv.weight 1": [(0, 8, "context.1.first.conv")],
        "context.1.second.conv.weight 0": [(0, 8, "down.0.conv")],
        "up.0.conv.weight 1": [(0, 8, "down.0.conv")],
        "up.0.conv.weight 0": [(0, 4, "up.0.conv")],
        "localise.0.conv.weight 1": [(0, 4, "up.0.conv"), (4, 4, "stem")],
        "localise.0.conv.weight 0": [(0, 8, "localise.0.conv")],
        "heads.0.conv.weight 1": [(0, 8, "localise.0.conv")],
    }


CONVS = {"a": nn.Conv2d(2, 6, 3, padding=1), "b": nn.Conv2d(6, 6, 3, padding=1), "c": nn.Conv2d(6, 3, 1)}
WIDE = {**CONVS, "c": nn.Conv2d(12, 3, 1)}
# what the net does between its layers -> layers, forward, the sizes of the groups
OPERATIONS = {
    "chain": (CONVS, lambda n, x: n.c(F.gelu(n.b(F.relu(n.a(x))))), [6, 6]),
    "sum": (CONVS, lambda n, x: n.c((y := torch.tanh(n.a(x))) + n.b(y)), [6]),
    "in place": (CONVS, lambda n, x: n.c(n.b(y := n.a(x)).add_(y).relu_()), [6]),
    "product": (CONVS, lambda n, x: n.c((y := n.a(x)) * n.b(y).sigmoid()), [6]),
    "numbers": (CONVS, lambda n, x: n.c(1 - 2 * n.b(n.a(x) / 3) ** 2), [6, 6]),
    "concatenation": (WIDE, lambda n, x: n.c(torch.cat([y := n.a(x), n.b(y)], dim=1)), [6, 6]),
    "image joins": ({**CONVS, "c": nn.Conv2d(8, 3, 1)}, lambda n, x: n.c(torch.cat([n.a(x), x], 1)), [6]),
    "image is added": ({**CONVS, "a": nn.Conv2d(2, 2, 1), "c": nn.Conv2d(2, 3, 1)}, lambda n, x: n.c(n.a(x) + x), []),
    "halves swapped": (CONVS, lambda n, x: n.c(torch.cat(n.b(n.a(x)).chunk(2, 1)[::-1], 1)), [3, 3, 6]),
    "halves added": (
        {**CONVS, "c": nn.Conv2d(3, 3, 1)},
        lambda n, x: n.c(torch.add(*n.b(n.a(x)).split(3, dim=1))),
        [3, 6],
    ),
    "a slice": ({**CONVS, "b": nn.Conv2d(4, 6, 1)}, lambda n, x: n.c(n.b(n.a(x)[:, 1:5, 1:, :])), [4, 6]),
    "sums across blocks": (
        {**WIDE, "d": nn.Conv2d(2, 4, 1), "e": nn.Conv2d(2, 8, 1)},
        lambda n, x: n.c(torch.cat([n.a(x), n.b(n.a(x))], 1) + torch.cat([n.d(x), n.e(x)], 1)),
        [2, 4, 6],
    ),
    "shared layer": (CONVS, lambda n, x: n.c(n.b(n.b(n.a(x)))), [6]),
    "depthwise": ({**CONVS, "b": nn.Conv2d(6, 6, 3, groups=6)}, lambda n, x: n.c(n.b(n.a(x))), [6]),
    "grouped": ({**CONVS, "b": nn.Conv2d(6, 6, 3, groups=2)}, lambda n, x: n.c(n.b(n.a(x))), [3, 3, 3]),
    "transposed": ({**CONVS, "b": nn.ConvTranspose2d(6, 6, 2, stride=2)}, lambda n, x: n.c(n.b(n.a(x))), [6, 6]),
    "transposed, grouped": (
        {**CONVS, "b": nn.ConvTranspose2d(6, 6, 2, groups=2)},
        lambda n, x: n.c(n.b(n.a(x))),
        [3, 3, 3],
    ),
    "transposed, depthwise": (
        {**CONVS, "b": nn.ConvTranspose2d(6, 6, 2, groups=6)},
        lambda n, x: n.c(n.b(n.a(x))),
        [6],
    ),
    "batch norm": ({**CONVS, "n": nn.BatchNorm2d(6)}, lambda n, x: n.c(n.b(n.n(n.a(x)))), [6, 6]),
    "group norm, one": ({**CONVS, "n": nn.GroupNorm(1, 6)}, lambda n, x: n.c(n.b(n.n(n.a(x)))), [6, 6]),
    "group norm, two": ({**CONVS, "n": nn.GroupNorm(2, 6)}, lambda n, x: n.c(n.b(n.n(n.a(x)))), [3, 3, 6]),
    "group norm, each": ({**CONVS, "n": nn.GroupNorm(6, 6)}, lambda n, x: n.c(n.b(n.n(n.a(x)))), [6, 6]),
    "slopes": ({**CONVS, "n": nn.PReLU(6)}, lambda n, x: n.c(n.b(n.n(n.a(x)))), [6, 6]),
    "pooling": (
        {**CONVS, "n": nn.MaxPool2d(2), "m": nn.AdaptiveAvgPool2d(3)},
        lambda n, x: n.c(F.interpolate(F.avg_pool2d(F.pad(n.m(n.n(n.a(x))), (1, 1)), 1), scale_factor=2)),
        [6],
    ),
    "attention to channels": (
        {**CONVS, "d": nn.Linear(6, 4), "e": nn.Linear(4, 6)},
        lambda n, x: n.c((y := n.a(x)) * n.e(F.silu(n.d(y.mean((2, 3))))).view(2, 6, 1, 1).softmax(1)),
        [4, 6],
    ),
    "attention to places": (CONVS, lambda n, x: n.c((y := n.a(x)) * y.mean(1, keepdim=True).sigmoid()), [6]),
    "flatten": ({**CONVS, "c": nn.Linear(6 * 64, 3)}, lambda n, x: n.c(n.a(x).flatten(1)), [6]),
    "flatten, then a norm": (
        {**CONVS, "n": nn.BatchNorm1d(6 * 64), "c": nn.Linear(6 * 64, 3)},
        lambda n, x: n.c(n.n(n.a(x).flatten(1))),
        [6],
    ),
    "flatten, then a sum": (
        {**CONVS, "d": nn.Linear(6 * 64, 6 * 64), "c": nn.Linear(6 * 64, 3)},
        lambda n, x: n.c((y := n.a(x).flatten(1)) + n.d(y)),
        [],
    ),
    "global pooling": ({**CONVS, "c": nn.Linear(6, 3)}, lambda n, x: n.c(n.b(n.a(x)).amax((2, 3))), [6, 6]),
    "constants": (CONVS, lambda n, x: n.c(n.a(x) + torch.arange(6, device=x.device).view(6, 1, 1)), []),
    "one constant": (CONVS, lambda n, x: n.c(n.a(x) * torch.full((1,), 2.0, device=x.device)), [6]),
    "what nothing reads": (CONVS, lambda n, x: (n.b(y := n.a(x)), n.c(y))[1], [6]),
    "an output in between": (CONVS, lambda n, x: (y := n.b(n.a(x)), n.c(y)), [6]),
    "two outputs": (CONVS, lambda n, x: {"hidden": n.b(y := n.a(x)), "logits": n.c(y)}, [6]),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_units_are_followed_through(name):
    """Each operation: as many groups as there are, and permuting them changes nothing."""
    layers, forward, sizes = OPERATIONS[name]
    net = Net(layers, forward)
    groups = symmetry.of(net, (2, 8, 8))
    assert sorted(groups.sizes.values()) == sizes
    symmetry.verify(net, groups, (2, 8, 8))


def test_a_linear_layer_on_a_flattened_image_takes_a_units_voxels_together():
    """Each unit of the conv is a run of 64 entries of the linear layer's input."""
    layers, forward, _ = OPERATIONS["flatten"]
    (axis,) = symmetry.of(Net(layers, forward), (2, 8, 8)).axes["c.weight"]
    assert axis.segments == (Segment(0, 6, "a", width=64),)


def test_a_parameter_of_the_nets_own_is_permuted_with_what_it_scales():
    """A scale for each channel, as some nets have on their residuals, follows the channels."""
    net = Net(CONVS, lambda n, x: n.c(n.a(x) * n.scale + n.shift))
    net.scale, net.shift = nn.Parameter(torch.ones(1, 6, 1, 1)), nn.Parameter(torch.ones(()))
    groups = symmetry.of(net, (2, 8, 8))
    assert [(a.axis, a.segments[0].group) for a in groups.axes["scale"]] == [(1, "a")]
    symmetry.verify(net, groups, (2, 8, 8))


def shuffled(n, x):
    """ShuffleNet's exchange of channels."""
    return n.c(n.a(x).view(2, 2, 3, 8, 8).transpose(1, 2).reshape(2, 6, 8, 8))


def written(n, x):
    """Writes into an activation."""
    y = n.a(x)
    y[:, 0] = 0
    return n.c(y)


REFUSED = {
    "view": (CONVS, shuffled, "the net itself"),
    "__setitem__": (CONVS, written, "the net itself"),
    "flip": (CONVS, lambda n, x: n.c(n.a(x).flip(1)), "the net itself"),
    "einsum": (CONVS, lambda n, x: torch.einsum("bchw,dchw->bd", n.a(x), n.a(x)), "the net itself"),
    "__getitem__": (CONVS, lambda n, x: n.c(n.a(x)[:, [1, 0, 2, 3, 4, 5]]), "the net itself"),
    "pad": (CONVS, lambda n, x: n.c(F.pad(n.a(x), (0, 0, 0, 0, 1, -1))), "the net itself"),
    "avg_pool2d": (CONVS, lambda n, x: F.avg_pool2d(n.a(x).flatten(2), 1), "the net itself"),
    "sum": (CONVS, lambda n, x: n.a(x).sum(1), "the net itself"),
    "mul": (CONVS, lambda n, x: F.conv2d(n.a(x), n.b.weight * 2), "the net itself"),
    "conv2d": (CONVS, lambda n, x: F.conv2d(n.a(x), torch.ones(3, 6, 1, 1, device=x.device)), "the net itself"),
    "pixel_shuffle": ({**CONVS, "up": nn.PixelShuffle(2)}, lambda n, x: n.up(n.b(n.a(x))[:, :4]), "layer 'up'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused_by_name(name):
    """The message names the operation and the layer."""
    layers, forward, where = REFUSED[name]
    with pytest.raises(NetError, match=rf"'{name}' in {where}"):
        symmetry.of(Net(layers, forward), (2, 8, 8))


@pytest.mark.parametrize("seed", range(30))
def test_random_nets(seed):
    """Convs, sums, concatenations and cuts in any order: what is derived leaves the function as it is."""
    dice = random.Random(seed)
    net = Net({}, None)
    widths, program = [2], []  # of the activations so far; how each is made of earlier ones
    for step in range(10):
        one, two = dice.randrange(len(widths)), dice.randrange(len(widths))
        kind = dice.choice(["conv", "conv", "grouped", "cat", "sum", "cut"])
        if kind in ("conv", "grouped"):
            groups = 2 if kind == "grouped" and widths[one] % 2 == 0 else 1
            setattr(net, f"layer{step}", nn.Conv2d(widths[one], wide := dice.choice([2, 4, 6]), 1, groups=groups))
        elif kind == "cat":
            wide = widths[one] + widths[two]
        elif kind == "sum":
            two = dice.choice([k for k, w in enumerate(widths) if w == widths[one]])
            wide = widths[one]
        else:
            two = dice.randrange(widths[one])  # where it begins
            wide = widths[one] - two
        program.append((kind, one, two))
        widths.append(wide)
    net.c = nn.Conv2d(sum(widths[-4:]), 3, 1)

    def forward(n, x):
        made = [x]
        for step, (kind, one, two) in enumerate(program):
            if kind in ("conv", "grouped"):
                made.append(torch.tanh(getattr(n, f"layer{step}")(made[one])))
            elif kind == "cat":
                made.append(torch.cat([made[one], made[two]], 1))
            elif kind == "sum":
                made.append(made[one] + made[two])
            else:
                made.append(made[one][:, two:])
        return n.c(torch.cat(made[-4:], 1))

    net.does = forward
    symmetry.verify(net, symmetry.of(net, (2, 3, 3)), (2, 3, 3))


def test_verify_finds_a_forgotten_axis_and_a_wrong_tie():
    """Groups that somebody wrote wrongly change the function, and are refused."""
    net = Net(*OPERATIONS["sum"][:2])
    groups = symmetry.of(net, (2, 8, 8))
    forgotten = {name: axes for name, axes in groups.axes.items() if name != "b.bias"}
    with pytest.raises(NetError, match="changed the net's function"):
        symmetry.verify(net, replace(groups, axes=forgotten), (2, 8, 8))
    out, inside = groups.axes["b.weight"]
    loose = replace(out, segments=(Segment(0, 6, "b"),))
    untied = replace(groups, sizes={"a": 6, "b": 6}, axes={**groups.axes, "b.weight": (loose, inside)})
    with pytest.raises(NetError, match="changed the net's function"):
        symmetry.verify(net, untied, (2, 8, 8))


@pytest.mark.parametrize("name", ["dynunet", "isensee2017"])
def test_the_net_is_left_as_it_was(name):
    """Its parameters are the same objects with the same numbers, its layers in the same mode (DynUNet holds
    modules at two places each).
    """
    net = nets.build({"name": name, "base_filters": 2, "depth": 3}, in_channels=1, out_channels=2, seed=0)
    net.train()
    before = {key: (id(p), p.detach().clone()) for key, p in net.named_parameters()}
    symmetry.verify(net, symmetry.of(net, (1, 8, 8, 16)), (1, 8, 8, 16))
    after = dict(net.named_parameters())
    assert all(id(after[key]) == number and torch.equal(after[key], value) for key, (number, value) in before.items())
    assert all(module.training for module in net.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_a_classifier_with_batch_norms_global_pooling_and_a_linear_layer():
    """Running statistics follow their channels; the linear layer's input does too."""
    net = classifier(3)
    groups = symmetry.of(net, (1, 16, 16))
    symmetry.verify(net, groups, (1, 16, 16))
    norms = [name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert {f"{name}.{kind}" for name in norms for kind in ("weight", "running_mean", "running_var")} <= set(
        groups.axes
    )
    assert [axis.axis for axis in groups.axes["8.weight"]] == [1]


def test_permute_refuses_what_is_no_permutation_of_the_net():
    """Unknown groups, repeated units and other widths are named."""
    net = classifier(3)
    groups = symmetry.of(net, (1, 16, 16))
    weights = dict(net.named_parameters())
    with pytest.raises(NetError, match="no group of units 'x'"):
        symmetry.permute(weights, groups, {"x": torch.arange(3)})
    with pytest.raises(NetError, match="'0' expected a permutation of 8 units"):
        symmetry.permute(weights, groups, {"0": torch.zeros(8, dtype=torch.int64)})
    with pytest.raises(NetError, match=r"'0.weight' expected 8 entries along axis 0, got 9"):
        symmetry.permute({"0.weight": torch.zeros(9, 1, 3, 3)}, groups, {})
