"""Regions as channels: label maps there and back, the loss, the likelihood and its Fisher, heads."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from fedmerge import answers, fisher, heads, likelihood, losses, penalties, regions
from fedmerge.errors import ConfigError, DataError, NetError
from sites import cases, patches, preprocess
from sites.labels import TABLES
from sites.preprocess import Grid

TUMOUR = regions.of(tuple(TABLES["brats"].labels), TABLES["brats"].regions)
CHAIN = {"whole": ("a", "b"), "core": ("a",)}


def known():
    """The tables of the repository that have regions, and a wider family: two chains side by side."""
    found = [(tuple(one.labels), one.regions) for one in TABLES.values() if one.regions]
    two = {"all": ("a", "b", "c"), "b": ("b",), "c": ("c",), "other": ("d", "e"), "e": ("e",)}
    return [*found, (tuple("abcde"), two), (("a",), {"all of it": ("a",)})]


@pytest.mark.parametrize(("labels", "table"), known())
def test_a_label_map_comes_back_from_its_regions(labels, table):
    """Label by label, and the background."""
    one = regions.of(labels, table)
    values = torch.arange(len(labels) + 1)
    shares = one.read(values[None, None])[0]
    for channel, name in enumerate(one.names):
        assert shares[channel].tolist() == [value > 0 and labels[value - 1] in table[name] for value in values]
    assert torch.equal(one.label_map(shares.float()), values.to(torch.uint8))


@pytest.mark.parametrize(("labels", "table"), known())
def test_the_channels_do_not_depend_on_the_order_of_the_table(labels, table):
    """A table is an object of JSON, which has no order; written in its one form it is what it was."""
    first, *others = (
        regions.of(labels, dict(order)) for order in itertools.islice(itertools.permutations(table.items()), 24)
    )
    assert all(one == first for one in others)
    assert regions.of(labels, regions.table_of(labels, table)) == first


def test_where_wider_regions_are_on_too_scores_of_the_map_are_those_of_the_channels():
    """Of the eight answers at a voxel four are nested; in the others too the narrowest that is on says the label."""
    answered = torch.tensor(list(itertools.product([0.1, 0.9], repeat=3))).T  # (R, 8)
    back = TUMOUR.read(TUMOUR.label_map(answered)[None, None])[0]
    core, whole, enhancing = on = answered > 0.5
    nested = (core | ~enhancing) & (whole | ~core)
    assert nested.sum() == 4
    assert torch.equal(back[:, nested], on[:, nested])
    told = TUMOUR.label_map(answered).tolist()
    assert told == [3 if e else 1 if c else 2 if w else 0 for c, w, e in on.T.tolist()]


def test_of_regions_that_share_nothing_the_narrower_wins_and_of_equals_the_later_label():
    """The cavity beside the tumour: narrower than the whole tumour and its core, as narrow as the enhancing part."""
    post = regions.of(tuple(TABLES["brats-post"].labels), TABLES["brats-post"].regions)
    assert [post.names[k] for k in post.order] == ["WT", "TC", "ET", "RC"]
    assert post.label_map(torch.ones(4, 1)).item() == 4


@pytest.mark.parametrize(
    ("labels", "table", "words"),
    [
        ("abc", {"x": "ab", "y": "bc"}, "the regions 'x' and 'y' share b, and neither holds the other"),
        ("ab", {"x": "ab"}, "the region 'x' expected one label that no narrower region holds, got 'a' and 'b'"),
        ("ab", {"x": "ab", "y": "a", "z": "b"}, "the region 'x' expected one label .* got none"),
        ("ab", {"x": "a", "y": "a", "z": "b"}, "the region 'y' expected one label .* got none"),
        ("abc", CHAIN, "the label 'c' is in no region"),
        ("a", {"x": "ab"}, "the region 'x' expected labels of a, got 'b'"),
    ],
)
def test_regions_that_no_label_map_can_be_made_of_are_refused(labels, table, words):
    """By name, and saying what stands in the way."""
    with pytest.raises(ConfigError, match=words):
        regions.of(tuple(labels), table)


def labelled(*size, seed=0, values=4):
    """(B, 1, *S) of labels."""
    return torch.randint(values, (size[0], 1, *size[1:]), generator=torch.Generator().manual_seed(seed))


def test_certainty_costs_nothing_and_its_opposite_much():
    """Logits of 100 on the right side: loss 0; on the wrong one: Dice 1 and a cross-entropy of 100."""
    labels = labelled(2, 4, 4, 4)
    right = (TUMOUR.read(labels).float() - 0.5) * 200
    loss = losses.dice_bce(TUMOUR.read)
    assert loss(right, labels).item() == pytest.approx(0, abs=1e-6)
    assert loss(-right, labels).item() == pytest.approx(101, abs=1e-4)


def test_the_loss_is_one_minus_dice_plus_cross_entropy_by_hand():
    """Image by image and region by region in numpy."""
    labels, logits = (
        labelled(2, 3, 4, 5),
        torch.randn(2, 3, 3, 4, 5, generator=torch.Generator().manual_seed(1)).double(),
    )
    p, truth = 1 / (1 + np.exp(-logits.numpy())), TUMOUR.read(labels).numpy().astype(float)
    dice = [1 - (2 * (a * b).sum() + 1e-5) / (a.sum() + b.sum() + 1e-5) for x, y in zip(p, truth) for a, b in zip(x, y)]
    entropy = -(truth * np.log(p) + (1 - truth) * np.log(1 - p)).mean()
    assert losses.dice_bce(TUMOUR.read)(logits, labels).item() == pytest.approx(np.mean(dice) + entropy, rel=1e-9)


def test_one_region_is_a_softmax_of_two_with_the_difference_of_their_logits():
    """Loss, likelihood and distillation; with a logit of log 3 a voxel is on at 3/4, which costs log 4/3."""
    one = regions.of(("a",), {"a": ("a",)})
    labels, z = labelled(2, 3, 4, 5, values=2), torch.randn(2, 2, 3, 4, 5, generator=torch.Generator().manual_seed(2))
    z = z.double()
    single = z[:, 1:] - z[:, :1]
    torch.testing.assert_close(losses.dice_bce(one.read)(single, labels), losses.dice_ce()(z, labels))
    torch.testing.assert_close(regions.log_likelihood(single, one.read(labels)), likelihood.log_likelihood(z, labels))
    other = z.flip(2)
    torch.testing.assert_close(
        penalties.distillation(single, other[:, 1:] - other[:, :1], 2.0, regions=True),
        penalties.distillation(z, other, 2.0),
    )
    told = regions.log_likelihood(torch.full((1, 1, 1), math.log(3)), torch.ones(1, 1, 1))
    assert told.item() == pytest.approx(-math.log(4 / 3))


def test_distillation_is_least_where_the_model_says_what_its_predecessor_says():
    """The slope there is zero, and any other answer costs more."""
    teacher = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    same = teacher.clone().requires_grad_()
    least = penalties.distillation(same, teacher, regions=True)
    least.backward()
    torch.testing.assert_close(same.grad, torch.zeros_like(same), rtol=0, atol=1e-7)
    assert penalties.distillation(teacher + 0.3, teacher, regions=True) > least


def net(voxelwise=False):
    """A small net of three regions; voxelwise: no voxel sees its neighbours."""
    torch.manual_seed(0)
    first = nn.Conv3d(1, 4, 1) if voxelwise else nn.Conv3d(1, 4, 3, padding=1)
    return nn.Sequential(first, nn.LeakyReLU(0.1), nn.Conv3d(4, 3, 1))


def patients(count, *size):
    """Cases: image (1, *S), label (1, *S)."""
    g = torch.Generator().manual_seed(4)
    return [(torch.randn(1, *size, generator=g), labelled(1, *size, seed=k)[0]) for k in range(count)]


def by_hand(net, cases, labels, seed):
    """Case by case, region by region, voxel by voxel: log p or log (1 - p), one backward pass, square, mean."""
    net = net.double()
    g, own = torch.Generator().manual_seed(seed), dict(net.named_parameters())
    total = {name: torch.zeros_like(value) for name, value in own.items()}
    members = {"TC": (1, 3), "WT": (1, 2, 3), "ET": (3,)}
    for image, label in cases:
        p = torch.sigmoid(net(image.double()[None])[0])  # (R, *S)
        drawn = torch.rand(p.numel(), generator=g).reshape(p.shape)
        score = 0.0
        for channel, name in enumerate(members):
            for at in itertools.product(*map(range, p.shape[1:])):
                one = p[channel][at]
                on = drawn[channel][at] < one if labels == "sampled" else int(label[0][at]) in members[name]
                score = score + torch.log(one if on else 1 - one)
        net.zero_grad()
        score.backward()
        for name in own:
            total[name] += own[name].grad ** 2
    return {name: value / len(cases) for name, value in total.items()}


@pytest.mark.parametrize("labels", ["sampled", "observed"])
@pytest.mark.parametrize("method", ["loop", "vmap"])
def test_the_fisher_is_that_of_independent_yes_and_no_answers(labels, method):
    """Both methods, both kinds of labels: what the loop in this file gives."""
    some = patients(3, 3, 4, 2)
    g = torch.Generator().manual_seed(7)
    made = fisher.diagonal(
        net(), some, dict(net().named_parameters()), labels=labels, generator=g, method=method,
        likelihood=TUMOUR.likelihood,
    )  # fmt: skip
    for name, want in by_hand(net(), some, labels, 7).items():
        torch.testing.assert_close(made[name], want.float(), rtol=1e-4, atol=1e-6)


def test_a_case_in_pieces_has_the_fisher_of_the_whole():
    """Tiles overlap, and each voxel counts once: of a net that sees single voxels the sum is the whole case's."""
    image, label = patients(1, 7, 5, 6)[0]
    grid = Grid((7, 5, 6), (1.0,) * 3, (7, 5, 6), (1.0,) * 3)
    case = cases.Case("x", image, label.to(torch.uint8), label[0].numpy().astype(np.uint8), grid, None, patch=(4, 4, 4))
    pieces = patches.pieces(case)
    assert len(pieces) == 8
    one = net(voxelwise=True)
    names = dict(one.named_parameters())
    tiled, plain = (
        fisher.diagonal(one, [each], names, labels="observed", likelihood=TUMOUR.likelihood)
        for each in (pieces, (image, label))
    )
    for name in names:
        torch.testing.assert_close(tiled[name], plain[name], rtol=1e-4, atol=1e-6)


