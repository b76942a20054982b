"""What the relay holds is uniform noise, and no artefact is opened twice: the attacks, and what stops them."""

import numpy as np
import pytest
import torch
from made_masks import NAMES, ancestor, form, model, opened, relay, send

from fedmerge.errors import Refused
from fedmerge.privacy import fixed, masking, message
from fedmerge.privacy.hello import UNIT

SMALL = {"a.weight": (40, 3), "a.bias": (5,)}
# largest to smallest weight, none above half: three equations that differ
WEIGHTS = [dict(zip(NAMES, (UNIT // a, UNIT // b, UNIT // c))) for a, b, c in ((1, 1, 1), (2, 4, 3), (4, 2, 3))]


def chi_square(words):
    """Of the 256 values of a byte against equal chances; about 255 for noise, with a standard deviation of 23."""
    counts = np.bincount(np.ascontiguousarray(words).view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    return float(((counts - expected) ** 2 / expected).sum())


def correlation(words, clear):
    """In standard deviations of noise, by the signed numbers."""
    r = np.corrcoef(words.view(np.int64).astype(float), clear.view(np.int64).astype(float))[0, 1]
    return float(abs(r) * np.sqrt(len(words)))


def noise(words, clear):
    """Whether the words look like noise that knows nothing of the clear ones: 4 standard deviations both times."""
    return chi_square(words) < 255 + 4 * 23 and correlation(words, clear) < 4


def test_what_the_relay_holds_is_noise(tmp_path):
    """Each message and their sum; the keys are fixed, so the numbers are. Unmasked, and half masked, the test fails."""
    began = ancestor()
    made, models = form(tmp_path), {name: model(name, began) for name in NAMES}
    total = np.array(message.read(relay(made, models)).words)
    clear = {}
    for name, own in models.items():
        weights = {key: own.weights[key] for key in began}
        clear[name] = np.concatenate(list(fixed.encode(weights, own.fisher, began, weight=UNIT, members=3, who=name)))
        words = np.array(message.read(send(made, name, own)).words)
        assert noise(words, clear[name])
        assert not noise(clear[name], clear[name])
    bare = sum(clear.values())
    assert noise(total, bare)
    assert not noise(bare, bare)
    half = total.copy()
    half[: len(half) // 2] = bare[: len(half) // 2]
    assert not noise(half, bare)


def test_every_pair_of_messages_is_noise_without_the_third(tmp_path):
    """What the target has of a part of the group, its own streams taken off, is still noise."""
    began = ancestor()
    made, models = form(tmp_path), {name: model(name, began) for name in NAMES}
    minus = {
        one.name: masking._key(made.target_key, one, "target", one.name, "harbour", made.transcript)
        for one in made.transcript.members
    }
    words = {name: np.array(message.read(send(made, name, own)).words) for name, own in models.items()}
    bare = {}
    for name, own in models.items():
        for start in range(0, len(words[name]), fixed.SLAB):
            here = words[name][start : start + fixed.SLAB]
            here -= masking.stream(minus[name], start, len(here))
        weights = {key: own.weights[key] for key in began}
        bare[name] = np.concatenate(list(fixed.encode(weights, own.fisher, began, weight=UNIT, members=3, who=name)))
    for pair in (NAMES[:2], NAMES[1:], (NAMES[0], NAMES[2])):
        assert noise(sum(words[name] for name in pair), sum(bare[name] for name in pair))
    assert (sum(words.values()) == sum(bare.values())).all()


def solve(sums, weights):
    """The attack: linear equations in the sites' F and F (theta - ancestor), one for each opened sum.

    Args:
        sums: what was opened, one `Opened` for each list of weights.
        weights: site -> weight, for each of the sums.

    Returns:
        site -> name -> what theta - ancestor must have been.
    """
    A = torch.tensor([[row[name] / UNIT for name in NAMES] for row in weights]).double()
    found = {name: {} for name in NAMES}
    for key in sums[0].numerator:
        top = torch.stack([one.numerator[key].reshape(-1) for one in sums])
        bottom = torch.stack([one.denominator[key].reshape(-1) for one in sums])
        moved = torch.linalg.solve(A, top) / torch.linalg.solve(A, bottom)
        for name, value in zip(NAMES, moved):
            found[name][key] = value.reshape(sums[0].numerator[key].shape)
    return found


def worst(found, began, models):
    """The largest error of the solved weights over all sites, of each tensor's largest difference."""
    return max(
        ((found[name][key] - (own.weights[key] - began[key])).abs().max() / found[name][key].abs().max()).item()
        for name, own in models.items()
        for key in began
    )


def test_the_attack_reads_every_site_from_sums_that_are_opened_more_than_once(tmp_path):
    """With sites that forget their ledgers: three sums of one artefact each give all three models."""
    began = ancestor(SMALL)
    models = {name: model(name, began) for name in NAMES}
    sums = [opened(form(tmp_path / str(k), began=began, weights=row), models) for k, row in enumerate(WEIGHTS)]
    assert worst(solve(sums, WEIGHTS), began, models) < 1e-4


@pytest.mark.parametrize(
    "second", [{"weights": WEIGHTS[1]}, {"weights": WEIGHTS[1], "group": "g2"}, {"weights": WEIGHTS[1], "run": "r2"}]
)
def test_the_ledger_gives_the_attack_no_second_equation(tmp_path, second):
    """The same attack against sites that keep their ledgers: each of them refuses, by whatever name the second goes."""
    began = ancestor(SMALL)
    models = {name: model(name, began) for name in NAMES}
    first = form(tmp_path, began=began)
    sums = [opened(first, models)]
    again = form(tmp_path, began=began, **second)
    for name, own in models.items():
        with pytest.raises(Refused, match="enters one sum only"):
            send(again, name, own)
    with pytest.raises(RuntimeError):  # one equation for three unknowns
        solve(sums, WEIGHTS[:1])


def test_other_company_is_a_second_equation_too(tmp_path):
    """A newcomer in the place of one member: those who have sent refuse, and the newcomer's message alone is noise."""
    began = ancestor(SMALL)
    models = {name: model(name, began) for name in (*NAMES, "west")}
    opened(form(tmp_path, began=began), {name: models[name] for name in NAMES})
    other = form(tmp_path, began=began, weights=dict.fromkeys(("east", "north", "west"), UNIT), group="g2")
    for name in ("east", "north"):
        with pytest.raises(Refused, match="enters one sum only"):
            send(other, name, models[name])
    path = send(other, "west", models["west"])
    with pytest.raises(Refused, match="without east, north"):
        masking.open_sum(path, other.transcript, other.target_key, began)
