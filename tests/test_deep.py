"""Deep supervision: a loss at each level of the net, by the parameters that are there anyway."""

import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets.dynunet import DynUNet

from fedmerge import losses, nets, partition, training
from fedmerge.errors import ConfigError
from fedmerge.records import Settings
from fedmerge.training import Run

NET = {"name": "isensee2017", "base_filters": 2, "depth": 4, "dropout": 0.0}
CHANNELS = {"in_channels": 1, "out_channels": 3}
DYNUNET = {"name": "dynunet", "base_filters": 2, "depth": 4, "coarse_heads": 2}
BY_CLASS = {
    "name": "monai",
    "network": "DynUNet",
    "arguments": {
        "kernel_size": [3, 3, 3, 3], "strides": [1, 2, 2, 2], "upsample_kernel_size": [2, 2, 2],
        "filters": [2, 4, 8, 16], "deep_supervision": True, "deep_supr_num": 2,
    },
}  # fmt: skip


def built(seed=0, **settings):
    """A small net of one channel and three labels."""
    return nets.build({**NET, **settings}, in_channels=1, out_channels=3, seed=seed)


def batch(step=0):
    """Two images and their label maps."""
    g = torch.Generator().manual_seed(step)
    return torch.randn(2, 1, 16, 16, 16, generator=g), torch.randint(0, 3, (2, 1, 16, 16, 16), generator=g)


