"""The training loop: exact resume, the best epoch, and runs that do not notice each other."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from fedmerge import checkpoint, losses, nets, params, schedules
from fedmerge.errors import ConfigError, NetError
from fedmerge.training import Run, Settings, train

NET = {"name": "isensee2017", "dims": 2, "base_filters": 4, "depth": 3, "dropout": 0.3}
SETTINGS = Settings(steps=12, lr=5e-3, schedule="linear", clip_norm=1.0, weight_decay=0.01, validate_every=4)


def net(seed=0, **changes):
    """A small net with dropout."""
    return nets.build({**NET, **changes}, in_channels=1, out_channels=3, seed=seed)


def batches(step):
    """Two noisy images of two squares, drawn from the step alone."""
    g = torch.Generator().manual_seed(step)
    y = torch.zeros(2, 1, 16, 24, dtype=torch.long)
    y[..., 2:8, 3:9], y[..., 9:14, 12:20] = 1, 2
    return y + 0.3 * torch.randn(y.shape, generator=g), y


def score(model):
    """A validation score that depends on the weights alone, and wants an evaluated net without gradients."""
    assert not model.training
    assert not torch.is_grad_enabled()
    x, y = batches(1000)
    return (model(x).argmax(1, keepdim=True) == y).double().mean().item()


def run(model=None, settings=SETTINGS, **changes):
    """A run with everything on: dropout, schedule, clipping, validation, two rates."""
    model = net() if model is None else model
    rates = {name: 1e-2 if "norm" in name else settings.lr for name, _ in model.named_parameters()}
    options = {"seed": 3, "rates": rates, "validate": score, "precision": "float32", **changes}
    return Run(model, batches, settings, **options)


def told(history):
    """A history without its times."""
    return [replace(r, seconds=0) for r in history.records], history.best_step, history.steps


def same(one, two):
    """Equal bit for bit."""
    return params.digest(params.of(one)) == params.digest(params.of(two))


@pytest.fixture(scope="module")
def whole():
    """A run that never stopped."""
    uninterrupted = run()
    uninterrupted.advance(12)
    last = params.digest(params.of(uninterrupted.net))
    return uninterrupted, last, uninterrupted.finish()


def test_the_loss_falls(whole):
    """And the records say so."""
    losses = [r.loss for r in whole[2].records if r.loss is not None]
    assert losses[-1] < 0.8 * losses[0]


def test_many_calls_do_what_one_call_does(whole):
    """advance(1), advance(2), ... leave the weights and the records of advance(12)."""
    stepwise = run()
    for step in range(1, 13):
        stepwise.advance(step)
        assert stepwise.step == step
    assert params.digest(params.of(stepwise.net)) == whole[1]
    assert told(stepwise.finish()) == told(whole[2])


@pytest.mark.parametrize("stop", [0, 1, 6, 8, 11, 12])
def test_a_resumed_run_is_the_uninterrupted_one(whole, tmp_path, stop):
    """Stopped anywhere, with dropout, between validations or at one: same weights, same records, same best."""
    first = run()
    first.advance(stop)
    first.save(tmp_path / "run.safetensors")
    torch.manual_seed(stop)
    second = run(net(seed=99))
    second.restore(tmp_path / "run.safetensors")
    assert second.step == stop
    second.advance(12)
    assert params.digest(params.of(second.net)) == whole[1]
    assert told(second.finish()) == told(whole[2])
    assert same(second.net, whole[0].net)


def test_training_goes_on_from_its_last_checkpoint(whole, tmp_path):
    """A run that dies after step 9 leaves the checkpoint of step 8; calling `train` again ends as if it had not."""
    path = tmp_path / "run.safetensors"
    options = {"seed": 3, "rates": run().settings.rates(dict(net().named_parameters())), "validate": score}
    options |= {"precision": "float32", "checkpoint": path, "checkpoint_every": 4}
    asked = []

    def dying(step):
        asked.append(step)
        if step == 9 and len(asked) <= 10:
            raise RuntimeError("power cut")
        return batches(step)

    with pytest.raises(RuntimeError, match="power cut"):
        train(net(), dying, SETTINGS, **options)
    again, never = net(), net()
    resumed = train(again, dying, SETTINGS, **options)
    assert asked[10:] == [8, 9, 10, 11]
    straight = train(never, batches, SETTINGS, **{**options, "checkpoint": None})
    assert told(resumed) == told(straight)
    assert same(again, never)


def test_runs_in_threads_give_the_numbers_of_runs_in_turn(whole):
    """Dropout draws from the run's own generator, so neither thread disturbs the other."""
    torch.set_num_threads(1)

    def work(seed):
        own = run(seed=seed)
        own.advance(12)
        return params.digest(params.of(own.net)), told(own.finish())

    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(work, [3, 4]))
    assert together == [work(3), work(4)]
    assert together[0] != together[1]


