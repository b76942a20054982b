"""DP-SGD by patient: sensitivity, noise, draws, and what is refused, each against a plain computation."""

import math

import pytest
import torch
from small_nets import make
from torch import nn

from fedmerge import checkpoint, params
from fedmerge.errors import ConfigError, NetError
from fedmerge.privacy import dpsgd, mechanism, noise
from fedmerge.privacy.mechanism import Mechanism
from fedmerge.records import Settings

SGD = Settings(steps=1, lr=0.1)


pytestmark = pytest.mark.usefixtures("one_thread")


def loss(logits, labels):
    """Cross-entropy of label maps (B, 1, *S)."""
    return nn.functional.cross_entropy(logits, labels[:, 0])


def people(count, dims=2, size=4, seed=0, scale=1.0):
    """Patients with one to three cases each; `scale` multiplies the images."""
    g = torch.Generator().manual_seed(seed)
    shape = (1, *[size] * dims)
    return [
        [
            (scale * torch.randn(shape, generator=g), torch.randint(0, 3, shape, generator=g))
            for _ in range(1 + k % 3)
        ]
        for k in range(count)
    ]  # fmt: skip


class Steep(nn.Module):
    """Linear in each voxel without any norm: gradients grow with the image."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(1, 3, 1)

    def forward(self, x):
        """(B, 1, *S) to (B, 3, *S)."""
        return 1e3 * self.head(x)


def gradient(net, patient):
    """The plain gradient of the mean loss over a patient's cases, case by case."""
    total = [torch.zeros_like(p) for p in net.parameters()]
    for image, label in patient:
        net.zero_grad()
        loss(net(image[None]), label[None]).backward()
        for there, p in zip(total, net.parameters()):
            there += p.grad / len(patient)
    return total


def flat(tensors):
    """All numbers in one row."""
    return torch.cat([t.flatten().double() for t in tensors])


NETS = {
    "2D": lambda: make(2).eval(),
    "3D": lambda: make(3).eval(),
    "without a norm layer": lambda: Steep(),
}


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("clip", [0.01, 0.1])
@pytest.mark.parametrize("scale", [1.0, 1e4, 1e30])
def test_a_patient_less_changes_the_sum_by_at_most_the_clipping_norm(kind, clip, scale):
    """Whoever is removed, also one whose gradient is huge or not finite, the others being as they were."""
    net = NETS[kind]()
    patients = people(4, 3 if kind == "3D" else 2) + people(2, 3 if kind == "3D" else 2, seed=1, scale=scale)
    gradients = [gradient(net, patient) for patient in patients]
    like = list(net.parameters())
    everyone = flat(mechanism.clipped_sum(gradients, like, clip))
    moved = []
    for k in range(len(patients)):
        others = flat(mechanism.clipped_sum(gradients[:k] + gradients[k + 1 :], like, clip))
        moved.append(float((everyone - others).norm()))
    assert everyone.isfinite().all()
    assert max(moved) <= clip * (1 + 1e-9)
    assert max(moved) > 0.99 * clip  # the bound is reached: without clipping the test above would fail


def test_without_clipping_a_patient_moves_the_sum_farther():
    """What the test above would see of a broken clipping."""
    net = Steep()
    gradients = [gradient(net, patient) for patient in people(3)]
    like = list(net.parameters())
    whole, less = (flat(mechanism.clipped_sum(g, like, math.inf)) for g in (gradients, gradients[1:]))
    assert float((whole - less).norm()) > 100


def test_a_gradient_that_is_not_finite_counts_as_zero():
    """One patient cannot stop a training, nor turn its weights into nan."""
    like = [torch.zeros(2), torch.zeros(1)]
    sound = [torch.tensor([3.0, 0.0]), torch.tensor([4.0])]
    for bad in (math.inf, math.nan):
        total = mechanism.clipped_sum([sound, [torch.tensor([bad, 0.0]), None]], like, 1.0)
        torch.testing.assert_close(flat(total), torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64))


def seen(net, patients, how, settings=SGD, **options):
    """The gradient that the optimiser gets in the first step of a training, and the net."""
    got = []

    class Ear(torch.optim.SGD):
        def step(self):
            got.append([p.grad.clone() for group in self.param_groups for p in group["params"]])
            super().step()

    def sgd(own, rates, weight_decay):
        return Ear([{"params": [own[n]], "lr": lr, "base": lr} for n, lr in rates.items()])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dpsgd.optimiser, "adamw", sgd)
        dpsgd.train(net, patients, settings, how, seed=0, device="cpu", precision="float32", loss=loss, **options)
    return got[0]


