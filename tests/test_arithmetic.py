"""Task arithmetic and TIES: worked numbers, a plain loop as the oracle, and the laws."""

import itertools

import pytest
import small_nets
import torch

from fedmerge.errors import ConfigError, Refused
from fedmerge.fusion import arithmetic

NAMES = small_nets.FUSABLE
EACH = {
    "task arithmetic": lambda ancestor, models: arithmetic.task_arithmetic(ancestor, models, NAMES, 1.0),
    "ties": lambda ancestor, models: arithmetic.ties(ancestor, models, NAMES, 1.0),
}


def family(T, dtype=torch.float32):
    """An ancestor, and T models that training moved away from it."""
    ancestor = small_nets.weights(seed=100, dtype=dtype)
    far = [small_nets.weights(seed=t, dtype=dtype) for t in range(T)]
    return ancestor, [{name: ancestor[name] + 0.1 * value for name, value in model.items()} for model in far]


def vector(*numbers):
    """Parameters of one tensor."""
    return {"w": torch.tensor(numbers)}


def ties_by_loop(ancestor, models, density, scale):
    """The paper's algorithm in plain Python, number by number over the concatenated names."""
    base = [x for name in NAMES for x in ancestor[name].flatten().tolist()]
    taus = [[x for name in NAMES for x in model[name].flatten().tolist()] for model in models]
    taus = [[x - b for x, b in zip(tau, base)] for tau in taus]
    for tau in taus:
        keep = set(sorted(range(len(tau)), key=lambda i: -abs(tau[i]))[: round(density * len(tau))])
        tau[:] = [x if i in keep else 0.0 for i, x in enumerate(tau)]
    result = []
    for b, column in zip(base, zip(*taus)):
        positive, negative = sum(x for x in column if x > 0), -sum(x for x in column if x < 0)
        sign = (positive > negative) - (positive < negative)
        same = [x for x in column if x * sign > 0]
        result.append(b + scale * (sum(same) / len(same) if same else 0.0))
    return torch.tensor(result, dtype=torch.float64)


def joined(fused):
    """All names as one vector."""
    return torch.cat([fused[name].flatten() for name in NAMES])


def test_task_vectors_are_differences():
    """Model minus ancestor, for the names that are asked for."""
    got = arithmetic.task_vectors({**vector(1.0, 2.0), "head": torch.ones(1)}, [vector(3.0, 1.0)], ["w"])
    assert [list(v) for v in got] == [["w"]]
    assert got[0]["w"].tolist() == [2.0, -1.0]


def test_task_arithmetic_worked_by_hand():
    """Ancestor 1; models 3 and 0 moved by 2 and -1: the sum is 1, and scale 0.5 gives 1.5, scale -1 gives 0."""
    given = (vector(1.0), [vector(3.0), vector(0.0)], ["w"])
    assert arithmetic.task_arithmetic(*given, 0.5)["w"].item() == 1.5
    assert arithmetic.task_arithmetic(*given, -1.0)["w"].item() == 0.0


def test_ties_worked_by_hand():
    """Five numbers, three models, two kept of each.

    Trimmed: (4, 0, -3, 0, 0), (0, 0, 2, 5, 0), (2, 0, 2, 0, 0). The third number: 4 against 3, so the sign is
    plus and the mean is that of 2 and 2. The ancestor is 10 everywhere and the scale 2.
    """
    moved = [(4.0, 1.0, -3.0, 0.5, -0.5), (1.0, -1.0, 2.0, 5.0, 1.0), (2.0, -1.0, 2.0, 1.0, 1.5)]
    models = [vector(*(10 + x for x in tau)) for tau in moved]
    got = arithmetic.ties(vector(*[10.0] * 5), models, ["w"], density=0.4, scale=2.0)
    assert got["w"].tolist() == [16.0, 10.0, 14.0, 20.0, 10.0]


def test_the_trim_is_over_the_whole_vector():
    """A tensor whose every change is small keeps none of them."""
    ancestor = {"large": torch.zeros(2), "small": torch.zeros(2)}
    model = {"large": torch.tensor([5.0, -6.0]), "small": torch.tensor([1.0, 2.0])}
    got = arithmetic.ties(ancestor, [model], ["large", "small"], density=0.5)
    assert got["large"].tolist() == [5.0, -6.0]
    assert got["small"].tolist() == [0.0, 0.0]


def test_a_balanced_sign_leaves_the_ancestors_number():
    """Plus 2 against minus 2 elects nobody."""
    got = arithmetic.ties(vector(7.0), [vector(9.0), vector(5.0)], ["w"], density=1.0)
    assert got["w"].item() == 7.0


