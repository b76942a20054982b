"""A model's card, in Markdown: what it is for, what it was made of, how good it is, whom it protects, where it ends.

What it says comes from the model file and from the results of its run; nothing of a patient is in either's numbers, and
names of cases, files and folders are left out here. Scores are those that the target's policy let into the results.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedmerge import __version__, colours, evaluation, fusion, measures
from fedmerge.errors import ConfigError, DataError
from fedmerge.results import Results

Row = Mapping[str, Any]

USE = (
    "Research: to segment or classify images like those of the hospital that it was fine-tuned at, with the channels, "
    "the voxel size and the labels below. It is no medical device; no diagnosis or treatment may rest on it alone."
)
LIMITS = (
    "It was tuned and tested on few cases of one hospital. On images of other scanners, sequences, ages or diseases "
    "its errors are unknown: test it on your own cases first.",
    "It finds only the labels below, and gives one to whatever looks like it.",
    "Sources were merged by their weights. What a source's cases lacked, or got wrong, may be in the model.",
)


@dataclass(frozen=True)
class Told:
    """What whoever publishes a model says of it.

    Attributes:
        title: the card's heading.
        licence: an SPDX identifier, or a sentence; an empty text: none is granted.
        use: in place of `USE`.
        pseudonyms: whether sites are called `source 1`, `source 2`, ..., and the target `the target`.
    """

    title: str
    licence: str = ""
    use: str = ""
    pseudonyms: bool = False


def markdown(info: Mapping[str, Any], parameters: int, digest: str, told: Told, results: Results | None = None) -> str:
    """The card of a model.

    Args:
        info: what its file says (`wire.read_model`).
        parameters: how many numbers it has.
        digest: of its weights (`params.digest`).
        told: what the publisher says.
        results: of the run that made it, where they are at hand.

    Raises:
        DataError: the results are not of this model's run.
    """
    row = row_of(info, results) if results is not None else None
    names = _names(info, row, told.pseudonyms)
    parts = [
        ("Intended use", [told.use or USE]),
        ("The model", table(_model(info, parameters, digest))),
        ("Labels", table(_labels(info))),
        ("How it was made", [*table(_made(info, row, results, names)), *_ratios(row, results, names)]),
        ("Evidence", _evidence(row, results)),
        ("Privacy", [privacy(info, results, names)]),
        ("Limits", [f"- {line}" for line in LIMITS]),
        ("Licence", [told.licence or "None has been stated. Ask those who made the model before you use it."]),
    ]
    body = "\n\n".join(f"## {title}\n\n" + "\n".join(lines) for title, lines in parts if lines)
    return f"# {told.title}\n\n{body}\n"


def essentials(info: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a model file tells of itself, in a few lines of (what, words)."""
    if "method" not in info:
        return []
    sources = list(info.get("sources", []))
    lines = [("answers", f"{', '.join(info.get('labels', []))} from {', '.join(info.get('channels', ['unknown']))}")]
    merged = f"{info['method']} of {', '.join(sources)}" if sources else str(info["method"])
    cases = f", fine-tuned on {info['target_cases']} cases" if "target_cases" in info else f", {info.get('parameters')}"
    return [*lines, ("made by", merged + cases)]


def row_of(info: Mapping[str, Any], results: Results) -> Row:
    """The line of the results that a fine-tuned model is of: of its method, seed and cases, and its contributions.

    Raises:
        DataError: there is none.
    """
    for row in results["rows"]:
        same = (row["method"], row["seed"], row["target_cases"]) == (
            info.get("method"), info.get("seed"), info.get("target_cases"),
        )  # fmt: skip
        made_of = sorted(row.get("contributions", {}).values()) == sorted(info.get("contributions", []))
        if same and made_of and row["stage"] == "fine-tuned" and row["status"] == "ok":
            return dict(row)
    raise DataError(f"the results have no fine-tuned model of {info.get('method')} that is made of what this one is")


def privacy(info: Mapping[str, Any], results: Results | None, names: Mapping[str, str]) -> str:
    """What the model may tell of a patient, in a sentence or two."""
    if results is None:
        return "The results of its run are not at hand, so whether its sources trained with noise is not known."
    noisy = {one["site"]: one for one in results.get("privacy", []) if one["site"] in info.get("sources", [])}
    others = [name for name in info.get("sources", []) if name not in noisy]
    told = [
        f"{names[site]} trained with differential privacy: epsilon {one['epsilon']:.3g} at delta {one['delta']:g} "
        f"for each {one['unit']}, over all that it sent in the run."
        for site, one in noisy.items()
    ]
    if others:
        told.append(
            f"{_and([names[site] for site in others])} trained without noise: nothing bounds what the weights tell of "
            "one patient, and who holds a patient's images can try whether they were among the training cases."
        )
    told.append("The target's own fine-tuning is not noisy: the same holds for its patients.")
    return " ".join(told)


def _names(info: Mapping[str, Any], row: Row | None, pseudonyms: bool) -> dict[str, str]:
    sources = list(info.get("sources", []))
    target = {row["target"]: "the target" if pseudonyms else row["target"]} if row else {}
    return {name: f"source {k}" if pseudonyms else name for k, name in enumerate(sources, start=1)} | target


