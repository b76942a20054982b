"""Ratios by grain, fusion, and the closed-form gradient, held against formulas and autograd."""

import itertools

import pytest
import torch
from mixes import AXES, NAMES, by_formula, drawn_logits, gradient, ingredients, loss_of, mixed

from fedmerge.errors import ConfigError, Refused
from fedmerge.fusion import METHODS, ROUNDS, expand, fitting, grains, method, mixing, parted, recipe, rules


@pytest.mark.parametrize("grain", ["model", "layer", "kernel"])
@pytest.mark.parametrize("rule", ["mean", "mode"])
@pytest.mark.parametrize("T", [1, 2, 3])
def test_fusing_is_the_formula(grain, rule, T):
    """What was prepared once gives what `rules` gives."""
    mix = mixed(T, rule, grain)
    ratios = mixing.ratios(drawn_logits(mix))
    expected = by_formula(mix, ratios, *ingredients(T))
    got = mixing.fuse(mix, ratios)
    assert tuple(got) == NAMES
    for name in NAMES:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("T", [2, 3])
@pytest.mark.parametrize("grain", ["model", "layer", "kernel"])
@pytest.mark.parametrize("rule", ["mean", "mode"])
@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_the_closed_form_is_autograd(dims, T, grain, rule, kind):
    """The gradient of a real net's loss with respect to the logits, to 1e-10 in float64."""
    mix, loss = mixed(T, rule, grain, dims), loss_of(dims)
    logits = drawn_logits(mix)
    leaves = {group: value.clone().requires_grad_() for group, value in logits.items()}
    spread = {  # the paper's words for it, not those of the library
        group: torch.sigmoid(v) / torch.sigmoid(v).sum(0) if kind == "sigmoid" else v.exp() / v.exp().sum(0)
        for group, v in leaves.items()
    }
    loss(by_formula(mix, spread, *ingredients(T, dims))).backward()
    fused = mixing.fuse(mix, mixing.ratios(logits, kind))
    got = fitting.pull_back(mix, logits, fused, gradient(loss, fused), kind)
    largest = max(leaf.grad.abs().max() for leaf in leaves.values())
    assert largest > 1e-6
    for group, leaf in leaves.items():
        assert (got[group] - leaf.grad).abs().max() <= 1e-10 * largest


def test_a_whole_fit_is_torchs_adam_through_autograd():
    """Twenty steps of both end at the same logits."""
    mix, loss = mixed(2), loss_of(2)
    leaves = {group: value.requires_grad_() for group, value in mixing.zeros(mix).items()}
    adam = torch.optim.Adam(leaves.values(), lr=0.05)
    for _ in range(20):
        adam.zero_grad()
        loss(by_formula(mix, mixing.ratios(leaves), *ingredients(2))).backward()
        adam.step()
    got = fitting.fit(mix, lambda k, fused: gradient(loss, fused), steps=20, lr=0.05)
    for group, leaf in leaves.items():
        torch.testing.assert_close(got[group], leaf.detach(), rtol=1e-8, atol=1e-10)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_fit_on_another_device_comes_back_to_the_models():
    """The same logits up to rounding, where the models are; the fused weights were where the gradients are."""
    mix, wanted = mixed(), mixed(T=1, rule="mean")
    aims = {name: wanted.theta[name][0] for name in wanted.names}
    seen = set()

    def respond(_, fused):
        seen.update(value.device.type for value in fused.values())
        return {name: value - aims[name].to(value.device) for name, value in fused.items()}

    here = fitting.fit(mix, respond, steps=20, lr=0.05)
    there = fitting.fit(mix, respond, steps=20, lr=0.05, device=torch.device("cuda"))
    assert seen == {"cpu", "cuda"}
    torch.testing.assert_close(there, here)


