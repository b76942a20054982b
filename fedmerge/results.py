"""The form of `results.json`, which other programs read: checked before it is written and after it is read.

The form is data: each table below says, key by key, what a value has to be. More keys are welcome everywhere.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from fedmerge import measures
from fedmerge.errors import DataError

FORMAT = "fedmerge-results/1"
STAGES = ("start", "adapted", "fine-tuned")
GRAINS = ("model", "layer", "kernel")

Results = dict[str, Any]
Kind = tuple[str, Callable[[Any], bool]]  # what is expected, in words, and whether a value is that


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_share(value: object) -> TypeGuard[float]:
    return _is_number(value) and -1e-6 <= value <= 1 + 1e-6


def _or_null(kind: Kind) -> Kind:
    words, holds = kind
    return f"{words} or null", lambda value: value is None or holds(value)


def _each_label(kind: Kind) -> Kind:
    words, holds = _or_null(kind)
    return f"for each label {words}", lambda value: isinstance(value, dict) and all(map(holds, value.values()))


def _one_of(*names: str) -> Kind:
    return "one of " + ", ".join(names), lambda value: value in names


WORDS: Kind = ("a text, perhaps an empty one", lambda value: isinstance(value, str))
TEXT: Kind = ("a text", lambda value: isinstance(value, str) and value != "")
COUNT: Kind = (
    "a whole number of at least 0",
    lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
)
AMOUNT: Kind = ("a number of at least 0", lambda value: _is_number(value) and value >= 0)
SHARE: Kind = ("a number from 0 to 1", _is_share)
SHARES: Kind = (
    "a table of numbers from 0 to 1",
    lambda value: isinstance(value, dict) and all(map(_is_share, value.values())),
)
LIST: Kind = ("a list", lambda value: isinstance(value, list))
TABLE: Kind = ("a table", lambda value: isinstance(value, dict))

TOP: dict[str, Kind] = {
    "format": (f"'{FORMAT}'", lambda value: value == FORMAT),
    "campaign": TABLE,
    "environment": TABLE,
    "rows": LIST,
    "ratios": LIST,
    "forgetting": LIST,
    "traffic": LIST,
}
ENVIRONMENT: dict[str, Kind] = {"fedmerge": TEXT, "flwr": TEXT, "torch": TEXT, "device": TEXT}
ROW: dict[str, Kind] = {
    "method": TEXT,
    "seed": COUNT,
    "chain": COUNT,
    "target": TEXT,
    "target_cases": COUNT,
    "target_steps": COUNT,
    "stage": _one_of(*STAGES),
    "status": _one_of("ok", "failed"),
    "error": _or_null(TEXT),
    "cases": LIST,
    "curve": LIST,
    "seconds": AMOUNT,
}
CASE: dict[str, Kind] = {"case": TEXT}
SCORED: dict[str, tuple[dict[str, Kind], ...]] = {  # what a case holds besides, by measure: one of these
    "dice": ({"dice": TABLE},),
    "f1": ({"truth": TEXT, "prediction": TEXT}, {"f1": TABLE, "accuracy": _or_null(SHARE)}),
}
EXTRAS: dict[str, tuple[Kind, Kind]] = {  # what may be measured besides: of a case by label, of a row
    "hd95": (_each_label(AMOUNT), _or_null(AMOUNT)),
    "lesion-dice": (_each_label(SHARE), _or_null(SHARE)),
}
RATIOS: dict[str, Kind] = {
    "method": TEXT,
    "seed": COUNT,
    "chain": COUNT,
    "target": TEXT,
    "target_cases": COUNT,
    "sites": LIST,
    "grain": _one_of(*GRAINS),
    "groups": TABLE,
}
FORGETTING: dict[str, Kind] = {
    "weights": TEXT,
    "task": TEXT,
    "seed": COUNT,
    "chain": COUNT,
    "target_cases": COUNT,
}
TRAFFIC: dict[str, Kind] = {"from": TEXT, "to": TEXT, "what": TEXT, "bytes": COUNT}
TIMELINE: dict[str, Kind] = {
    "site": TEXT, "what": TEXT, "about": WORDS, "begin": AMOUNT, "end": AMOUNT, "asks": COUNT, "down": COUNT,
    "up": COUNT, "failed": COUNT,
}  # fmt: skip
LEFT_OUT: dict[str, Kind] = {"site": TEXT, "chain": _or_null(COUNT), "reason": TEXT}
CHANGES: dict[str, Kind] = {
    "site": TEXT,
    "chain": COUNT,
    "way": TEXT,
    "change": _or_null(AMOUNT),
    "times": _or_null(AMOUNT),
    "verdict": _one_of("within", "reported", "released", "unknown"),
}
CHOICES: dict[str, Kind] = {
    "method": TEXT, "seed": COUNT, "chain": COUNT, "target": TEXT, "target_cases": COUNT, "chosen": TEXT,
    "sentence": TEXT, "scores": TABLE, "dropped": TABLE,
}  # fmt: skip
ADMISSIONS: dict[str, Kind] = {
    "method": TEXT, "seed": COUNT, "chain": COUNT, "target": TEXT, "target_cases": COUNT, "admitted": LIST,
    "scores": TABLE, "sentence": TEXT,
}  # fmt: skip
LEAVE_ONE_OUT: dict[str, Kind] = {
    "method": TEXT, "seed": COUNT, "chain": COUNT, "target": TEXT, "target_cases": COUNT, "stage": _one_of(*STAGES),
    "score": SHARE, "without": SHARES,
}  # fmt: skip
PRIVACY: dict[str, Kind] = {
    "site": TEXT, "epsilon": AMOUNT, "delta": SHARE, "unit": _one_of("patient"), "trainings": LIST, "sentence": TEXT,
}  # fmt: skip


def validate(results: Mapping[str, Any]) -> None:
    """Check that `results` has the form `fedmerge-results/1`.

    Raises:
        DataError: the first place that differs, as in "rows[3]: 'stage' expected one of start, adapted,
            fine-tuned, got 'begin'".
    """
    _check("results", results, TOP)
    _check("environment", results["environment"], ENVIRONMENT)
    _check("results", {"measure": measures.DICE.key, **results}, {"measure": _one_of(*measures.MEASURES)})
    measure = measures.of(results)
    numbers = {key: _or_null(SHARE) for key in (measure.key, *measure.more)}
    for place, row in _each("rows", results["rows"]):
        _check_row(place, row, numbers, SCORED[measure.key])
    for place, fitted in _each("ratios", results["ratios"]):
        _check_ratios(place, fitted)
    for key, form in (("forgetting", FORGETTING | numbers), ("traffic", TRAFFIC)):
        for place, record in _each(key, results[key]):
            _check(place, record, form)
    for key, form, older in (  # what results of older versions lack
        ("timeline", TIMELINE, {}),
        ("left_out", LEFT_OUT, {}),
        ("changes", CHANGES, {"way": "plain"}),
        ("choices", CHOICES, {"dropped": {}}),
        ("admissions", ADMISSIONS, {}),
        ("leave_one_out", LEAVE_ONE_OUT, {}),
        ("privacy", PRIVACY, {}),
    ):
        for place, record in _each(key, results.get(key, [])):
            _check(place, older | record, form)


def read(path: Path) -> Results:
    """The results in a file, or in the folder of a run.

    Raises:
        DataError: there is no such file, it is not JSON, or it has another form.
    """
    path = path / "results.json" if path.is_dir() else path
    try:
        results: Results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: there are no results here") from None
    except ValueError as error:
        raise DataError(f"{path}: expected JSON, got {error}") from None
    try:
        validate(results)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return results


def to_json(results: Mapping[str, Any]) -> str:
    """The text of `results.json`; the order of keys is kept (layers stay in the net's order).

    Raises:
        DataError: as `validate`, or something in it is no JSON.
    """
    validate(results)
    results = {**results, "campaign": _sayable(results["campaign"])}
    try:
        return json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise DataError(f"results: expected only what JSON can say, got {error}") from None


def _sayable(value: Any) -> Any:  # noqa: ANN401 - whatever TOML can hold
    """The same with texts for infinities, which a policy's `epsilon` may be and JSON does not know."""
    if isinstance(value, dict):
        return {key: _sayable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_sayable(one) for one in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def _each(key: str, records: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"{key}[{i}]", record) for i, record in enumerate(records))


def _check(place: str, record: object, form: Mapping[str, Kind]) -> None:
    if not isinstance(record, Mapping):
        raise DataError(f"{place} expected a table, got {_short(record)}")
    for key, (words, holds) in form.items():
        if key not in record:
            raise DataError(f"{place}: '{key}' is missing, expected {words}")
        if not holds(record[key]):
            raise DataError(f"{place}: '{key}' expected {words}, got {_short(record[key])}")


def _check_row(
    place: str, row: Mapping[str, Any], numbers: Mapping[str, Kind], scored: Sequence[Mapping[str, Kind]]
) -> None:
    _check(place, row, {**ROW, **numbers, **{key: form for key, (_, form) in EXTRAS.items() if key in row}})
    if row["status"] == "failed" and row["error"] is None:
        raise DataError(f"{place}: a failed row says why in 'error', got null")
    if row["status"] == "ok" and row["error"] is not None:
        raise DataError(f"{place}: 'error' of a row that is ok expected null, got {_short(row['error'])}")
    for inner, case in _each(f"{place}.cases", row["cases"]):
        _check(inner, case, CASE)
        _check(inner, case, next((form for form in scored if form.keys() <= case.keys()), scored[0]))
        _check(inner, case, {key: form for key, (form, _) in EXTRAS.items() if key in case})
        for key in scored[-1].keys() & case.keys():
            for label, value in case[key].items() if isinstance(case[key], Mapping) else ():
                if value is not None and not _is_share(value):
                    raise DataError(
                        f"{inner}: {key} of '{label}' expected a number from 0 to 1 or null, got {_short(value)}"
                    )
    for inner, point in _each(f"{place}.curve", row["curve"]):
        pair = isinstance(point, list | tuple) and len(point) == 2
        if not (pair and COUNT[1](point[0]) and (point[1] is None or _is_share(point[1]))):
            raise DataError(f"{inner} expected [step, score from 0 to 1 or null], got {_short(point)}")


def _check_ratios(place: str, fitted: Mapping[str, Any]) -> None:
    _check(place, fitted, RATIOS)
    for group, values in fitted["groups"].items():
        if not isinstance(values, list) or len(values) != len(fitted["sites"]):
            raise DataError(
                f"{place}: '{group}' expected {len(fitted['sites'])} values, one a site, got {_short(values)}"
            )
        rows = values if fitted["grain"] == "kernel" else [[value] for value in values]
        if not all(isinstance(row, list) and row and all(map(_is_share, row)) for row in rows):
            raise DataError(f"{place}: the ratios of '{group}' expected numbers from 0 to 1, got {_short(values)}")
        if len({len(row) for row in rows}) > 1:
            raise DataError(f"{place}: '{group}' expected equally many kernels at each site")
        for total in map(sum, zip(*rows)):
            if abs(total - 1) > 1e-3:
                raise DataError(f"{place}: the ratios of '{group}' expected a sum of 1 over the sites, got {total:.4g}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
