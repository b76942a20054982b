"""A suite as data: which campaign, methods, sizes, seeds and chains, and what was expected before it ran."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from fedmerge import fusion
from fedmerge.errors import ConfigError
from fedmerge.results import AMOUNT, COUNT, SHARE, STAGES, TABLE, TEXT, Kind

SUITES = Path(str(files("fedmerge") / "bench" / "suites"))
TESTS = ("better", "not_below", "at_least")


@dataclass(frozen=True)
class Hypothesis:
    """A sentence that was written before the run, and the test that decides it.

    Attributes:
        text: the sentence.
        test: `better` (in each chain, and p after Holm below `p`), `not_below` (the mean difference is at least
            -`margin`) or `at_least` (the mean score of `stage` is at least `value`).
        method: whom it is about; `METHOD@ARM` where the suite has arms.
        than: the methods it is compared with.
        n: the numbers of target cases at which it has to hold.
    """

    text: str
    test: Literal["better", "not_below", "at_least"]
    method: str
    than: tuple[str, ...]
    n: tuple[int, ...]
    p: float = 0.01
    margin: float = 0.0
    value: float = 0.0
    stage: str = STAGES[-1]


@dataclass(frozen=True)
class Arm:
    """One variant of the campaign; a suite without arms has a single one without a name.

    Attributes:
        name: what follows the methods' names, as in `t-imm@left-out`.
        campaign: a campaign file, or the tables themselves.
        drop: sites that this arm leaves out.
        changes: tables over those of the campaign, in order; sites by name.
    """

    name: str
    campaign: Path | dict[str, Any]
    drop: tuple[str, ...] = ()
    changes: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Suite:
    """What `fedmerge bench` runs.

    Attributes:
        stage: `development` looks at its test cases as often as it is run; `evidence` is run once.
        reference: the method that all others are compared with.
        reach: the validation score that steps are counted to; None: they are not counted.
        text: the file as it was read.
    """

    name: str
    title: str
    stage: Literal["development", "evidence"]
    arms: tuple[Arm, ...]
    methods: tuple[str, ...]
    target_cases: tuple[int, ...]
    seeds: tuple[int, ...]
    chains: tuple[int, ...]
    reference: str
    reach: float | None
    hypotheses: tuple[Hypothesis, ...]
    text: str


def _list_of(kind: Kind) -> Kind:
    words, holds = kind
    return f"a list, each {words}", lambda value: isinstance(value, list) and all(map(holds, value))


def _one_of(*words: str) -> Kind:
    return "one of " + ", ".join(words), lambda value: value in words


NUMBERS = _list_of(COUNT)
TEXTS = _list_of(TEXT)
NEEDED: dict[str, Kind] = {
    "title": TEXT,
    "stage": _one_of("development", "evidence"),
    "campaign": ("a path or a table", lambda value: TEXT[1](value) or TABLE[1](value)),
    "methods": TEXTS,
    "target_cases": NUMBERS,
    "seeds": NUMBERS,
    "chains": NUMBERS,
    "reference": TEXT,
}
MORE: dict[str, Kind] = {"reach": SHARE, "changes": TABLE, "arm": _list_of(TABLE), "hypothesis": _list_of(TABLE)}
ARM_NEEDED: dict[str, Kind] = {"name": TEXT}
ARM_MORE: dict[str, Kind] = {"campaign": NEEDED["campaign"], "drop": TEXTS, "changes": TABLE}
HYPOTHESIS_NEEDED: dict[str, Kind] = {"text": TEXT, "n": NUMBERS}
HYPOTHESIS_MORE: dict[str, Kind] = {
    **dict.fromkeys(TESTS, TEXT),
    "than": TEXTS,
    "p": SHARE,
    "margin": AMOUNT,
    "value": SHARE,
    "stage": _one_of(*STAGES),
}


def names() -> list[str]:
    """The suites that come with the package."""
    return sorted(path.stem for path in SUITES.glob("*.toml"))


def read(name: str) -> Suite:
    """A suite by its name, or from a file.

    Raises:
        ConfigError: there is no such suite, or a key is unknown, missing or impossible.
    """
    path = SUITES / f"{name}.toml" if name in names() else Path(name)
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(
            f"there is no suite '{name}'; there are {', '.join(names())}, or the path of a file"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from None
    where = path.name
    _check(table, NEEDED, MORE, where)
    for key in ("methods", "target_cases", "seeds", "chains"):
        if not table[key] or len(set(table[key])) < len(table[key]):
            raise ConfigError(f"{where}: '{key}' expected at least one, each once, got {table[key]}")
    arms = _arms(table, path)
    return Suite(
        name=path.stem,
        title=table["title"],
        stage=table["stage"],
        arms=arms,
        **{key: tuple(table[key]) for key in ("methods", "target_cases", "seeds", "chains")},
        reference=table["reference"],
        reach=table.get("reach"),
        hypotheses=tuple(_hypothesis(one, f"{where}, hypothesis {i}") for i, one in enumerate(table["hypothesis"], 1))
        if "hypothesis" in table
        else (),
        text=text,
    )


def expand(asked: Sequence[str], sources: Mapping[str, Sequence[str]]) -> list[str]:
    """Methods as the rows of all arms name them: `transfer` is one for each source, arms follow with @.

    Args:
        asked: names, with or without an arm; without one, a name stands for all arms.
        sources: arm -> its sources.

    Raises:
        ConfigError: a method is unknown here, or an arm is.
    """
    found: dict[str, None] = {}
    for name in asked:
        method, at, arm = name.partition("@")
        if at and arm not in sources:
            raise ConfigError(f"'{name}' expected one of the arms {', '.join(sources)}, got '{arm}'")
        for where in [arm] if at else sources:
            found.update((named(row.name, where), None) for row in fusion.expand([method], sources[where]))
    return list(found)


def named(method: str, arm: str) -> str:
    """A method in an arm: `t-imm@left-out`, or the method alone where there are no arms."""
    return f"{method}@{arm}" if arm else method


def _arms(table: Mapping[str, Any], path: Path) -> tuple[Arm, ...]:
    def placed(campaign: str | dict[str, Any]) -> Path | dict[str, Any]:
        return campaign if isinstance(campaign, dict) else path.parent / campaign

    whole = placed(table["campaign"])
    common = [table["changes"]] if "changes" in table else []
    arms: list[Arm] = []
    for arm in table.get("arm", []):
        where = f"{path.name}, arm '{arm.get('name', '')}'"
        _check(arm, ARM_NEEDED, ARM_MORE, where)
        if not arm["name"].replace("-", "").isalnum() or arm["name"] in (a.name for a in arms):
            raise ConfigError(f"{where}: a name is letters, digits and '-', and no other arm's")
        own = [arm["changes"]] if "changes" in arm else []
        campaign = placed(arm["campaign"]) if "campaign" in arm else whole
        arms.append(Arm(arm["name"], campaign, tuple(arm.get("drop", ())), (*common, *own)))
    return tuple(arms) or (Arm("", whole, changes=tuple(common)),)


def _hypothesis(table: Mapping[str, Any], where: str) -> Hypothesis:
    _check(table, HYPOTHESIS_NEEDED, HYPOTHESIS_MORE, where)
    tests = [test for test in TESTS if test in table]
    if len(tests) != 1:
        raise ConfigError(f"{where} expected one of {', '.join(TESTS)}, got {', '.join(tests) or 'none'}")
    needs = "value" if tests[0] == "at_least" else "than"
    if needs not in table:
        raise ConfigError(f"{where}: '{tests[0]}' needs '{needs}'")
    more = {key: table[key] for key in ("p", "margin", "value", "stage") if key in table}
    return Hypothesis(
        text=table["text"],
        test=tests[0],  # type: ignore[arg-type]  # one of TESTS
        method=table[tests[0]],
        than=tuple(table.get("than", ())),
        n=tuple(table["n"]),
        **more,
    )


def _check(table: Mapping[str, Any], needed: Mapping[str, Kind], more: Mapping[str, Kind], where: str) -> None:
    for key in needed:
        if key not in table:
            raise ConfigError(f"{where}: '{key}' is missing, expected {needed[key][0]}")
    known = {**needed, **more}
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"{where}: unknown key '{key}'; known keys are {', '.join(known)}")
        if not known[key][1](value):
            raise ConfigError(f"{where}: '{key}' expected {known[key][0]}, got {value!r}")