@pytest.mark.parametrize("grain", ["layer", "kernel"])
def test_a_fit_continued_from_a_stored_state_is_the_fit_that_was_not_stopped(grain):
    """Bit for bit, and with fused weights made again or not."""
    mix, loss = mixed(2, grain=grain, dtype=torch.float32), loss_of(2)

    def respond(k, fused):
        return gradient(loss, {name: value.double() for name, value in fused.items()})

    done = []
    whole = fitting.fit(mix, respond, steps=6, lr=0.1, progress=done.append)
    state = fitting.fit_state(mix)
    for k in range(3):
        fused = mixing.fuse(mix, mixing.ratios(fitting.fit_logits(mix, state)))
        state = fitting.fit_step(mix, state, respond(k, fused), 0.1)
    rest = fitting.fit(mix, respond, steps=6, lr=0.1, state=state)
    assert done == [1, 2, 3, 4, 5, 6]
    assert int(state["step"]) == 3
    for group in whole:
        assert whole[group].dtype == torch.float32
        assert torch.equal(whole[group], rest[group])


def test_a_fit_finds_the_model_that_the_target_wants():
    """A loss that is the distance to model 1 drives its ratio up in every layer."""
    mix = mixed(2, "mean", dtype=torch.float32)
    wanted = ingredients(2, dtype=torch.float32)[0][1]
    logits = fitting.fit(mix, lambda k, fused: {name: fused[name] - wanted[name] for name in fused}, steps=200, lr=0.1)
    assert all(a[1] > 0.95 for a in mixing.ratios(logits).values())


@pytest.mark.parametrize("grain", ["model", "layer", "kernel"])
@pytest.mark.parametrize("rule", ["mean", "mode"])
def test_a_single_ratio_returns_that_model_bit_for_bit(grain, rule):
    """Ratios (0, ..., 1, ..., 0) at every grain, in float32."""
    mix = mixed(3, rule, grain, dtype=torch.float32)
    models, _ = ingredients(3, dtype=torch.float32)
    for only in range(3):
        got = mixing.fuse(mix, mixing.given(mix, [float(t == only) for t in range(3)]))
        assert all(torch.equal(got[name], models[only][name]) for name in NAMES)


def test_a_single_ratio_in_one_kernel_takes_that_kernel_only():
    """The other kernels are mixed, along the axis that a transposed conv has its kernels on."""
    mix = mixed(2, grain="kernel", dtype=torch.float32)
    models, _ = ingredients(2, dtype=torch.float32)
    ratios = mixing.uniform(mix)
    ratios["up"][:, 1] = torch.tensor([0.0, 1.0])
    got = mixing.fuse(mix, ratios)["up.weight"]
    assert torch.equal(got[:, 1], models[1]["up.weight"][:, 1])
    assert not torch.equal(got[:, 0], models[1]["up.weight"][:, 0])


