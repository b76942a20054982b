"""What a set of scored cases amounts to, measure by measure: the numbers of a row, of a label, and of one case.

A scored case says by its keys which measure it belongs to, and so does a row of `results.json`:

    {"case": "sub-01", "dice": {"anterior": 0.83}}                     Dice
    {"case": "cyst/07", "truth": "cyst", "prediction": "ring"}         F1
    {"case": "all", "f1": {"cyst": 0.7, "ring": 0.8}, "accuracy": 0.7}     F1, where single cases stay at home

Beside Dice there may be what else a campaign measures (`EXTRAS`): `{"case": "sub-01", "dice": {...}, "hd95": {...}}`.
Accuracy is a mean over cases; F1 belongs to a whole set.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fedmerge import evaluation
from fedmerge.errors import Refused

Scored = Mapping[str, Any]
Number = float | None


@dataclass(frozen=True)
class Measure:
    """One way of scoring.

    Attributes:
        key: the name of its number in rows and in `forgetting`.
        name: the same for readers.
        more: further numbers of a row: key -> name.
        sentence: what it is taken over, for the legend of a table.
        single: what one case is compared by, for readers.
        varies: by how much (a standard deviation) one case's number varies from case to case: of Dice some .06, of
            right or wrong up to .5.
        enough: cases that tell two models apart: 12 know a mean Dice to .02, and 100 know a share to .05.
        forms: the keys of a scored case besides `case`; a set of the second form is one record.
        extras: what may be measured besides, key -> name: a number for each label of a case, and one of a row.
        case: a case -> its own number from 0 to 1; None where it has none.
        labels: cases -> a number for each label.
        numbers: cases -> the row's numbers by key, all None without cases.
    """

    key: str
    name: str
    more: Mapping[str, str]
    sentence: str
    single: str
    varies: float
    enough: int
    forms: tuple[frozenset[str], ...]
    case: Callable[[Scored], Number]
    labels: Callable[[Sequence[Scored]], dict[str, Number]]
    numbers: Callable[[Sequence[Scored]], dict[str, Number]]
    extras: Mapping[str, str] = field(default_factory=dict)

    def beside(self, records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
        """The further numbers that rows have beside the measure's own: key -> name."""
        there = {key for record in records for key in record}
        return {**self.more, **{key: name for key, name in self.extras.items() if key in there}}

    def value(self, cases: Sequence[Scored]) -> Number:
        """The measure's own number of a set."""
        return self.numbers(cases)[self.key]

    def check(self, cases: Sequence[Scored], who: str) -> None:
        """Refuse cases that are scored in another way.

        Raises:
            Refused: names the sender, what was expected, and what came.
        """
        for case in cases:
            keys = case.keys() - {"case"} - self.extras.keys()
            if keys not in self.forms or (keys != self.forms[0] and len(cases) > 1):
                raise Refused(f"{who}: expected cases scored by {self.name}, got {', '.join(sorted(case))[:80]}")

    def together(self, cases: Sequence[Scored]) -> dict[str, Any]:
        """One record for all cases, which tells of no single one."""
        numbers = {key: value for key, value in self.numbers(cases).items() if key in self.more}
        extras = {key: _label_means(cases, key) for key in self.extras if any(key in case for case in cases)}
        return {"case": "all", self.key: self.labels(cases), **numbers, **extras}


def f1(truth: Sequence[str], prediction: Sequence[str]) -> dict[str, float]:
    """F1 of each class: 2 TP / (2 TP + FP + FN) (van Rijsbergen 1979), for those in the truth or in the prediction.

    Args:
        truth: the class of each image.
        prediction: what was said of it, as many.

    Example:
        >>> f1(["cyst", "cyst", "ring"], ["cyst", "ring", "ring"])
        {'cyst': 0.6666666666666666, 'ring': 0.6666666666666666}
    """
    hits = Counter(t for t, p in zip(truth, prediction, strict=True) if t == p)
    total = Counter(truth) + Counter(prediction)
    return {name: 2 * hits[name] / count for name, count in total.items()}


def mean(values: Iterable[Number]) -> Number:
    """The mean of those that are there; None where none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _label_means(cases: Sequence[Scored], key: str) -> dict[str, Number]:
    """Of each label the mean over the cases."""
    names = dict.fromkeys(label for case in cases for label in case.get(key, ()))
    return {name: mean(case.get(key, {}).get(name) for case in cases) for name in names}


def _volumes(cases: Sequence[Scored]) -> dict[str, Number]:
    """Dice, and of what else was measured the mean over cases of each case's mean over labels."""
    numbers: dict[str, Number] = {"dice": evaluation.mean_dice(case["dice"] for case in cases)}
    for key in EXTRAS:
        if own := [case[key] for case in cases if key in case]:
            numbers[key] = mean(map(evaluation.case_mean, own))
    return numbers


def _correct(case: Scored) -> Number:
    number: Number = case["accuracy"] if "accuracy" in case else float(case["truth"] == case["prediction"])
    return number


def _f1_labels(cases: Sequence[Scored]) -> dict[str, Number]:
    if len(cases) == 1 and "f1" in cases[0]:
        return dict(cases[0]["f1"])
    return dict(sorted(f1([case["truth"] for case in cases], [case["prediction"] for case in cases]).items()))


EXTRAS = {"hd95": "HD95 (mm)", "lesion-dice": "lesion-wise Dice"}  # of `shapes`, as readers know them
LOWER = frozenset({"hd95"})  # of these a lower number is the better one

MEASURES = {
    measure.key: measure
    for measure in [
        Measure(
            "dice", "Dice", {},
            "Dice of the target's test cases, on the original grid.", "Dice", 0.06, 12,
            (frozenset({"dice"}),),
            case=lambda case: evaluation.case_mean(case["dice"]),
            labels=partial(_label_means, key="dice"),
            numbers=_volumes,
            extras=EXTRAS,
        ),
        Measure(
            "f1", "F1", {"accuracy": "accuracy"},
            "F1 of the target's test images, the mean over the classes (macro), each class counting alike.",
            "share of right answers", 0.5, 100, (frozenset({"truth", "prediction"}), frozenset({"f1", "accuracy"})),
            case=_correct,
            labels=_f1_labels,
            numbers=lambda cases: {"f1": mean(_f1_labels(cases).values()), "accuracy": mean(map(_correct, cases))},
        ),
    ]
}  # fmt: skip
DICE, F1 = MEASURES.values()


def of(results: Mapping[str, Any]) -> Measure:
    """The measure of a run's results; those of older versions do not name it."""
    return MEASURES[results.get("measure", DICE.key)]


def within(record: Mapping[str, Any]) -> Measure:
    """The measure of a row, of an entry of `forgetting`, or of a scored case."""
    return next((measure for key, measure in MEASURES.items() if key in record), F1)


def number(record: Mapping[str, Any]) -> Number:
    """The number of a row, or of an entry of `forgetting`."""
    value: Number = record[within(record).key]
    return value
