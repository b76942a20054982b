"""Several devices at a site: two processes on the processor come to what one comes to, and nothing is left of them."""

import logging
import os
import re
from dataclasses import replace

import pytest
import small_nets
import torch
from made_cases import decathlon, site_of
from test_training import SETTINGS, batches, net, run, same, told
from torch import nn

from fedmerge import devices, dropout, fisher, losses, nets, params, tasks, workers
from fedmerge.contribution import Contribution
from fedmerge.devices import Hardware
from fedmerge.errors import ConfigError, DataError, NetError
from fedmerge.fisher import Piece
from fedmerge.passes import Pass
from fedmerge.privacy import dpsgd
from fedmerge.privacy.mechanism import Mechanism
from fedmerge.records import Settings
from sites import findings, hardware, preflight, ways

CPU, ONE, TWO = torch.device("cpu"), Hardware("cpu"), Hardware("cpu", devices=2)

pytestmark = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="there is one core")


@pytest.fixture(scope="module", autouse=True)
def pair():
    """One thread, and a second process for all tests of this file."""
    with devices.threads(1), devices.using(TWO):
        workers.here(CPU)
        yield


def images(count, step=0):
    """Images of `batches`, and their labels."""
    made = [batches(10 * step + k) for k in range(-(-count // 2))]
    return tuple(torch.cat([pair[k] for pair in made])[:count] for k in (0, 1))


def gradient(hardware, model, count=3, **options):
    """The loss and all gradients of a pass over so many images, in float64 and one row."""
    dtype = next(model.parameters()).dtype
    options = {"seed": 3, "dtype": None, "loss": losses.dice_ce(), "through": None, **options}
    with devices.using(hardware):
        one = Pass(model.train(), CPU, **options)
        with one.ready():
            x, y = images(count)
            loss = one(x.to(dtype), y, 5)
    return loss.item(), torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None])


def agree(one, two, within=1e-6):
    """Losses and gradients are the same but for rounding."""
    assert two[0] == pytest.approx(one[0], rel=within)
    assert float((two[1] - one[1]).norm() / one[1].norm()) < within


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_two_devices_come_to_the_gradient_of_one(count):
    """With dropout, whatever the number of images; of a single one the second device hears nothing."""
    one, two = (gradient(hardware, net(), count) for hardware in (ONE, TWO))
    agree(one, two)
    if count == 1:
        assert torch.equal(one[1], two[1])


def test_the_gradient_is_that_of_the_parts_by_their_numbers_of_images():
    """Two of three images here and one there: 2/3 and 1/3, to the last digit of a plain computation."""
    model, oracle = net(dropout=0.0), net(dropout=0.0).train()
    gradient(TWO, model)
    x, y = images(3)
    parts = []
    for part in (slice(0, 2), slice(2, 3)):
        oracle.zero_grad()
        losses.dice_ce()(oracle(x[part]), y[part]).backward()
        parts.append([p.grad.clone() for p in oracle.parameters()])
    for p, first, second in zip(model.parameters(), *parts, strict=True):
        assert torch.equal(p.grad, (first * (2 / 3)).add_(second, alpha=1 / 3))


@pytest.mark.parametrize("how", [{"deep": True}, {"loss": lambda logits, labels: (logits - labels).square().mean()}])
def test_deep_supervision_and_other_means_are_shared_too(how):
    """All that they need goes to the second process, also a function that has no name there.

    In float64 the two agree as closely: what differs is rounding.
    """
    agree(*(gradient(hardware, net().double(), **how) for hardware in (ONE, TWO)), within=1e-12)


def test_less_memory_changes_no_number_of_a_shared_pass():
    """Each device computes parts of its own pass twice."""
    plain, sparing = (gradient(replace(TWO, recompute=how), net()) for how in ("never", "always"))
    assert plain[0] == sparing[0]
    assert torch.equal(plain[1], sparing[1])


class Elementwise(nn.Module):
    """A net with dropout of single voxels."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Dropout(0.5), nn.Conv2d(4, 3, 1))

    def forward(self, x):
        """(B, 1, *S) to (B, 3, *S)."""
        return self.body(x)


def test_the_masks_of_the_parts_are_those_of_the_batch():
    """Drawn for all images on each device; rows that are no images count as a whole batch."""
    layers, x = nn.Sequential(nn.Dropout(0.5)), torch.ones(5, 40)
    share, generator = dropout.Share(), torch.Generator()

    def drawn(part, begin, whole):
        share.begin, share.count, share.whole = begin, len(part) if whole else 0, whole
        with dropout.drawn_from(layers, generator.manual_seed(0), share):
            return layers(part)

    assert torch.equal(torch.cat([drawn(x[:3], 0, 5), drawn(x[3:], 3, 5)]), drawn(x, 0, 0))
    assert dropout.Share(3, 2, 5).rows(8) == (12, 20)
    assert dropout.Share(3, 2, 5).rows(7) == (0, 7)
    torch.manual_seed(0)
    model = Elementwise()
    agree(*(gradient(hardware, model) for hardware in (ONE, TWO)))


def larger(step):
    """Three images a step."""
    return images(3, step)


def long(hardware, model, settings=SETTINGS, **changes):
    """A run of `test_training` whose batches can be shared."""
    with devices.using(hardware):
        one = run(model, settings, **changes)
        one._batch = larger
        return one


def test_a_training_comes_to_the_same_model():
    """Twelve steps with dropout, two rates, clipping, a schedule and validation, to 1e-4 of each tensor's largest."""
    made = []
    for machine in (ONE, TWO):
        one = long(machine, net())
        with devices.using(machine):
            one.advance(12)
        made.append((params.of(one.net), one.finish().records))
    for name, value in made[0][0].items():
        assert float((made[1][0][name] - value).abs().max()) < 1e-4 * float(value.abs().max())
    assert [r.loss for r in made[1][1][1:]] == pytest.approx([r.loss for r in made[0][1][1:]], rel=1e-5)
    assert any(not torch.equal(made[0][0][name], made[1][0][name]) for name in made[0][0])  # it was shared


@pytest.mark.parametrize("stop", [1, 5, 8])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, stop):
    """With two devices too, bit for bit: weights, records and the best step."""
    whole, first, second = (long(TWO, net(seed)) for seed in (0, 0, 9))
    whole.advance(12)
    first.advance(stop)
    first.save(tmp_path / "run.safetensors")
    second.restore(tmp_path / "run.safetensors")
    second.advance(12)
    assert told(second.finish()) == told(whole.finish())
    assert same(whole.net, second.net)