@pytest.mark.parametrize("rule", ["mean", "mode"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_models_return_themselves(rule, dtype):
    """Whatever the ratios and Fishers, bit for bit."""
    models, fishers = ingredients(3, dtype=dtype)
    mix = mixing.prepare([models[0]] * 3, fishers if rule == "mode" else None, NAMES, rule=rule, grain="kernel")
    got = mixing.fuse(mix, mixing.ratios(drawn_logits(mix)))
    assert all(torch.equal(got[name], models[0][name]) for name in NAMES)


@pytest.mark.parametrize("rule", ["mean", "mode"])
@pytest.mark.parametrize("grain", ["layer", "kernel"])
def test_another_order_of_the_sites_changes_nothing(rule, grain):
    """4 float32 ulp of the largest operand, 1e-14 of it in float64."""
    for dtype in (torch.float32, torch.float64):
        models, fishers = ingredients(3, dtype=dtype)

        def fused(order, models=models, fishers=fishers):
            chosen = [fishers[t] for t in order] if rule == "mode" else None
            mix = mixing.prepare([models[t] for t in order], chosen, NAMES, rule=rule, grain=grain, axes=AXES)
            logits = {group: value[[*order]] for group, value in drawn_logits(mix).items()}
            return mixing.fuse(mix, mixing.ratios(logits))

        expected = fused((0, 1, 2))
        for order in itertools.permutations(range(3)):
            for name, got in fused(order).items():
                largest = torch.stack([model[name] for model in models]).abs().amax(0)
                ulp = torch.nextafter(largest, torch.tensor(torch.inf, dtype=dtype)) - largest
                limit = 4 * ulp if dtype == torch.float32 else 1e-14 * largest
                assert ((got - expected[name]).abs() <= limit).all()


def test_the_scale_of_a_sites_fisher_changes_nothing():
    """A power of two bit for bit, another factor to rounding."""
    models, fishers = ingredients(2, dtype=torch.float32)

    def fused(factor):
        scaled = [fishers[0], {name: value * factor for name, value in fishers[1].items()}]
        mix = mixing.prepare(models, scaled, NAMES)
        return mixing.fuse(mix, mixing.ratios(drawn_logits(mix)))

    for name, expected in fused(1.0).items():
        assert torch.equal(fused(2.0**-20)[name], expected)
        torch.testing.assert_close(fused(1234.5)[name], expected, rtol=1e-6, atol=1e-6)


def test_ratios_are_positive_and_sum_to_one_even_of_wild_logits():
    """Normalised sigmoids neither overflow nor divide zero by zero."""
    logits = {"a": torch.tensor([-300.0, -301.0]), "b": torch.tensor([300.0, -300.0]), "c": torch.zeros(2)}
    got = mixing.ratios(logits)
    torch.testing.assert_close(got["a"], torch.tensor([0.7310586, 0.2689414]))
    assert got["b"].tolist() == [1.0, 0.0]
    assert got["c"].tolist() == [0.5, 0.5]
    worked = mixing.ratios({"a": torch.tensor([1.0, -2.0])})["a"]
    assert worked.tolist() == pytest.approx([0.8598, 0.1402], abs=1e-4)  # .7311 and .1192, divided by .8503
    assert mixing.ratios({"a": torch.tensor([1.0, -2.0])}, "softmax")["a"][0].item() == pytest.approx(0.95257, abs=1e-5)


def test_grains_share_ratios_as_they_say():
    """One group for the model, one for each layer, a ratio for each output kernel."""
    shapes = {grain: {g: tuple(v.shape) for g, v in mixing.zeros(mixed(2, grain=grain)).items()}
              for grain in grains.GRAINS}  # fmt: skip
    assert shapes["model"] == {"model": (2,)}
    assert shapes["layer"] == {"stem": (2,), "down": (2,), "up": (2,)}
    assert shapes["kernel"] == {"stem": (2, 4), "down": (2, 6), "up": (2, 4)}


def test_tensors_of_a_layer_that_count_kernels_differently_have_groups_of_their_own():
    """The weight of a grouped transposed conv (axis 1) and its bias; a scalar is one kernel."""
    models = [{"up.weight": torch.randn(4, 2, 3), "up.bias": torch.randn(8), "scale": torch.tensor(2.0)}] * 2
    mix = mixing.prepare(models, None, list(models[0]), rule="mean", grain="kernel", axes={"up.weight": 1})
    assert mix.kernels == {"up.weight": 2, "up.bias": 8, "scale": 1}
    got = mixing.fuse(mix, mixing.uniform(mix))
    assert all(torch.equal(got[name], value) for name, value in models[0].items())


def test_given_ratios_are_scaled_to_sum_one():
    """1 and 3 are a quarter and three quarters, in every group."""
    mix = mixed(2, grain="kernel")
    got = mixing.given(mix, [1, 3])
    assert got["down"].shape == (2, 6)
    assert got["down"][:, 5].tolist() == [0.25, 0.75]
    assert mixing.uniform(mix)["up"].unique().tolist() == [0.5]


def test_random_logits_are_a_function_of_the_generator():
    """The same seed gives the same, another one does not."""
    mix = mixed(2)
    assert torch.equal(drawn_logits(mix, 1)["up"], drawn_logits(mix, 1)["up"])
    assert not torch.equal(drawn_logits(mix, 1)["up"], drawn_logits(mix, 2)["up"])


def without(params, name):
    """All but one."""
    return {key: value for key, value in params.items() if key != name}


def test_models_that_do_not_match_are_refused_with_site_and_tensor():
    """Missing names, other shapes and whole numbers; in weights and in Fishers."""
    models, fishers = ingredients(2)
    who = ["north", "south"]
    wrong = {**models[1], "up.bias": torch.ones(5)}
    whole = {**models[1], "up.bias": torch.ones(4, dtype=torch.long)}
    for second, fisher_of_second, sentence in [
        (without(models[1], "stem.bias"), fishers[1], r"south: weights\['stem.bias'\] is missing"),
        (wrong, fishers[1], r"south: weights\['up.bias'\] expected shape \(4,\), got \(5,\)"),
        (whole, fishers[1], r"south: weights\['up.bias'\] expected a float dtype, got torch.int64"),
        (models[1], without(fishers[1], "up.weight"), r"south: fisher\['up.weight'\] is missing"),
        (models[1], {**fishers[1], "up.bias": -torch.ones(4)}, r"south: fisher\['up.bias'\] expected no negative"),
        (models[1], {name: 0 * f for name, f in fishers[1].items()}, "south: the whole Fisher is zero"),
    ]:
        with pytest.raises(Refused, match=sentence):
            mixing.prepare([models[0], second], [fishers[0], fisher_of_second], NAMES, who=who)


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({"rule": "median"}, "rule expected one of mean, mode, got 'median'"),
        ({"grain": "voxel"}, "grain expected one of model, layer, kernel, got 'voxel'"),
        ({"fishers": None}, "rule mode needs the sites' Fishers"),
        ({"names": []}, "needs models and names, got 2 and 0"),
    ],
)
def test_impossible_choices_are_refused(choice, sentence):
    """The sentence says what is known."""
    models, fishers = ingredients(2)
    asked = {"fishers": fishers, "names": NAMES, "rule": "mode", "grain": "layer", **choice}
    with pytest.raises(ConfigError, match=sentence):
        mixing.prepare(models, asked.pop("fishers"), asked.pop("names"), **asked)


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_impossible_given_ratios_are_refused(weights):
    """One non-negative number a site, not all zero."""
    with pytest.raises(ConfigError, match="ratios expected"):
        mixing.given(mixed(2), weights)


