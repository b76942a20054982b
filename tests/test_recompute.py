"""Training in less memory: the same numbers, less kept, and a second try where a step did not fit."""

import logging

import pytest
import torch
from test_training import net, run, same, told
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fedmerge import devices, nets, recompute
from fedmerge.devices import Hardware
from fedmerge.errors import NetError


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_sparing_run_has_the_numbers_of_a_plain_one(one_thread, precision):
    """Losses, validations and weights agree to the last digit, with dropout, in either precision."""
    found = []
    for recompute_ in ("never", "always"):
        with devices.using(Hardware(recompute=recompute_)):
            one = run(precision=precision)
            one.advance(12)
            found.append((one.net, told(one.finish())))
    assert found[0][1] == found[1][1]
    assert same(found[0][0], found[1][0])


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "isensee2017", "dims": 3, "base_filters": 4, "depth": 2},
        {"name": "unet", "dims": 3, "base_filters": 4, "depth": 3},
    ],
)
def test_any_net_gets_its_plain_gradients(one_thread, settings):
    """It is the operations that are chosen among, and no net's own blocks."""
    model = nets.build(settings, in_channels=1, out_channels=2, seed=0).eval()
    x = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))

    def gradients(forward):
        model.zero_grad()
        forward().square().sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    plain = gradients(lambda: model(x))
    sparing = gradients(lambda: recompute.sparingly(lambda: model(x), lambda: None))
    assert all(torch.equal(a, b) for a, b in zip(plain, sparing, strict=True))


class Made(TorchDispatchMode):
    """Knows what operations made, and what of it is still there."""

    def __init__(self):
        super().__init__()
        self.storages = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                self.storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return out

    def held(self):
        """Bytes that somebody still holds."""
        return sum(size for storage, size in self.storages.values() if not storage.expired())


def test_a_graph_that_is_made_sparingly_holds_less_than_half():
    """Of a U-Net with instance norms, between the two passes."""
    model = nets.build({"name": "isensee2017", "base_filters": 4, "depth": 3}, in_channels=1, out_channels=2)
    x = torch.randn(1, 1, 16, 16, 16)
    held = []
    for forward in (lambda: model(x), lambda: recompute.sparingly(lambda: model(x), lambda: None)):
        with Made() as made:
            out = forward()
            held.append(made.held())
        out.sum().backward()
    assert 0 < held[1] < held[0] / 2


class Short(torch.nn.Module):
    """A net whose device runs out of memory the first `times` times."""

    def __init__(self, inner, times):
        super().__init__()
        self.inner, self.times = inner, times

    def forward(self, x):
        """The inner net's logits, or no memory."""
        out = self.inner(x)
        if self.training and self.times > 0:
            self.times -= 1
            raise torch.OutOfMemoryError("no memory left")
        return out


def test_a_step_that_does_not_fit_is_made_again_sparingly(one_thread, caplog):
    """The run goes on with the numbers that it would have had, and says once what it does."""
    plain, short = run(Short(net(), 0)), run(Short(net(), 1))
    with caplog.at_level(logging.WARNING, "fedmerge"):
        for one in (plain, short):
            one.advance(12)
    assert told(plain.finish()) == told(short.finish())
    assert same(plain.net, short.net)
    assert [r.message for r in caplog.records if "does not fit" in r.message] == [
        "a training step does not fit into the device's memory: parts are computed twice from now on"
    ]


@pytest.mark.parametrize(("how", "times"), [("auto", 2), ("never", 1), ("always", 1)])
def test_a_step_that_never_fits_is_a_sentence(how, times):
    """It has the device, what was to be computed, and what can be done."""
    with devices.using(Hardware(recompute=how)):
        one = run(Short(net(), times))
    with pytest.raises(NetError, match=r"does not fit into the memory of cpu: 2 images of 1 x 16 x 24; .* batch_size"):
        one.advance(1)