@pytest.mark.parametrize("labels", ["sampled", "observed"])
def test_the_fisher_is_that_of_one_device(labels):
    """Bit for bit: a case is computed whole on one device, and the squares are added in the order of the cases."""
    cases = small_nets.cases(3, count=5)
    image, label = small_nets.cases(3, count=1, size=8)[0]
    halves = [slice(0, 6), slice(2, 8)], [slice(0, 4), slice(2, 6)]
    cases.append([Piece(image[:, part], label[:, part], (own,)) for part, own in zip(*halves, strict=True)])
    names = (*small_nets.FUSABLE, *small_nets.NORMS)
    seen, found = [], []
    for machine in (ONE, TWO):
        with devices.using(machine):
            g = torch.Generator().manual_seed(3)
            found.append(fisher.diagonal(small_nets.make(3), cases, names, labels=labels, generator=g,
                                         progress=seen.append))  # fmt: skip
    assert params.digest(found[0]) == params.digest(found[1])
    assert seen == [1, 2, 3, 4, 5, 6] * 2


def test_a_case_that_cannot_be_used_is_named_with_its_device():
    """The second of them is computed on the second device."""
    cases = small_nets.cases(3, count=3)
    cases[1][1].flatten()[0] = 7
    with pytest.raises(DataError, match=r"device 2 of 2 \(cpu\): case 2 expected labels from 0 to 2, got 0 to 7"):
        fisher.diagonal(small_nets.make(3), cases, ["stem.weight"], labels="observed")


def test_patients_are_protected_on_two_devices_as_on_one():
    """Bit for bit: each gradient is one device's, is clipped here, and the noise is drawn here."""
    g = torch.Generator().manual_seed(0)
    people = [[(torch.randn(1, 6, 6, generator=g), torch.randint(0, 3, (1, 6, 6), generator=g))] for _ in range(7)]
    made = []
    for machine in (ONE, TWO):
        model = small_nets.make()
        with devices.using(machine):
            dpsgd.train(model, people, Settings(steps=3, lr=1e-2), Mechanism(0.7, 1.0, 0.5, 7), seed=0,
                        precision="float32", unsafe_seed=1)  # fmt: skip
        made.append(model)
    assert same(*made)


@pytest.mark.parametrize("way", [name for name in ways.WAYS if name != "plain"])
def test_every_way_of_training_is_shared(way):
    """Penalties, weights that are put back at random, and a predecessor that is distilled."""
    wanted, settings = {"name": "isensee2017", "dims": 2, "base_filters": 4, "depth": 2}, {"steps": 1, "lr": 1e-3}
    model = nets.build(wanted, in_channels=1, out_channels=3, seed=0)
    heads = nets.heads(wanted, in_channels=1, out_channels=3)
    weights = params.of(nets.build(wanted, in_channels=1, out_channels=3, seed=1))
    about = tasks.Net(wanted, 1, ("a", "b"), (16, 24), fusable=tuple(weights), heads=heads)
    digest = "sha256:" + 64 * "0"
    asked = tasks.Contribute("0" * 24, "small", 0, about, settings, 0, "none", 0, digest, digest, 1,
                             way=way, strength=0.3)  # fmt: skip
    squares = {name: value.square() for name, value in weights.items() if name not in heads}
    before = Contribution(
        site="north", net=nets.canonical(wanted, in_channels=1, out_channels=3), labels=("a", "b"), channels=("t1",),
        cases=1, ancestor=digest, parent=digest, weights=weights, fisher=squares, fisher_labels="observed",
        settings="0" * 24,
    )  # fmt: skip
    found = ways.prepare(asked, model, {name: value + 0.1 for name, value in params.of(model).items()}, [before])
    options = {"loss": about.task.loss(), **found.options}
    agree(*(gradient(hardware, found.net, 4, **options) for hardware in (ONE, TWO)))