def test_ratios_from_elsewhere_are_checked():
    """Groups, shapes, signs and sums; the sentence names site and group."""
    mix = mixed(2)
    good = mixing.uniform(mix)
    mixing.check_ratios(mix, good, "harbour")
    for bad, sentence in [
        (without(good, "up"), "harbour: ratios of 'up' are missing"),
        ({**good, "roof": good["up"]}, "harbour: ratios of 'roof' are unknown"),
        ({**good, "up": torch.ones(3) / 3}, r"harbour: ratios of 'up' expected shape \(2,\), got \(3,\)"),
        ({**good, "up": torch.tensor([1.5, -0.5])}, "harbour: ratios of 'up' expected non-negative"),
        ({**good, "up": torch.tensor([0.5, torch.nan])}, "harbour: ratios of 'up' expected non-negative"),
        ({**good, "up": torch.tensor([0.5, 0.6])}, "harbour: ratios of 'up' expected non-negative"),
    ]:
        with pytest.raises(Refused, match=sentence):
            mixing.check_ratios(mix, bad, "harbour")


def test_a_gradient_that_does_not_fit_is_refused():
    """The sentence names the tensor."""
    mix = mixed(2)
    logits = mixing.zeros(mix)
    fused = mixing.fuse(mix, mixing.ratios(logits))
    with pytest.raises(Refused, match=r"gradient of 'up.bias' expected shape \(4,\), got none"):
        fitting.pull_back(mix, logits, fused, without(fused, "up.bias"))
    with pytest.raises(Refused, match=r"gradient of 'up.bias' expected shape \(4,\), got \(1,\)"):
        fitting.pull_back(mix, logits, fused, {**fused, "up.bias": torch.ones(1)})


