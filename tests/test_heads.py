"""Heads as rows: joined and split again, stitched so that each label keeps its logit against its own background."""

import pytest
import torch

from fedmerge import heads, nets, params
from fedmerge.errors import NetError

SETTINGS = {"name": "isensee2017", "dims": 2, "base_filters": 2, "depth": 3, "dropout": 0.0}


def made(labels, seed):
    """A net's own head for so many labels, and the names of its parameters."""
    out = len(labels) + 1
    net = nets.build(SETTINGS, in_channels=1, out_channels=out, seed=seed)
    for name, p in net.named_parameters():
        if "heads" in name:
            torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(seed))
    names = nets.heads(SETTINGS, in_channels=1, out_channels=out)
    return heads.Head(labels, params.split(params.of(net), names)[0]), names


def run(body, head, image):
    """Logits of a head over a body."""
    rows = next(iter(head.values())).shape[0]
    net = nets.build(SETTINGS, in_channels=1, out_channels=rows, seed=0)
    params.load(net, {**body, **head})
    return net(image).detach()


@pytest.fixture
def body():
    """Everything but the heads."""
    net = nets.build(SETTINGS, in_channels=1, out_channels=2, seed=7)
    names = nets.heads(SETTINGS, in_channels=1, out_channels=2)
    return params.split(params.of(net), names)[1]


@pytest.fixture
def axis():
    """Of the heads' rows."""
    net = nets.on_meta(SETTINGS, in_channels=1, out_channels=2)
    return heads.axes(net, nets.heads(SETTINGS, in_channels=1, out_channels=2))


def test_joined_heads_answer_side_by_side_and_split_again(body, axis):
    """The joined net's channels are those of each head, one after the other."""
    image = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    first, second = made(("a",), 1)[0].weights, made(("b", "c"), 2)[0].weights
    joined = heads.join([first, second], axis)
    expected = torch.cat([run(body, first, image), run(body, second, image)], 1)
    assert torch.allclose(run(body, joined, image), expected, atol=1e-6)
    for back, head in zip(heads.split(joined, [2, 3], axis), (first, second)):
        assert all(torch.equal(back[name], head[name]) for name in axis)


def test_a_stitched_head_keeps_each_labels_logit_against_its_own_background(body, axis):
    """Whatever the features are: that is all that softmax and argmax see of one head."""
    image = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    (north, _), (south, _) = made(("a", "x"), 3), made(("b",), 4)
    stitched = run(body, heads.stitch(("b", "a"), [north, south], axis), image)
    of_north, of_south = run(body, north.weights, image), run(body, south.weights, image)
    assert torch.allclose(stitched[:, 1] - stitched[:, 0], of_south[:, 1] - of_south[:, 0], atol=1e-5)
    assert torch.allclose(stitched[:, 2] - stitched[:, 0], of_north[:, 1] - of_north[:, 0], atol=1e-5)


def test_a_head_that_knows_all_labels_is_taken_bit_for_bit(axis):
    """In the order of the target's labels."""
    head, _ = made(("a", "b"), 5)
    found = heads.stitch(("b", "a"), [head], axis)
    for name in axis:
        assert torch.equal(found[name], head.weights[name][[0, 2, 1]])


def test_a_label_of_two_heads_is_their_mean(axis):
    """Each measured against its own background."""
    first, second = made(("a",), 6)[0], made(("a",), 7)[0]
    found = heads.stitch(("a",), [first, second], axis)
    for name in axis:
        a, b = first.weights[name], second.weights[name]
        assert torch.allclose(found[name][1] - found[name][0], ((a[1] - a[0]) + (b[1] - b[0])) / 2, atol=1e-6)


def test_a_label_of_no_head_is_told(axis):
    """With what there is."""
    with pytest.raises(NetError, match=r"the label 'b' is none of the sources' \(a\)"):
        heads.stitch(("a", "b"), [made(("a",), 8)[0]], axis)


def test_heads_that_are_no_rows_are_refused():
    """The norm in the last unit of MONAI's UNet counts labels as well."""
    settings = {"name": "unet", "dims": 2, "base_filters": 4, "depth": 3}
    net = nets.on_meta(settings, in_channels=1, out_channels=2)
    with pytest.raises(NetError, match="heads of such a net cannot be put together"):
        heads.axes(net, nets.heads(settings, in_channels=1, out_channels=2))


def test_kept_heads_are_found_by_site():
    """In the order in which they came, whatever else there is."""
    weights = {"h.weight": torch.zeros(2), "h.weight@north": torch.ones(2), "body": torch.zeros(1)}
    assert list(heads.kept(weights, ["h.weight"])) == ["north"]
    assert heads.kept(weights, ["h.weight"])["north"]["h.weight"].tolist() == [1, 1]


def classes(labels, seed):
    """A classifier's head: a row for each class, of three features."""
    g = torch.Generator().manual_seed(seed)
    weights = {
        "head.weight": torch.randn(len(labels), 3, generator=g),
        "head.bias": torch.randn(len(labels), generator=g),
    }
    return heads.Head(labels, weights)


def answers(head, labels, features):
    """Class -> logits of the features, of those classes."""
    logits = features @ head["head.weight"].T + head["head.bias"]
    return dict(zip(labels, logits.T))


ROWS = {"head.weight": 0, "head.bias": 0}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_classes_keep_their_differences_to_the_class_that_both_heads_know(order):
    """As each head alone has them: "normal" takes the background's part."""
    features = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    there = [classes(("normal", "ring"), 1), classes(("spiculated", "normal"), 2)]
    wanted = ("ring", "normal", "spiculated")
    found = answers(heads.stitch_classes(wanted, [there[k] for k in order], ROWS), wanted, features)
    for head in there:
        alone = answers(head.weights, head.labels, features)
        for label in head.labels:
            torch.testing.assert_close(found[label] - found["normal"], alone[label] - alone["normal"])


def test_a_chain_of_common_classes_is_enough():
    """The first and the last head meet by way of the one between, in whichever order they come."""
    first, middle, last = classes(("a", "b"), 3), classes(("b", "c"), 4), classes(("c", "d"), 5)
    features = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    found = answers(heads.stitch_classes(tuple("abcd"), [first, last, middle], ROWS), "abcd", features)
    for head in (first, middle, last):
        alone = answers(head.weights, head.labels, features)
        x, y = head.labels
        torch.testing.assert_close(found[x] - found[y], alone[x] - alone[y])


def test_a_classifiers_head_that_knows_all_classes_is_taken_bit_for_bit():
    """In the order of the target's classes, whatever the others know."""
    whole, part = classes(("a", "b", "c"), 6), classes(("a", "b"), 7)
    found = heads.stitch_classes(("c", "a"), [part, whole], ROWS)
    assert torch.equal(found["head.weight"], whole.weights["head.weight"][[2, 0]])


def test_heads_without_a_common_class_are_refused():
    """Each says how its own classes differ, and nothing of the others'."""
    with pytest.raises(NetError, match=r"the classes \(a, b\) and \(c, d\) of two sources have none in common"):
        heads.stitch_classes(("a", "b", "c", "d"), [classes(("a", "b"), 8), classes(("c", "d"), 9)], ROWS)
    with pytest.raises(NetError, match=r"the label 'e' is none of the sources' \(a, b\)"):
        heads.stitch_classes(("a", "e"), [classes(("a", "b"), 8)], ROWS)