def test_a_net_that_looks_at_all_images_at_once_stays_on_one_device(caplog):
    """It has the numbers of one device, and the log says why."""
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3))
    with caplog.at_level(logging.WARNING, "fedmerge"):
        one, two = (gradient(hardware, model) for hardware in (ONE, TWO))
    assert torch.equal(one[1], two[1])
    assert [r.message for r in caplog.records] == [
        "'1' is a BatchNorm2d, which looks at all images of a batch: one device trains this net"
    ]


def test_a_loss_that_is_no_mean_is_refused():
    """A sum over images, and an overlap of the whole batch: the sentence has both numbers."""
    for loss in (lambda a, b: a.square().sum(), lambda a, b: (a.sigmoid() * b).sum() / (a.sigmoid() + b).sum()):
        with pytest.raises(ConfigError, match="the loss expected to be a mean over images: of two images it is"):
            gradient(TWO, net(), loss=loss)


def test_a_net_that_cannot_travel_is_refused():
    """Torch does not pickle modules with parametrisations."""
    model = nn.Sequential(nn.Conv2d(1, 3, 1))
    nn.utils.parametrizations.weight_norm(model[0])
    with pytest.raises(NetError, match="with 2 devices a net and its loss expected to be something that can be pick"):
        gradient(TWO, model)


class Short(nn.Module):
    """A net that runs out of memory everywhere but in one process."""

    def __init__(self, process):
        super().__init__()
        self.inner, self.process = nn.Conv2d(1, 3, 1), process

    def forward(self, x):
        """Logits, or no memory."""
        if os.getpid() != self.process:
            raise torch.OutOfMemoryError("no memory left")
        return self.inner(x)


def test_a_further_device_without_memory_is_named():
    """And the next pass, of a net that fits, is made by the same process."""
    with pytest.raises(NetError, match=r"^device 2 of 2 \(cpu\): a training step does not fit into the memory of cpu"):
        gradient(TWO, Short(os.getpid()))
    before = [process.pid for process, _ in workers.here(CPU)._started]
    agree(*(gradient(hardware, net()) for hardware in (ONE, TWO)))
    assert [process.pid for process, _ in workers.here(CPU)._started] == before


def test_whoever_gave_up_half_way_is_not_answered_later():
    """An answer that nobody took is no answer to the next question."""
    here = os.getpid()

    def loss(logits, labels):
        if os.getpid() == here:
            raise KeyboardInterrupt
        return (logits - labels).square().mean()

    with pytest.raises(KeyboardInterrupt):
        gradient(TWO, net(), loss=loss)
    agree(*(gradient(hardware, net()) for hardware in (ONE, TWO)))


@pytest.mark.parametrize(
    ("value", "wanted"), [(2, 2), ("all", "all"), (0, None), (True, None), ("many", None), (1.5, None)]
)
def test_the_table_says_how_many(value, wanted):
    """A number from one, or all."""
    if wanted is not None:
        assert hardware.read({"devices": value}, "north, [hardware]").devices == wanted
        return
    with pytest.raises(
        ConfigError, match=r"north, \[hardware\]: 'devices' expected a number of devices from 1, or all"
    ):
        hardware.read({"devices": value}, "north, [hardware]")


def test_the_description_says_how_many():
    """Runs whose descriptions differ may differ in the last digits."""
    assert devices.describe(wanted="float32") == "cpu, 1 thread, float32, 2 devices"
    with devices.using(Hardware("cpu", devices="all")):
        assert devices.describe(wanted="float32") == "cpu, 1 thread, float32"


def test_more_devices_than_there_are_is_told_before_training(tmp_path):
    """By the check of a simulation, and by that of a hospital."""
    site = replace(site_of(decathlon(tmp_path, ["a", "b"])), hardware=Hardware("cpu", devices=9999))
    (error,) = [f for f in preflight.check(site) if f.severity == "error"]
    (line,) = findings.hardware(site)
    assert (line.result, line.remedy) == ("error", "edit `device` and `devices` of [hardware] in site.toml")
    for sentence in (error.sentence, line.found):
        assert re.fullmatch(r"devices = 9999 was asked for, but the cores of this machine are \d+", sentence)


def test_a_net_elsewhere_is_not_shared():
    """The block is about the processor, and this net is not there."""
    assert workers.here(torch.device("meta")) is None
