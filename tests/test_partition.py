"""Which names are fusable, read off the modules."""

import pytest
import small_nets
import torch
from torch import nn

from fedmerge import params, partition
from fedmerge.errors import DataError, NetError

HEADS = small_nets.HEADS


def test_every_name_is_in_exactly_one_set_in_the_nets_order():
    """P and S together are the net's parameters, and S is what P leaves."""
    parts = partition.of(small_nets.make(), HEADS)
    assert parts.fusable == small_nets.FUSABLE
    assert parts.norms == small_nets.NORMS
    assert parts.heads == HEADS
    assert parts.other == ()
    assert parts.specific == (*small_nets.NORMS, *HEADS)
    assert sorted(parts.fusable + parts.specific) == sorted(parts.names)


@pytest.mark.parametrize(
    "norm",
    [nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.InstanceNorm3d(4, affine=True), nn.LayerNorm(4),
     nn.BatchNorm2d(4), nn.BatchNorm3d(4), nn.RMSNorm(4)],
    ids=lambda norm: type(norm).__name__,
)  # fmt: skip
def test_norms_are_known_by_their_type_whatever_their_name(norm):
    """A normalisation layer called `filter` is still one."""
    net = nn.Sequential()
    net.add_module("conv", nn.Conv2d(4, 4, 1))
    net.add_module("filter", norm)
    parts = partition.of(net, [])
    assert parts.fusable == ("conv.weight", "conv.bias")
    assert set(parts.norms) == {f"filter.{name}" for name, _ in norm.named_parameters()}


def test_a_stem_with_other_input_channels_is_task_specific():
    """What another task has in another shape, or not at all, is not fused."""
    net = small_nets.make(channels=1)
    other = params.shapes(small_nets.make(channels=2))
    assert partition.of(net, HEADS, others=[params.shapes(net), other]).other == ("stem.weight",)
    del other["down.bias"]
    assert partition.of(net, HEADS, others=[other]).other == ("stem.weight", "down.bias")


def test_other_tasks_heads_do_not_make_the_own_head_something_else():
    """A head of another width is a head."""
    net = small_nets.make(classes=3)
    parts = partition.of(net, HEADS, others=[params.shapes(small_nets.make(classes=5))])
    assert parts.heads == HEADS
    assert parts.other == ()


def test_the_user_moves_names_and_layers():
    """A module's name moves all of its parameters."""
    parts = partition.of(small_nets.make(), ["head"], specific=["down", "up.bias"], fusable=["norm"])
    assert parts.fusable == ("stem.weight", "stem.bias", "norm.weight", "norm.bias", "up.weight")
    assert parts.other == ("down.weight", "down.bias", "up.bias")


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"specific": ["trunk"]}, "no parameter or layer 'trunk'"),
        ({"fusable": ["st"]}, "no parameter or layer 'st'"),
        ({"fusable": ["head.bias"]}, r"'head\.bias' belongs to a head"),
        ({"fusable": ["stem"], "specific": ["stem.bias"]}, r"'stem\.bias' is listed both"),
        ({"specific": ["stem", "down", "up"]}, "none of the net's 10 parameters"),
    ],
)
def test_impossible_wishes_are_refused(asked, sentence):
    """The sentence names the parameter."""
    with pytest.raises(NetError, match=sentence):
        partition.of(small_nets.make(), HEADS, **asked)


def test_an_unlike_layer_cannot_be_made_fusable():
    """The sentence gives both shapes."""
    other = params.shapes(small_nets.make(channels=2))
    with pytest.raises(NetError, match=r"'stem.weight' cannot be fused: shape \(4, 1, 3, 3\) here, \(4, 2, 3, 3\)"):
        partition.of(small_nets.make(), HEADS, others=[other], fusable=["stem"])


def test_the_meta_device_is_enough():
    """No memory is needed to sort names."""
    with torch.device("meta"):
        net = small_nets.Small(3)
    assert partition.of(net, HEADS) == partition.of(small_nets.make(3), HEADS)


def test_a_shared_tensor_has_the_name_of_its_first_place():
    """As in `named_parameters()`."""
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    assert partition.of(net, []).names == ("0.weight", "0.bias", "1.bias")


def test_the_kernel_axis_counts_output_channels():
    """0 for convs and biases, 1 for the weights of a transposed conv."""
    net = small_nets.make(3)
    axes = partition.kernel_axes(net)
    assert {name for name, axis in axes.items() if axis == 1} == {"up.weight"}
    assert net.up.weight.shape[axes["up.weight"]] == net.up.bias.shape[0]


def test_grouped_transposed_convs_count_within_a_group_or_by_group():
    """Depth-wise: one channel a group, axis 0; else index j of all groups, axis 1."""
    assert partition.kernel_axes(nn.ConvTranspose2d(4, 4, 2, groups=4)) == {"weight": 0, "bias": 0}
    assert partition.kernel_axes(nn.ConvTranspose2d(4, 8, 2, groups=2)) == {"weight": 1, "bias": 0}


def test_weight_and_bias_belong_to_one_layer():
    """A parameter without a module is its own layer."""
    assert partition.layers(["a.conv.weight", "a.conv.bias", "scale"]) == {
        "a.conv.weight": "a.conv",
        "a.conv.bias": "a.conv",
        "scale": "scale",
    }


def batch_normed():
    """A net with one batch norm."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Conv2d(2, 2, 1))
    net[1].momentum = 0.3
    return net


def test_a_batch_norm_is_refused_with_its_layer_unless_it_is_re_estimated():
    """Running statistics do not travel."""
    with pytest.raises(NetError, match=r"layer '1' \(BatchNorm2d\) keeps the floating-point buffer 'running_mean'"):
        partition.check_buffers(batch_normed())
    partition.check_buffers(batch_normed(), reestimate=True)


def test_other_float_buffers_are_refused_even_then():
    """Instance norms with running statistics and home-made buffers have no re-estimation."""
    tracked = nn.Sequential(nn.InstanceNorm2d(2, track_running_stats=True))
    with pytest.raises(NetError, match=r"layer '0' .*running_mean"):
        partition.check_buffers(tracked, reestimate=True)
    home_made = nn.Module()
    home_made.register_buffer("scale", torch.ones(1))
    with pytest.raises(NetError, match="'scale'"):
        partition.check_buffers(home_made, reestimate=True)


def test_whole_numbers_constants_and_batch_statistics_pass():
    """Integer buffers, non-persistent buffers, and batch norms that track nothing."""
    net = nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), nn.Conv2d(2, 2, 1))
    net.register_buffer("count", torch.zeros(1, dtype=torch.long))
    net.register_buffer("grid", torch.ones(3), persistent=False)
    partition.check_buffers(net)


def test_re_estimated_statistics_are_plain_averages_over_the_batches():
    """Running mean and variance = mean over batches of each batch's own, whatever they were before."""
    net = batch_normed().train()
    images = [torch.randn(3, 1, 6, 6) + shift for shift in (0.0, 2.0, 5.0)]
    net[1].running_mean.fill_(77.0)
    partition.reestimate(net, iter(images))
    with torch.no_grad():
        maps = [net[0](image) for image in images]
    torch.testing.assert_close(net[1].running_mean, torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0))
    torch.testing.assert_close(net[1].running_var, torch.stack([m.var((0, 2, 3)) for m in maps]).mean(0))
    assert net.training
    assert net[2].training
    assert net[1].momentum == 0.3


def test_re_estimation_needs_images():
    """No image, no statistics."""
    with pytest.raises(DataError, match="no images"):
        partition.reestimate(batch_normed(), [])