def test_a_step_sums_the_clipped_gradients_of_a_plain_loop():
    """Each patient's gradient is that of the mean over its own cases, clipped by itself; all are drawn at rate 1."""
    net, patients, clip = Steep(), people(5), 50.0
    total = torch.zeros(6, dtype=torch.float64)
    for patient in patients:
        g = flat(gradient(net, patient))
        total += g * min(1.0, clip / float(g.norm()))
    got = flat(seen(net, patients, Mechanism(1.0, 0.0, clip, 5)))
    torch.testing.assert_close(got, total / 5, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gone", [0, 2, 4])
def test_a_whole_step_moves_by_at_most_the_clipping_norm_without_a_patient(gone):
    """In training, dropout included: the others' gradients do not notice who is there."""
    clip, everyone = 0.05, people(5)
    how = Mechanism(1.0, 0.0, clip, 5)
    whole = flat(seen(make(2), everyone, how))
    less = flat(seen(make(2), everyone[:gone] + everyone[gone + 1 :], how))
    moved = 5 * float((whole - less).norm())
    assert 0.99 * clip < moved <= clip * (1 + 1e-5)  # the gradient is rounded to float32


def test_without_clipping_and_noise_a_step_is_one_of_plain_gradient_descent():
    """One of the mean of the patients' gradients, times the rate."""
    net, patients = make(2), people(4)
    net.drop.p = 0.0
    before = params.of(net)
    expected = torch.stack([flat(gradient(net, patient)) for patient in patients]).mean(0)
    seen(net, patients, Mechanism(1.0, 0.0, math.inf, 4))
    moved = flat(before.values()) - flat(params.of(net).values())
    torch.testing.assert_close(moved, 0.1 * expected, rtol=1e-4, atol=1e-7)


def test_the_noise_of_the_sum_has_the_standard_deviation_sigma_times_the_norm():
    """20,000 numbers: 5 % more or less would be ten standard errors."""
    sigma, clip = 1.5, 0.3
    like = [torch.zeros(100, 100), torch.zeros(10_000)]
    zeros = [torch.zeros_like(p) for p in like]
    how = Mechanism(0.5, sigma, clip, 10)
    noised = mechanism.released(lambda drawn: [zeros for _ in drawn], like, how, 10, noise.repeatable(0, "test")(0))
    total = flat(noised) * how.rate * how.patients
    assert abs(float(total.std()) / (sigma * clip) - 1) < 0.02
    assert abs(float(total.mean())) < 4 * sigma * clip / math.sqrt(20_000)
    tail = float((total.abs() > 1.96 * sigma * clip).double().mean())
    assert abs(tail - 0.05) < 0.008
    silent = mechanism.released(
        lambda drawn: [zeros for _ in drawn], like, Mechanism(0.5, 0.0, clip, 10), 10, noise.fresh()(0)
    )
    assert float(flat(silent).std()) == 0.0  # noise that is off does not look like noise


def test_the_noise_of_a_training_is_that_of_its_mechanism():
    """The gradient that the optimiser gets, minus the plain sum, has the standard deviation sigma C / (q n)."""
    net = make(2, width=40)
    patients, how = people(2), Mechanism(1.0, 2.0, 0.5, 2)
    plain = flat(seen(make(2, width=40), patients, Mechanism(1.0, 0.0, 0.5, 2)))
    noised = flat(seen(net, patients, how, unsafe_seed=1))
    assert len(plain) > 20_000
    assert abs(float((noised - plain).std()) / (2.0 * 0.5 / 2) - 1) < 0.025


def test_draws_are_independent_with_the_given_rate():
    """Mean and variance of the number drawn, and no correlation between patients or steps."""
    rate, n, steps = 0.2, 50, 4000
    stream = noise.repeatable(3, "draws")(0)
    drawn = torch.zeros(steps, n, dtype=torch.float64)
    for step in range(steps):
        drawn[step, mechanism.draw(n, rate, stream)] = 1
    size = drawn.sum(1)
    assert abs(float(size.mean()) - n * rate) < 4 * math.sqrt(n * rate * (1 - rate) / steps)
    assert abs(float(size.var()) / (n * rate * (1 - rate)) - 1) < 0.1  # a batch of fixed size would have 0
    table = torch.corrcoef(drawn.T) - torch.eye(n)
    assert float(table.abs().max()) < 5 / math.sqrt(steps)
    later = torch.corrcoef(torch.stack([drawn[:-1, 0], drawn[1:, 0]]))[0, 1]
    assert abs(float(later)) < 4 / math.sqrt(steps)
    assert mechanism.draw(5, 1.0, stream) == [0, 1, 2, 3, 4]


def test_an_empty_draw_is_a_step_on_noise():
    """Nobody is drawn at this rate, and the weights move all the same."""
    net = make(2)
    before = params.of(net)
    asked = []
    dpsgd.train(
        net, people(1), Settings(steps=3, lr=0.1), Mechanism(1e-12, 1.0, 1.0, 1), seed=0, device="cpu",
        precision="float32", loss=loss, through=lambda net, x, step: asked.append(step) or (net(x), None),
    )  # fmt: skip
    assert asked == []
    assert all(not torch.equal(before[n], v) for n, v in params.of(net).items())


def test_the_streams_are_normal_uniform_and_never_the_same():
    """Moments of 200,000 numbers; a fresh stream differs from every other, a repeatable one from other data's."""
    stream = noise.repeatable(0, "numbers")(0)
    z, u = stream.normals(200_001), stream.uniforms(200_000)
    assert len(z) == 200_001
    moments = [float((z**k).mean()) for k in (1, 2, 3, 4)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.05)
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    assert float(u.mean()) == pytest.approx(0.5, abs=0.003)
    fresh = noise.fresh()
    assert not torch.equal(fresh(0).normals(9), fresh(0).normals(9))
    again = [
        noise.repeatable(0, context)(step).normals(9) for context, step in (("a", 0), ("a", 0), ("b", 0), ("a", 1))
    ]
    assert torch.equal(again[0], again[1])
    assert not torch.equal(again[0], again[2])
    assert not torch.equal(again[0], again[3])


def run(folder, patients=None, *, steps=6, stop=None, unsafe_seed=None, sigma=1.0):
    """A training with a checkpoint after every step; `stop` breaks it off there. Returns the weights."""
    net = make(2)

    def through(net, x, step):
        if step == stop:
            raise KeyboardInterrupt
        return net(x), None

    dpsgd.train(
        net, patients or people(3), Settings(steps=steps, lr=0.01), Mechanism(1.0, sigma, 1.0, 3), seed=0, device="cpu",
        precision="float32", loss=loss, through=through, checkpoint=folder / "run.safetensors", checkpoint_every=1,
        unsafe_seed=unsafe_seed,
    )  # fmt: skip
    return flat(params.of(net).values())


def test_a_training_goes_on_from_its_checkpoint(tmp_path):
    """With a fixed seed the numbers are those of a run that never stopped; without noise too."""
    for options in ({"unsafe_seed": 5}, {"sigma": 0.0}):
        name = next(iter(options))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / name, stop=4, **options)
        went_on = run(tmp_path / name, **options)
        torch.testing.assert_close(went_on, run(tmp_path / f"whole {name}", **options), rtol=0, atol=0)


