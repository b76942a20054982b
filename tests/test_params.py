"""Parameters by name: copies, pairs that undo each other, and a digest."""

import pytest
import small_nets
import torch
from torch import nn

from fedmerge import params
from fedmerge.errors import NetError


def test_parameters_of_a_net_are_copies():
    """What is done to them leaves the net as it was."""
    net = small_nets.make()
    own = params.of(net)
    own["stem.weight"].zero_()
    assert net.stem.weight.abs().sum() > 0


def test_loading_what_a_net_holds_restores_it():
    """`load(net, of(net))` undoes any change in between."""
    net = small_nets.make()
    before = params.of(net)
    with torch.no_grad():
        net.head.bias += 1
    params.load(net, before)
    assert params.digest(params.of(net)) == params.digest(before)


def test_a_partial_load_leaves_the_rest():
    """Names that are not given keep their values."""
    net = small_nets.make(seed=0)
    params.load(net, {"stem.bias": torch.ones(4)})
    assert torch.equal(net.stem.bias, torch.ones(4))
    assert torch.equal(params.of(net)["head.bias"], small_nets.weights(seed=0)["head.bias"])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"stem.bias": torch.ones(5)}, r"'stem.bias' expected shape \(4,\), got \(5,\)"),
        ({"trunk.bias": torch.ones(4)}, "the net has no parameter 'trunk.bias'"),
    ],
)
def test_loading_what_does_not_fit_changes_nothing(given, sentence):
    """A wrong shape or name is refused before the first tensor is copied."""
    net = small_nets.make()
    before = params.digest(params.of(net))
    with pytest.raises(NetError, match=sentence):
        params.load(net, {"head.bias": torch.ones(3), **given})
    assert params.digest(params.of(net)) == before


def test_split_and_join_undo_each_other():
    """join(split(p)) has p's names and tensors."""
    own = small_nets.weights()
    inside, outside = params.split(own, small_nets.FUSABLE)
    assert tuple(inside) == small_nets.FUSABLE
    joined = params.join(inside, outside)
    assert joined.keys() == own.keys()
    assert all(joined[name] is own[name] for name in own)


def test_joining_sets_that_share_a_name_is_refused():
    """The sentence names the tensor."""
    with pytest.raises(NetError, match=r"'stem\.bias' is in both"):
        params.join({"stem.bias": torch.ones(4)}, {"stem.bias": torch.ones(4)})


def test_a_shared_tensor_is_listed_once():
    """Two names of one tensor count as the first of them."""
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    assert list(params.of(net)) == ["0.weight", "0.bias", "1.bias"]


def test_the_digest_sees_values_names_and_shapes_but_not_the_order():
    """Reordering keeps it; one bit, a name or a shape changes it."""
    a, b = torch.arange(4.0), torch.zeros(2)
    digest = params.digest({"a": a, "b": b})
    assert digest == params.digest({"b": b, "a": a})
    assert len({digest, params.digest({"a": a, "c": b}), params.digest({"a": a.reshape(2, 2), "b": b}),
                params.digest({"a": a, "b": -b})}) == 4  # fmt: skip


def test_a_net_holds_other_weights_for_a_while_and_gets_its_own_back():
    """Also where a module stands at two places; gradients flow into what it held, and not into its own."""

    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one = torch.nn.Linear(2, 2)
            self.again = self.one

        def forward(self, x):
            return self.again(self.one(x))

    net = Twice()
    own = dict(net.named_parameters())
    other = {"one.weight": (2 * torch.eye(2)).requires_grad_(), "one.bias": torch.zeros(2)}
    with params.holding(net, other):
        out = net(torch.ones(1, 2))
    out.sum().backward()
    assert out.tolist() == [[4.0, 4.0]]
    assert other["one.weight"].grad is not None
    assert own["one.weight"].grad is None
    assert dict(net.named_parameters()) == own
    assert all(isinstance(p, torch.nn.Parameter) for p in (net.one.weight, net.again.weight))