def _model(info: Mapping[str, Any], parameters: int, digest: str) -> list[tuple[str, str]]:
    net = dict(info["net"])
    settings = ", ".join(
        f"{key} {value}" for key, value in net.items() if key not in ("name", "in_channels", "out_channels")
    )
    spacing = info.get("spacing_mm")
    return [
        ("net", f"{net.get('name')}: {settings}"),
        ("parameters", f"{parameters:,}"),
        ("digest of the weights", f"`{digest}`"),
        ("reads", f"{', '.join(info['channels'])}; a box of {' x '.join(map(str, info['patch']))} voxels"),
        ("voxel size", f"{' x '.join(f'{side:g}' for side in spacing)} mm" if spacing else "the image's own"),
        ("written by", f"fedmerge {__version__}"),
    ]


def _labels(info: Mapping[str, Any]) -> list[tuple[str, str]]:
    drawn = colours.of(info["labels"])
    first = 0 if _classifies(info) else 1
    rows = [(str(k), f"{name} (#{bytes(drawn[name]).hex()})") for k, name in enumerate(info["labels"], start=first)]
    if _classifies(info):
        return rows
    answered = [(f"region {name}", ", ".join(own)) for name, own in info.get("regions", {}).items()]
    return [("0", "background"), *rows, *answered]


def _classifies(info: Mapping[str, Any]) -> bool:
    return bool(info["net"].get("out_channels") == len(info["labels"])) and not info.get("regions")


def _made(
    info: Mapping[str, Any], row: Row | None, results: Results | None, names: Mapping[str, str]
) -> list[tuple[str, str]]:
    method = str(info.get("method", "unknown"))
    lines = [("method", _cited(method, list(info.get("sources", [])), names))]
    sites = {site["name"]: site for site in (results or {}).get("sites", [])}
    for name in info.get("sources", []):
        cases = f"{sites[name]['train']} cases" if name in sites else "cases unknown"
        lines.append((names[name], f"source, {cases}"))
    target = sites.get(row["target"]) if row else None
    cases = f"{info.get('target_cases', 'unknown')} cases to train on"
    if row and target:
        cases += f", {target['validate']} to validate, {target['test']} to test"
    lines.append((names[row["target"]] if row else "the target", cases))
    if results is not None:
        lines.append(("trust", str(results["campaign"]["campaign"].get("trust", "server"))))
    return lines


def _cited(method: str, sources: Sequence[str], names: Mapping[str, str]) -> str:
    """The method with whom to cite; a site's name in it becomes what the card calls it."""
    try:
        paper = f" ({fusion.method(method, sources).paper})"
    except ConfigError:  # of a package that is not installed here
        paper = ""
    first, plus, options = method.partition("+")
    base, colon, own = first.partition(":")
    shown = "/".join(names.get(site, site) for site in own.split("/")) if colon else ""
    return f"{base}{colon}{shown}{plus}{options}{paper}"


def _ratios(row: Row | None, results: Results | None, names: Mapping[str, str]) -> list[str]:
    """Who counts for how much: of each source the mean over groups, the smallest and the largest."""
    keys = ("method", "seed", "chain", "target", "target_cases")
    found = [one for one in (results or {}).get("ratios", []) if row and all(one[key] == row[key] for key in keys)]
    if not found:
        return []
    (one, *_) = found
    lines = ["", f"Ratios, by {one['grain']}:", ""]
    rows = []
    for k, site in enumerate(one["sites"]):
        values = [value for group in one["groups"].values() for value in _flat(group[k])]
        low, high = min(values), max(values)
        rows.append((names.get(site, site), f"{sum(values) / len(values):.2f} ({low:.2f} to {high:.2f})"))
    return [*lines, *table(rows)]


def _flat(value: Any) -> list[float]:  # noqa: ANN401 - a number, or one a kernel
    return [float(one) for one in value] if isinstance(value, list) else [float(value)]


def _evidence(row: Row | None, results: Results | None) -> list[str]:
    """Test and validation scores, as the target's policy let them into the results."""
    if row is None or results is None:
        return ["The results of its run are not at hand."]
    measure = measures.of(results)
    if row[measure.key] is None:
        return ["The target's policy withholds scores."]
    scores = [value for case in row["cases"] if (value := measure.case(case)) is not None]
    spread = f" ± {evaluation.spread(scores)[1]:.3f} from case to case" if len(scores) > 1 else ""
    rows = [(f"{measure.name}, test cases", f"{row[measure.key]:.3f}{spread}")]
    rows += [
        (f"{measure.name} of {label}", f"{value:.3f}" if value is not None else "no case has it")
        for label, value in measure.labels(row["cases"]).items()
    ]
    validated = [value for _, value in row["curve"] if value is not None]
    if validated:
        rows.append((f"{measure.name}, validation cases, best", f"{max(validated):.3f}"))
    single = f"One run of seed {row['seed']} and chain {row['chain']}; other runs differ (`results.md` has the spread)."
    return [*table(rows), "", single]


def table(rows: Sequence[tuple[str, str]]) -> list[str]:
    """The lines of a table of (what, words)."""

    def cell(text: str) -> str:
        return " ".join(text.replace("|", "\\|").split())

    return ["| | |", "|---|---|", *(f"| {cell(what)} | {cell(words)} |" for what, words in rows)] if rows else []


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