@pytest.mark.parametrize(("depth", "levels"), [(2, 1), (3, 2), (4, 3), (5, 3)])
def test_levels_are_halved_and_the_finest_is_the_nets_answer(depth, levels):
    """As many as the net has segmentation layers, each half as large as the one before."""
    net, (x, _) = built(depth=depth), batch()
    x = F.pad(x, [0, 16]) if depth == 5 else x
    found = net.levels(x)
    assert torch.equal(found[0], net(x))
    want = [tuple(side // 2**k for side in x.shape[2:]) for k in range(levels)]
    assert [tuple(one.shape[2:]) for one in found] == want


def test_no_parameter_comes_in_and_the_partition_stays():
    """The losses at coarser levels go through the segmentation layers of the paper: heads are what they were."""
    net, channels = built(), {"in_channels": 1, "out_channels": 3}
    heads = nets.heads(NET, **channels)
    assert {name.split(".")[1] for name in heads} == {"0", "1", "2"}
    parts = partition.of(net, heads)
    for p in net.parameters():
        p.grad = None
    levels = net.levels(batch()[0])
    losses.at_levels(losses.dice_ce(), levels[1:], batch()[1][..., ::2, ::2, ::2]).backward()
    touched = {name for name, p in net.named_parameters() if p.grad is not None}
    assert {name for name in touched if name in parts.heads} == {n for n in heads if not n.startswith("heads.0")}


def test_the_loss_is_the_weighted_mean_over_levels_worked_by_hand():
    """Weights 1, 1/2 and 1/4 over their sum; labels of the coarser levels are every second and fourth voxel."""
    net, (x, y) = built(), batch()
    loss, (a, b, c) = losses.dice_ce(), net.levels(x)
    want = (loss(a, y) + loss(b, y[..., ::2, ::2, ::2]) / 2 + loss(c, y[..., ::4, ::4, ::4]) / 4) / 1.75
    torch.testing.assert_close(losses.at_levels(loss, [a, b, c], y), want)
    assert torch.equal(losses.at_levels(loss, a, y), loss(a, y))


def test_a_deep_training_is_another_one_and_resumes_like_any(one_thread, tmp_path):
    """Stopped and restored it ends bit for bit where it would have; without `deep` the numbers are others."""
    deep, plain = (Settings(steps=6, lr=1e-2, deep=one) for one in (True, False))
    nets_, runs = [built() for _ in range(3)], []
    for net, settings in zip(nets_, (deep, deep, plain)):
        runs.append(Run(net, batch, settings, seed=0, device="cpu"))
    runs[0].advance(6)
    runs[1].advance(3)
    runs[1].save(tmp_path / "half")
    again = built(seed=5)
    other = Run(again, batch, deep, seed=0, device="cpu")
    other.restore(tmp_path / "half")
    other.advance(6)
    runs[2].advance(6)
    same = dict(nets_[0].named_parameters())
    assert all(torch.equal(p, same[name]) for name, p in again.named_parameters())
    assert any(not torch.equal(p, same[name]) for name, p in nets_[2].named_parameters())


def test_a_net_of_one_level_is_refused():
    """Before a step is made."""
    net = nets.build({"name": "segresnet", "depth": 3}, in_channels=1, out_channels=3, seed=0)
    with pytest.raises(ConfigError, match="deep supervision expected a net with logits of several levels, got SegResN"):
        training.Run(net, batch, Settings(steps=1, lr=1, deep=True), seed=0)


def monais_own(net, settings):
    """MONAI's class with the weights of a net of ours."""
    told = {key: value for key, value in nets.definition(nets.canonical(settings, **CHANNELS)).items() if key[0] != "_"}
    own = DynUNet(**told)
    weights = dict(net.named_parameters())
    with torch.no_grad():
        for name, p in own.named_parameters():
            p.copy_(weights.pop(name))
    assert not weights
    return own.train()


@pytest.mark.parametrize(
    "settings", [DYNUNET, {**DYNUNET, "residual": True}, BY_CLASS], ids=["net", "residual", "class"]
)
def test_the_levels_of_dynunet_are_what_monais_own_heads_say(settings, one_thread):
    """Logits at their own size, and the gradient of each parameter of a loss of all levels."""
    net, (x, _) = nets.build(settings, **CHANNELS, seed=0), batch()
    own, levels = monais_own(net, settings), net.levels(x)
    assert [one.shape[2] for one in levels] == [16, 8, 4]
    theirs = torch.unbind(own(x), dim=1)
    for ours, enlarged in zip(levels, theirs, strict=True):
        torch.testing.assert_close(F.interpolate(ours, x.shape[2:]), enlarged, rtol=0, atol=0)
    assert torch.equal(net.train()(x), theirs[0])
    sum(F.interpolate(one, x.shape[2:]).square().mean() for one in levels).backward()
    sum(one.square().mean() for one in theirs).backward()
    for name, p in own.named_parameters():
        torch.testing.assert_close(dict(net.named_parameters())[name].grad, p.grad, rtol=1e-5, atol=1e-7)


def test_coarse_heads_are_heads_and_the_rest_of_the_net_begins_the_same():
    """They stay out of the fusion; a net without them has the description and the weights that it had before."""
    plain = {key: value for key, value in DYNUNET.items() if key != "coarse_heads"}
    heads, without = (set(nets.heads(settings, **CHANNELS)) for settings in (DYNUNET, plain))
    assert {name.partition(".")[0] for name in heads - without} == {"deep_supervision_heads"}
    net, bare = (nets.build(settings, **CHANNELS, seed=0) for settings in (DYNUNET, plain))
    parts = partition.of(net, heads)
    assert parts.fusable == partition.of(bare, without).fusable
    same = dict(net.named_parameters())
    assert all(torch.equal(p, same[name]) for name, p in bare.named_parameters())
    assert heads - without == same.keys() - dict(bare.named_parameters())
    assert "coarse_heads" not in nets.canonical(plain, **CHANNELS)
    with pytest.raises(ConfigError, match="coarse_heads of depth 4 expected 0 to 2, got 3"):
        nets.build({**DYNUNET, "coarse_heads": 3}, **CHANNELS)


def test_a_deep_dynunet_trains_every_head_and_a_plain_training_leaves_the_coarse_ones():
    """What the loss does not reach stays bit for bit, also under weight decay."""
    for deep in (True, False):
        net = nets.build(DYNUNET, **CHANNELS, seed=0)
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        Run(net, batch, Settings(steps=2, lr=1e-2, deep=deep), seed=0, device="cpu").advance(2)
        changed = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
        coarse = {name for name in before if name.startswith("deep_supervision_heads") and name.endswith("weight")}
        assert coarse <= changed if deep else not coarse & changed
        assert "output_block.conv.conv.weight" in changed


def test_settings_that_say_nothing_new_have_the_names_that_they_had():
    """A checkpoint of an earlier version is still that of the same settings."""
    assert not {"augment", "deep"} & Settings(steps=1, lr=1).facts.keys()
    told = Settings(steps=1, lr=1, augment=("flip",), deep=True).facts
    assert (told["augment"], told["deep"]) == (("flip",), True)