def test_the_fisher_knows_no_label_beyond_the_table():
    """A label map of another table is refused, not read as some region."""
    image, label = patients(1, 2, 2, 2)[0]
    with pytest.raises(DataError, match="expected labels from 0 to 3, got 4 to 4"):
        fisher.diagonal(
            net(), [(image, torch.full_like(label, 4))], ["2.bias"], labels="observed", likelihood=TUMOUR.likelihood
        )


def test_probabilities_are_interpolated_and_a_tie_is_the_regions():
    """Brought from a coarse patch to a volume of half its voxels' size, a region ends where its probability is 1/2."""
    grid = Grid((4, 2, 2), (1.0,) * 3, (2, 1, 1), (2.0,) * 3)
    shares = torch.zeros(3, 2, 1, 1)
    shares[1, :, 0, 0] = torch.tensor([1.0, 0.0])  # the whole tumour
    assert preprocess.restore(shares, grid, TUMOUR)[:, 0, 0].tolist() == [2, 2, 0, 0]
    shares[1, 1] = 1 / 3  # at the third voxel 1/4 + 3/4 of a third: a half
    assert preprocess.restore(shares, grid, TUMOUR)[:, 0, 0].tolist() == [2, 2, 2, 0]


TASK = answers.of({"name": "isensee2017"}, ("a", "b"), CHAIN)
ROWS = {"head.weight": 0, "head.bias": 0}