def test_steps_that_are_made_again_get_new_noise(tmp_path):
    """A checkpoint holds no key: two continuations of one and the same checkpoint differ."""
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop=4)
    file = tmp_path / "run.safetensors"
    saved = file.read_bytes()
    kinds, facts = checkpoint.read(file)
    assert kinds.keys() <= {"weights", "buffers", "exp_avg", "exp_avg_sq", "step"}
    assert facts.keys() == {"identity", "step"}
    first = run(tmp_path)
    file.write_bytes(saved)
    assert not torch.equal(first, run(tmp_path))


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    """One voxel of one patient, and a patient less."""
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop=2)
    other = people(3)
    other[1][0][0][0, 0, 0] += 1
    for patients in (other, people(3)[:2]):
        with pytest.raises(ConfigError, match="other data"):
            run(tmp_path, patients)


def test_the_same_seed_gives_other_data_other_noise():
    """Else the difference of two models, with and without a patient, would be that patient's gradient."""
    with_them, without = people(3), people(3)[:2]
    quiet = Mechanism(1.0, 0.0, 1.0, 3)
    loud = Mechanism(1.0, 1.0, 1.0, 3)
    noises = [
        flat(seen(make(2), who, loud, unsafe_seed=5)) - flat(seen(make(2), who, quiet)) for who in (with_them, without)
    ]
    assert abs(float(torch.corrcoef(torch.stack(noises))[0, 1])) < 0.2


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(4), nn.InstanceNorm2d(4, track_running_stats=True)])
def test_layers_that_look_at_several_cases_are_refused(layer):
    """Batch norm, and running statistics of any kind."""
    net = make(2)
    net.norm = layer
    with pytest.raises(NetError, match="'norm'"):
        dpsgd.train(net, people(2), SGD, Mechanism(0.5, 1.0, 1.0, 2), seed=0)


@pytest.mark.parametrize("setting", [{"validate_every": 1}, {"patience": 1}, {"clip_norm": 1.0}, {"ema": 0.9}])
def test_settings_that_would_tell_of_private_cases_are_refused(setting):
    """The sentence names the setting."""
    with pytest.raises(ConfigError, match=next(iter(setting))):
        dpsgd.train(make(2), people(2), Settings(steps=1, lr=0.1, **setting), Mechanism(0.5, 1.0, 1.0, 2), seed=0)


@pytest.mark.parametrize(
    "numbers",
    [
        (0.0, 1.0, 1.0, 1),
        (1.1, 1.0, 1.0, 1),
        (0.5, -1.0, 1.0, 1),
        (0.5, 1.0, 0.0, 1),
        (0.5, 1.0, math.inf, 1),
        (0.5, math.nan, 1.0, 1),
        (0.5, 1.0, 1.0, 0),
    ],
)
def test_impossible_mechanisms_are_refused(numbers):
    """No sum without a bound gets a noise that is called private."""
    with pytest.raises(ConfigError):
        Mechanism(*numbers)
