"""What the fields of a record may hold that came from the other side: no text that is none, no number that is none.

A task or an answer is JSON, and JSON can hold anything. What is checked here ends up in tables, file names and sums.
"""

import math
from collections.abc import Callable
from typing import Any

MAX_TEXT = 1024  # characters
MAX_ITEMS = 100_000  # of a list: cases of a hospital, points of a curve, parameters of a net
MAX_WHOLE = 2**53  # what JSON, TOML and Python all have as the same number


def _text(value: Any) -> bool:  # noqa: ANN401 - whatever JSON can hold
    return isinstance(value, str) and len(value) <= MAX_TEXT and value.isprintable()


def _texts(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, list | tuple) and len(value) <= MAX_ITEMS and all(_text(item) for item in value)


def _number(value: Any) -> bool:  # noqa: ANN401
    if type(value) is int:
        return abs(value) <= MAX_WHOLE  # a larger one may not even be a float
    return isinstance(value, float) and math.isfinite(value)


def _whole(value: Any) -> bool:  # noqa: ANN401
    return type(value) is int and 0 <= value <= MAX_WHOLE


def _share(value: Any) -> bool:  # noqa: ANN401
    return value is None or (_number(value) and 0 <= value <= 1)


def _curve(value: Any) -> bool:  # noqa: ANN401
    return (
        isinstance(value, list)
        and len(value) <= MAX_ITEMS
        and all(isinstance(p, list | tuple) and len(p) == 2 and _whole(p[0]) and _share(p[1]) for p in value)
    )


def _scores(value: Any) -> bool:  # noqa: ANN401
    if value is None:
        return True
    if not isinstance(value, list) or len(value) > MAX_ITEMS:
        return False
    return all(
        isinstance(case, dict)
        and any(
            case.keys() - EXTRAS.keys() == {"case", *form} and all(holds(case[k]) for k, holds in form.items())
            for form in SCORED
        )
        and all(EXTRAS[key](case[key]) for key in case.keys() & EXTRAS.keys())
        and _text(case["case"])
        and case["case"] != ""
        for case in value
    )


def _shares(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, dict) and all(_text(label) and _share(share) for label, share in value.items())


def _amounts(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, dict) and all(
        _text(label) and (amount is None or (_number(amount) and amount >= 0)) for label, amount in value.items()
    )


def _regions(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, dict) and all(_text(name) and _texts(labels) for name, labels in value.items())


def _merges(value: Any) -> bool:  # noqa: ANN401
    return _shares(value) and len(value) <= MAX_ITEMS


def _leave_one_out(value: Any) -> bool:  # noqa: ANN401
    return value == {} or (
        isinstance(value, dict)
        and value.keys() == {"score", "without"}
        and value["score"] is not None
        and _share(value["score"])
        and _shares(value["without"])
        and None not in value["without"].values()
    )


SCORED: tuple[dict[str, Callable[[Any], bool]], ...] = (  # what a scored case holds, by measure
    {"dice": _shares},
    {"truth": _text, "prediction": _text},
    {"f1": _shares, "accuracy": _share},
)
EXTRAS: dict[str, Callable[[Any], bool]] = {"hd95": _amounts, "lesion-dice": _shares}  # and what it may hold besides


Form = tuple[str, Callable[[Any], bool]]
TEXT: Form = (f"printable text of at most {MAX_TEXT} characters", _text)
TEXTS: Form = ("a list of printable texts", _texts)
WHOLE: Form = ("a whole number of at least 0", _whole)
NUMBER: Form = ("a finite number", _number)
AMOUNT: Form = ("a finite number of at least 0", lambda value: _number(value) and value >= 0)
CURVE: Form = ("points of step and score from 0 to 1", _curve)
REGIONS: Form = ("a list of labels for each region", _regions)
MERGES: Form = ("a score from 0 to 1 for each merge", _merges)
LEAVE_ONE_OUT: Form = ("a score from 0 to 1, and one without each source", _leave_one_out)
SCORES: Form = ("cases with a score from 0 to 1 for each label, or with two classes", _scores)

BY_TYPE: dict[str, Form] = {"str": TEXT, "int": WHOLE, "float": NUMBER}
BY_NAME: dict[str, Form] = {
    "hellos": TEXTS,
    "seconds": AMOUNT,
    "regions": REGIONS,
    "curve": CURVE,
    "scores": MERGES,
    "leave_one_out": LEAVE_ONE_OUT,
    **dict.fromkeys(("start", "adapted", "finetuned"), SCORES),
    **dict.fromkeys(
        ("labels", "channels", "sources", "admitted", "digests", "fusable", "norms", "heads", "other", "beyond",
         "known", "measures", "regional"), TEXTS,
    ),
}  # fmt: skip


def wrong(name: str, kind: str, value: Any) -> str:  # noqa: ANN401 - whatever JSON can hold
    """What was expected of a field, in words; an empty text where it holds that.

    Args:
        name: the field's name.
        kind: its type, as the record writes it.
        value: what came.
    """
    form = BY_NAME.get(name) or BY_TYPE.get(kind)
    if name == "cases" and kind != "int":
        form = SCORES
    if name == "loss":
        form = None if value is None else NUMBER
    return "" if form is None or form[1](value) else form[0]
