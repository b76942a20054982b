"""What a set of scored cases amounts to, against counts written out as loops."""

import random

import pytest

from fedmerge import evaluation, measures
from fedmerge.errors import Refused


def counted(truth, prediction, name):
    """F1 from precision and recall, counted case by case."""
    hits = wrong = missed = 0
    for t, p in zip(truth, prediction):
        if t == name and p == name:
            hits += 1
        elif p == name:
            wrong += 1
        elif t == name:
            missed += 1
    if hits == 0:
        return 0.0
    precision, recall = hits / (hits + wrong), hits / (hits + missed)
    return 2 * precision * recall / (precision + recall)


def cases(truth, prediction):
    """Scored cases."""
    return [{"case": str(k), "truth": t, "prediction": p} for k, (t, p) in enumerate(zip(truth, prediction))]


@pytest.mark.parametrize("seed", range(5))
def test_f1_is_the_harmonic_mean_of_precision_and_recall(seed):
    """Of each class; the macro F1 is their plain mean, accuracy the share of right answers."""
    draw = random.Random(seed)
    truth, prediction = (draw.choices("abcd", weights=[9, 5, 2, 1], k=30) for _ in range(2))
    names = sorted({*truth, *prediction})
    expected = {name: counted(truth, prediction, name) for name in names}
    scored = cases(truth, prediction)
    assert measures.F1.labels(scored) == pytest.approx(expected)
    numbers = measures.F1.numbers(scored)
    assert numbers["f1"] == pytest.approx(sum(expected.values()) / len(names))
    assert numbers["accuracy"] == sum(t == p for t, p in zip(truth, prediction)) / 30


def test_f1_worked_by_hand():
    """A class that is never found and one that is only guessed have 0; one that is nowhere is not counted."""
    assert measures.f1(["a", "a", "b"], ["a", "c", "a"]) == {"a": 0.5, "b": 0.0, "c": 0.0}
    assert measures.F1.numbers([]) == {"f1": None, "accuracy": None}


DICE = [{"case": "1", "dice": {"x": 0.5, "y": None}}, {"case": "2", "dice": {"x": 1.0, "y": 0.25}}]


@pytest.mark.parametrize(
    ("measure", "scored"), [(measures.DICE, DICE), (measures.F1, cases("aabbc", "abbbb"))], ids=["dice", "f1"]
)
def test_one_record_for_all_cases_says_the_same_of_each_label(measure, scored):
    """What leaves a site that keeps single cases at home has the labels' numbers, and those of the set."""
    together = measure.together(scored)
    assert together["case"] == "all"
    assert measure.labels([together]) == measure.labels(scored)
    for key in measure.more:
        assert measure.numbers([together])[key] == measure.numbers(scored)[key]
    measure.check([together], "north")


def test_dice_is_the_mean_over_cases_of_the_mean_over_labels():
    """As `evaluation.mean_dice` has it; a label's is the mean over the cases that show it."""
    assert measures.DICE.numbers(DICE) == {"dice": evaluation.mean_dice(case["dice"] for case in DICE)}
    assert measures.DICE.labels(DICE) == {"x": 0.75, "y": 0.25}


@pytest.mark.parametrize(
    ("measure", "scored", "got"),
    [
        (measures.DICE, cases("ab", "ab"), "case, prediction, truth"),
        (measures.F1, DICE, "case, dice"),
        (measures.F1, [*cases("a", "b"), {"case": "all", "f1": {}, "accuracy": 1.0}], "accuracy, case, f1"),
    ],
)
def test_cases_that_are_scored_in_another_way_are_refused(measure, scored, got):
    """A site that answers with another task's scores costs itself the row."""
    with pytest.raises(Refused, match=f"^north: expected cases scored by {measure.name}, got {got}$"):
        measure.check(scored, "north")