@pytest.mark.parametrize("density", [0.05, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("T", [1, 2, 3, 5])
def test_ties_is_its_plain_loop(T, density):
    """On nets, in float64."""
    ancestor, models = family(T, torch.float64)
    got = joined(arithmetic.ties(ancestor, models, NAMES, density, 0.7))
    torch.testing.assert_close(got, ties_by_loop(ancestor, models, density, 0.7), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("T", [2, 3, 5])
def test_task_arithmetic_of_one_share_each_is_the_mean(T):
    """Scale 1/T."""
    ancestor, models = family(T, torch.float64)
    got = arithmetic.task_arithmetic(ancestor, models, NAMES, 1 / T)
    for name in NAMES:
        torch.testing.assert_close(got[name], torch.stack([m[name] for m in models]).mean(0), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("T", [2, 3, 5])
def test_ties_of_full_density_and_one_sign_is_the_mean(T):
    """Where all models moved the same way, nothing is trimmed and nobody is outvoted."""
    ancestor, models = family(T, torch.float64)
    same = [{name: ancestor[name] + (m[name] - ancestor[name]).abs() for name in NAMES} for m in models]
    got = arithmetic.ties(ancestor, same, NAMES, density=1.0)
    for name in NAMES:
        torch.testing.assert_close(got[name], torch.stack([m[name] for m in same]).mean(0), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("each", EACH)
def test_the_order_of_the_models_does_not_matter(each):
    """Bit for bit, in float32."""
    ancestor, models = family(3)
    expected = EACH[each](ancestor, models)
    for order in itertools.permutations(range(3)):
        got = EACH[each](ancestor, [models[t] for t in order])
        assert all(torch.equal(got[name], expected[name]) for name in NAMES)


@pytest.mark.parametrize("each", EACH)
def test_one_model_alone_is_that_model_bit_for_bit(each):
    """Also where float32 cannot hold the difference, and for signed zeros and subnormals."""
    ancestor, (model,) = family(1)
    ancestor["stem.bias"] = torch.tensor([1.0, 0.0, 1e30, -0.0])
    model["stem.bias"] = torch.tensor([1e-42, -0.0, 1e-30, 0.0])
    got = EACH[each](ancestor, [model])
    assert all(torch.equal(got[name].view(torch.int32), model[name].view(torch.int32)) for name in NAMES)


@pytest.mark.parametrize("each", EACH)
def test_a_change_that_one_model_alone_made_is_taken_bit_for_bit(each):
    """The other model stayed at the ancestor in this tensor."""
    ancestor, (model,) = family(1)
    got = EACH[each](ancestor, [{**ancestor, "up.weight": model["up.weight"]}, ancestor])
    assert torch.equal(got["up.weight"], model["up.weight"])
    assert torch.equal(got["down.weight"], ancestor["down.weight"])


def test_the_inputs_are_left_alone():
    """Neither the ancestor nor the models change, and nothing that comes back is one of their tensors."""
    ancestor, models = family(1)
    before = [{name: value.clone() for name, value in own.items()} for own in (ancestor, *models)]
    got = arithmetic.ties(ancestor, models, NAMES, 1.0)
    for name in NAMES:
        got[name].add_(1.0)
    for own, kept in zip((ancestor, *models), before):
        assert all(torch.equal(own[name], kept[name]) for name in own)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda a, m: arithmetic.ties(a, m, NAMES, 0.0), "density expected a number above 0 and up to 1, got 0.0"),
        (lambda a, m: arithmetic.ties(a, m, NAMES, 1.5), "density expected a number above 0 and up to 1, got 1.5"),
        (lambda a, m: arithmetic.ties(a, m, NAMES, 0.2, float("nan")), "scale expected a finite number, got nan"),
        (lambda a, m: arithmetic.task_arithmetic(a, m, NAMES, float("inf")), "scale expected a finite number, got inf"),
        (lambda a, m: arithmetic.task_vectors(a, [], NAMES), "task vectors need models and names, got 0 and 6"),
        (lambda a, m: arithmetic.task_vectors(a, m, NAMES, who=["north"]), "got 1 names and 2 models"),
    ],
)
def test_impossible_choices_are_refused(call, sentence):
    """The sentence says what was expected."""
    with pytest.raises(ConfigError, match=sentence):
        call(*family(2))


def test_models_that_do_not_match_are_refused_with_site_and_tensor():
    """A missing name and another shape; the ancestor's too."""
    ancestor, models = family(2)
    wrong = {**models[1], "up.bias": torch.ones(5)}
    short = {name: value for name, value in ancestor.items() if name != "up.bias"}
    with pytest.raises(Refused, match=r"south: weights\['up.bias'\] expected shape \(4,\), got \(5,\)"):
        arithmetic.ties(ancestor, [models[0], wrong], NAMES, who=["north", "south"])
    with pytest.raises(Refused, match=r"the ancestor: weights\['up.bias'\] is missing"):
        arithmetic.task_arithmetic(short, models, NAMES, 1.0)