def head(labels, seed):
    """A head with a row a region."""
    g = torch.Generator().manual_seed(seed)
    shape = (len(labels), 5, 1, 1, 1)
    return heads.Head(
        labels, {"head.weight": torch.randn(shape, generator=g), "head.bias": torch.randn(len(labels), generator=g)}
    )


def test_rows_of_regions_stand_beside_each_other_as_they_are():
    """Of one head bit for bit, of two the mean; heads of labels are left aside, and so are regions of other labels."""
    wanted = TASK.rows(("a", "b"))
    assert wanted == ("core (a)", "whole (a, b)")
    first, second = head(("core (a)", "other (c)"), 1), head(("whole (a, b)", "core (a)"), 2)
    aside = [head(("whole (a)", "x"), 3), heads.Head(("core", "whole"), {n: torch.zeros(3, 5) for n in ROWS})]
    made = TASK.stitch(wanted, [*aside, first, second], ROWS)
    for name in ROWS:
        assert torch.equal(made[name][0], torch.stack([first.weights[name][0], second.weights[name][1]]).mean(0))
        assert torch.equal(made[name][1], second.weights[name][0])
    with pytest.raises(
        NetError, match=r"the region 'whole \(a, b\)' is none of the sources' \(core \(a\), other \(c\)\)"
    ):
        TASK.needed(wanted, [first.labels])
    assert TASK.needed(wanted, [first.labels, second.labels, ("a",)]) == [0, 1]


def test_a_classifier_answers_no_regions():
    """An image of one class has no voxels that could be in several."""
    with pytest.raises(ConfigError, match="the net 'resnet' classifies images"):
        answers.of({"name": "resnet"}, ("a", "b"), CHAIN)