def test_random_numbers_of_the_caller_are_left_alone():
    """The global generator is neither read nor advanced."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = run()
    one.advance(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_best_epoch_is_kept():
    """Scores 0.1, 0.9, 0.3, 0.9 after 0, 4, 8 and 12 steps: the weights of step 4, the first of equals."""
    scores, seen = iter([0.1, 0.9, 0.3, 0.9]), []

    def validate(model):
        seen.append(params.digest(params.of(model)))
        return next(scores)

    one = run(validate=validate)
    one.advance(12)
    history = one.finish()
    assert [(r.step, r.validation) for r in history.records] == [(0, 0.1), (4, 0.9), (8, 0.3), (12, 0.9)]
    assert history.best_step == 4
    assert params.digest(params.of(one.net)) == params.digest(one.best()) == seen[1]


def test_without_validation_the_last_weights_are_kept():
    """And they are what `best` returns."""
    one = run(validate=None)
    one.advance(12)
    last = params.digest(params.of(one.net))
    assert one.finish().best_step == 12
    assert params.digest(params.of(one.net)) == params.digest(one.best()) == last


def test_patience_ends_a_run_that_no_longer_improves():
    """Best at step 2, nothing better at 4 and 6: patience 2 ends it there, and `finish` validates no more."""
    scores = iter([0.1, 0.9, 0.3, 0.9])
    one = run(settings=replace(SETTINGS, validate_every=2, patience=2), validate=lambda _: next(scores))
    one.advance(12)
    history = one.finish()
    assert (one.stopped, history.steps, history.best_step) == (True, 6, 2)
    one.advance(12)
    assert one.step == 6


def test_validation_sees_what_the_caller_put_into_the_net():
    """Weights loaded between two calls are validated by the next one, and by `finish`."""
    seen = []
    one = run(settings=replace(SETTINGS, steps=2, validate_every=1), validate=lambda m: seen.append(mark(m)) or 0.0)
    for step in range(2):
        params.load(one.net, {"stem.weight": torch.full((4, 1, 3, 3), float(step))})
        one.advance(step + 1)
    params.load(one.net, {"stem.weight": torch.full((4, 1, 3, 3), 7.0)})
    one.finish()
    assert seen == [0.0, 1.0, 7.0]


def mark(model):
    """One weight of the stem."""
    return model.stem.weight[0, 0, 0, 0].item()


def test_only_what_has_a_rate_is_trained_and_what_is_watched_has_a_gradient():
    """Heads train, the stem is watched, the rest has neither; afterwards everything is free again."""
    model = net()
    before = params.of(model)
    heads = nets.heads(NET, in_channels=1, out_channels=3)
    one = run(model, rates=dict.fromkeys(heads, 1e-2), watch=["stem.weight"])
    one.advance(2)
    after = params.of(model)
    assert {n for n in before if not torch.equal(before[n], after[n])} == set(heads)
    own = dict(model.named_parameters())
    assert {n for n, p in own.items() if p.grad is not None} == {*heads, "stem.weight"}
    one.finish()
    assert all(p.requires_grad and p.grad is None for p in own.values())


def test_the_watched_gradient_is_that_of_the_last_step():
    """It is the gradient of the step's batch alone, as a plain backward pass gives it."""
    model, oracle = net(dropout=0.0), net(dropout=0.0)
    one = run(model, rates={"heads.0.conv.bias": 1e-30}, watch=["stem.weight"], validate=None)
    one.advance(2)
    x, y = batches(1)
    losses.dice_ce()(oracle.train()(x), y).backward()
    torch.testing.assert_close(dict(model.named_parameters())["stem.weight"].grad, oracle.stem.weight.grad)


def test_each_parameter_has_its_own_rate_times_the_schedule():
    """AdamW's first step is lr * sign(gradient), up to its epsilon: 0.01 and 0.001 at constant rate."""
    model = net()
    before = params.of(model)
    rates = {"heads.0.conv.bias": 0.01, "heads.1.conv.bias": 0.001}
    one = run(model, Settings(steps=1, lr=1.0), rates=rates)
    one.advance(1)
    after = params.of(model)
    for name, lr in rates.items():
        torch.testing.assert_close((after[name] - before[name]).abs(), torch.full((3,), lr), rtol=1e-2, atol=0)


def test_records_tell_the_rate_of_the_schedule():
    """Twelve steps, linear down to a tenth of 0.01, the highest rate: at steps 0, 4, 8 and 12."""
    one = run()
    one.advance(12)
    wanted = [0.01 * schedules.factor("linear", step, 12) for step in (0, 4, 8, 12)]
    assert [r.lr for r in one.finish().records] == pytest.approx(wanted)


def test_progress_hears_every_record():
    """Without validation there are records too: one every third step here, and one at the end."""
    heard = []
    settings = replace(SETTINGS, steps=7, validate_every=0, record_every=3)
    history = train(net(), batches, settings, seed=0, progress=heard.append)
    assert tuple(heard) == history.records
    assert [r.step for r in heard] == [3, 6, 7]
    assert all(r.validation is None and r.loss > 0 for r in heard)