def test_the_table_of_methods_holds_together():
    """Whoever fuses has a rule and a grain of `mixing`; whoever fits adapts."""
    for name, row in METHODS.items():
        assert row.name == name
        assert row.grain in grains.GRAINS
        assert (row.rule in {**rules.RULES, **recipe.COMBINED}) == (row.sources == "all")
        assert row.warm_up or not row.fits
        assert (row.training in ROUNDS) == (row.sources == "rounds")
        assert row.soup in ("", "greedy", "gou", "gog")


def test_options_follow_a_name():
    """Each changes one choice; stitched heads are trained, so nothing is warmed up but with a fit."""
    row = method("lwf+stitch+wise-ft", ["north"])
    assert (row.name, row.heads, row.wise_ft, row.warm_up) == ("lwf+stitch+wise-ft", "stitched", True, False)
    assert method("imm-mode+warm-up+ema", ["north"]).ema
    assert method("t-imm+stitch", ["north"]).warm_up
    assert [row.site for row in expand(["transfer+ema"], ["north", "south"])] == ["north", "south"]
    assert method("mean+merge-norm", ["north"]).norms == "merged"
    few = method("imm-mode+warm-up:west/north+ema", ["north", "south", "west"])
    assert (few.only, few.ema, few.warm_up) == (("north", "west"), True, True)


def test_methods_are_known_by_name():
    """A plain transfer is one row for each source; order is kept and nothing comes twice."""
    rows = expand(["t-imm", "transfer", "none", "transfer:south", "t-imm"], ["north", "south"])
    assert [row.name for row in rows] == ["t-imm", "transfer:north", "transfer:south", "none"]
    assert rows[2].site == "south"


def test_a_chain_of_some_sources_is_a_way_of_its_own():
    """In the order of the plan; a chain of all is the plain one."""
    sites = ("north", "south", "west")
    some = method("lwf:west/north+stitch", sites)
    assert (some.only, some.way) == (("north", "west"), "lwf[north/west]")
    assert parted(some.way) == ("lwf", ("north", "west"))
    whole = method("lwf:south/west/north", sites)
    assert (whole.only, whole.way, parted("lwf")) == ((), "lwf", ("lwf", ()))
    assert method("t-imm:west/north", sites).way == "plain"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("timm", "method 'timm' is unknown; the known ones are none, transfer, pooled, mean"),
        ("transfer:harbour", "'transfer:harbour' expected one of the sources north, south, got 'harbour'"),
        ("mean:north/north", "expected sources of north, south, each once, got 'north'"),
        ("t-imm:east", "expected sources of north, south, each once, got 'east'"),
        ("fedavg:north", "'fedavg' takes no site"),
        ("mean+stich", r"the option '\+stich' is unknown; there are \+stitch, \+keep-norm"),
        ("mean+ema+ema", r"has the option '\+ema' twice"),
        ("none+stitch", "there are no sources' heads to stitch"),
        ("none+keep-norm", "there are no norm parameters to keep"),
        ("lwf+merge-norm", "norm parameters are merged where models are"),
        ("t-imm+merge-norm", "norm parameters train while ratios are fitted"),
        ("transfer:north+admit", "no sources' models are merged, so none has to be admitted"),
        ("lwf+admit", "no sources' models are merged"),
        ("auto+ema", "'auto' chooses its options itself"),
    ],
)
def test_unknown_methods_are_refused(name, sentence):
    """The sentence lists what is known."""
    with pytest.raises(ConfigError, match=sentence):
        method(name, ["north", "south"])
