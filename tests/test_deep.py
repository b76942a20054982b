"""Deep supervision: a loss at each level of the net, by the parameters that are there anyway."""

import pytest
import torch
import torch.nn.functional as F

from fedmerge import losses, nets, partition, training
from fedmerge.errors import ConfigError
from fedmerge.records import Settings
from fedmerge.training import Run

NET = {"name": "isensee2017", "base_filters": 2, "depth": 4, "dropout": 0.0}


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


def test_settings_that_say_nothing_new_have_the_names_that_they_had():
    """A checkpoint of an earlier version is still that of the same settings."""
    assert not {"augment", "deep"} & Settings(steps=1, lr=1).facts.keys()
    told = Settings(steps=1, lr=1, augment=("flip",), deep=True).facts
    assert (told["augment"], told["deep"]) == (("flip",), True)