def test_a_record_has_the_mean_loss_since_the_last_one():
    """A loss that counts 1, 2, 3, 4, 5, 6: means 2 and 5 of three each."""
    count = iter(range(1, 7))

    def loss(logits, labels):
        return logits.sum() * 0 + next(count)

    history = train(net(), batches, Settings(steps=6, lr=1e-3, record_every=3), seed=0, loss=loss)
    assert [r.loss for r in history.records] == [2.0, 5.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run(bad):
    """The sentence has the loss and the step."""
    with pytest.raises(NetError, match=rf"the loss is {bad} after 2 steps"):
        train(net(), batches, Settings(steps=4, lr=1e-3, record_every=2), seed=0, loss=lambda a, _: a.sum() * 0 + bad)


def test_no_steps_leave_the_net_as_it_was():
    """A budget of zero: one validation, the same weights."""
    model = net()
    before = params.digest(params.of(model))
    history = train(model, batches, replace(SETTINGS, steps=0), seed=0, validate=score)
    assert params.digest(params.of(model)) == before
    assert [(r.step, r.loss) for r in history.records] == [(0, None)]


@pytest.mark.parametrize("name", ["unet", "segresnet", "dynunet"])
def test_every_net_resumes_exactly_in_bfloat16_too(tmp_path, name):
    """MONAI's nets, their dropout, autocast: four steps in one go are two and two."""
    settings = {"name": name, "dims": 3, "base_filters": 4, "depth": 3, "dropout": 0.2}

    def cubes(step):
        # a first axis of 16 leaves 4 at the coarsest level: see devices.gradients_are_right
        x = torch.randn(1, 1, 16, 8, 12, generator=torch.Generator().manual_seed(step))
        return x, (x > 0.5).long()

    def start(seed):
        model = nets.build(settings, in_channels=1, out_channels=2, seed=seed)
        return Run(model, cubes, Settings(steps=4, lr=1e-3), seed=0, precision="bfloat16")

    one, first, second = start(0), start(0), start(1)
    one.advance(4)
    first.advance(2)
    first.save(tmp_path / "x")
    second.restore(tmp_path / "x")
    second.advance(4)
    assert same(one.net, second.net)
    assert all(p.dtype == torch.float32 for p in one.net.parameters())


@pytest.mark.parametrize(
    "other",
    [
        lambda: run(seed=4),
        lambda: run(settings=replace(SETTINGS, lr=1e-4)),
        lambda: run(net(base_filters=2)),
        lambda: run(rates={"stem.weight": 1e-3}),
    ],
)
def test_the_checkpoint_of_another_run_is_refused(tmp_path, other):
    """Another seed, other settings, another net, other rates: going on would be neither run."""
    run().save(tmp_path / "run.safetensors")
    with pytest.raises(ConfigError, match=r"run\.safetensors was saved with another net, seed or other settings"):
        other().restore(tmp_path / "run.safetensors")


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}      ", b"not a checkpoint at all"])
def test_a_damaged_checkpoint_is_named(tmp_path, content):
    """Empty, foreign or cut off: the sentence has the file."""
    path = tmp_path / "run.safetensors"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"run\.safetensors (cannot be read|is not a checkpoint)"):
        run().restore(path)


def test_a_checkpoint_gives_back_what_it_was_given(tmp_path):
    """Kinds, names with dots and slashes, dtypes, values and facts; nothing else stays in the folder."""
    kinds = {"weights": {"a.b": torch.arange(3.0)}, "best": {"x/y": torch.ones((), dtype=torch.float64)}}
    facts = {"score": -math.inf, "third": 1 / 3, "list": [1, None]}
    checkpoint.write(tmp_path / "deep" / "c.safetensors", kinds, facts)
    got, said = checkpoint.read(tmp_path / "deep" / "c.safetensors")
    assert said == facts
    assert got.keys() == kinds.keys()
    assert torch.equal(got["weights"]["a.b"], kinds["weights"]["a.b"])
    assert got["best"]["x/y"].dtype == torch.float64
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["c.safetensors"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schedule": "step"}, "schedule expected one of constant, .* got 'step'"),
        ({"lr": 0.0}, "lr expected a positive number, got 0.0"),
        ({"lr": math.nan}, "lr expected a positive number, got nan"),
        ({"steps": -1}, "steps expected 0 or more, got -1"),
        ({"batch_size": 0}, "batch_size expected a positive number, got 0"),
    ],
)
def test_impossible_settings_are_named(changes, says):
    """The sentence has the setting and what came."""
    with pytest.raises(ConfigError, match=says):
        replace(SETTINGS, **changes)


def test_names_that_are_not_the_nets_are_refused():
    """Trained or watched, a wrong name is told; so is nothing to train."""
    with pytest.raises(NetError, match=r"no parameter 'stem\.bias' to train or watch"):
        run(rates={"stem.bias": 1e-3})
    with pytest.raises(NetError, match="no parameter 'body' to train or watch"):
        run(watch=["body"])
    with pytest.raises(ConfigError, match="nothing is to be trained"):
        run(rates={})


def test_specific_parameters_may_have_a_rate_of_their_own():
    """`specific_lr` for S, `lr` for the rest, `lr` for all when it is not given."""
    assert replace(SETTINGS, specific_lr=0.5).rates(["a", "b"], ["b"]) == {"a": 5e-3, "b": 0.5}
    assert SETTINGS.rates(["a", "b"], ["b"]) == {"a": 5e-3, "b": 5e-3}
