"""Everything about the data that can be found before training: all of it, not only the first."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from fedmerge.errors import FedmergeError
from sites import cases, hardware, labels, loading, looking, pictures, volumes
from sites.cases import Found
from sites.looking import Tally
from sites.progress import report
from sites.records import Site
from sites.volumes import Volume

T = TypeVar("T")

UNLABELLED = "shows none of the site's labels"
FEW = 3
"""So many cases without a label are told one by one; more are told in one line, as where few patients have a lesion."""


@dataclass(frozen=True)
class Finding:
    """Something to know before training: an error stops a campaign, a warning does not.

    `file` is a file's name, a case's id, or "" where the finding is about the site as a whole.
    """

    site: str
    file: str
    severity: Literal["error", "warning"]
    sentence: str


def check(
    site: Site, patch: Sequence[int] | None = None, seen: Tally | None = None, *, field: str = "centre"
) -> list[Finding]:
    """Reads every file of the site's cases and lists what is wrong; nothing is trained.

    Args:
        site: whose data to read; synthetic hospitals are made if need be.
        patch: (X, Y, Z) of the net's input, to say what lies outside it; of pictures (rows, columns).
        seen: is told what the files show.
        field: as for `loading.load`; outside a whole volume there is nothing.

    Returns:
        the findings, in the order of the cases; empty where all is well.
    """
    findings: list[Finding] = []
    seen = Tally() if seen is None else seen

    def found_error(file: str, error: FedmergeError | str) -> None:
        findings.append(Finding(site.name, file, "error", str(error)))

    def attempt(file: str, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except FedmergeError as error:
            found_error(file, error)
            return None

    attempt("", lambda: hardware.described(site.hardware))
    if patch is not None:
        attempt("", lambda: loading.check_patch(site, patch))
        if findings:
            return findings
    scanned = attempt("", lambda: cases.scan(site.data))
    if scanned is None:
        return findings
    complete, problems = scanned
    for case, sentence in problems.items():
        found_error(case, sentence)
    if not complete:
        return findings
    # with incomplete cases in the folder a slice would hold others than it will once they are mended
    chosen = complete if problems else attempt("", lambda: cases.select(complete, site.data.cases))
    if chosen is None:
        return findings
    split = None if problems else attempt("", lambda: cases.split(chosen, site.data, seed=0))
    if split is not None:
        for sentence in shared({(site.name, part): found for part, found in _parts(site, chosen).items()}):
            found_error("", sentence)
        findings += _about_split(site, split)
    names = cases.modalities(site.data)
    if missing := looking.without_landmarks(site.data, names):
        found_error("", f"{site.name}: {missing}")
    box = None if field == "whole" else patch
    for done, one in enumerate(chosen, start=1):
        findings += CASES.get(site.data.layout, _case)(site, one, names, box, seen)
        report(site.name, "checking files", done, len(chosen))
    findings = _together(findings, site, len(chosen))
    if told := seen.told(names[0], len(chosen)):
        findings.append(Finding(site.name, "", "warning", f"{site.name}: {told}"))
    if not any(f.severity == "error" for f in findings):
        for k, label in enumerate(site.data.labels, start=1):
            if not seen.labels[k]:
                findings.append(Finding(site.name, "", "warning", f"{site.name}: no case shows '{label}'"))
    return findings


def agree(sites: Sequence[Site]) -> list[Finding]:
    """What is wrong between sites: spellings of labels, shared patients, other regions, channels or spacings.

    Args:
        sites: the campaign's sites; those whose folders cannot be read are only compared by their settings.
    """
    findings = []
    for a, x, b, y in labels.misspelt({site.name: tuple(site.data.labels) for site in sites}):
        sentence = f"{b}: the label '{y}' is spelt '{x}' at {a}; the same structure needs the same name"
        findings.append(Finding(b, "", "error", sentence))
    findings += [Finding(name, "", "error", sentence) for name, sentence in _between(sites)]
    findings += [Finding(name, "", "warning", sentence) for name, sentence in _regions(sites)]
    for site in sites[1:]:
        for what, mine, first in (
            ("modalities", ", ".join(site.data.modalities), ", ".join(sites[0].data.modalities)),
            ("spacing_mm", site.data.spacing_mm, sites[0].data.spacing_mm),
            ("crop", site.data.crop, sites[0].data.crop),
            ("bias_field", looking.n4(site.data), looking.n4(sites[0].data)),
            ("landmarks", looking.name(site.data.landmarks), looking.name(sites[0].data.landmarks)),
        ):
            if mine != first:
                sentence = f"{site.name}: '{what}' is {mine or 'not set'}, but {first or 'not set'} at {sites[0].name}"
                findings.append(Finding(site.name, "", "warning", sentence))
    return findings


def _regions(sites: Sequence[Site]) -> Iterator[tuple[str, str]]:
    """Regions of one name that two sites' nets answer, and that are of other labels."""
    for one, other in combinations(sites, 2):
        here, there = one.data.answered, other.data.answered
        for name in (name for name in there if set(here.get(name, there[name])) != set(there[name])):
            own, theirs = ", ".join(there[name]), ", ".join(here[name])
            yield other.name, f"{other.name}: the region '{name}' is of {own}, but of {theirs} at {one.name}"


def shared(parts: Mapping[tuple[str, str], Sequence[Found]], *, by_name: bool = True) -> list[str]:
    """Patients, cases and images that are in two parts at once, a sentence each.

    Args:
        parts: (site, part) -> its cases.
        by_name: an id means the same patient in all parts; False compares the images' bytes only.
    """
    sentences = []
    for (here, mine), (there, theirs) in combinations(parts.items(), 2):
        places = [f"{site} ({part})" for site, part in (here, there)]
        sentences += [sentence.format(*places) for sentence in _overlap(mine, theirs, by_name)]
    return sentences


def _overlap(mine: Sequence[Found], theirs: Sequence[Found], by_name: bool) -> Iterator[str]:
    ids = {case.id for case in mine}
    patients = {case.patient: case for case in mine if case.patient is not None}
    images = {cases.contents(case.images[0]): case for case in mine}
    for case in theirs:
        if by_name and case.id in ids:
            yield f"the case '{case.id}' is in two splits: {{0}} and {{1}}"
        elif by_name and case.patient in patients:
            other = patients[case.patient].id
            yield f"the patient '{case.patient}' is in two splits: '{other}' at {{0}} and '{case.id}' at {{1}}"
        elif cases.contents(case.images[0]) in images:
            other = images[cases.contents(case.images[0])].id
            yield f"one image is in two splits: as '{other}' at {{0}} and as '{case.id}' at {{1}}"


def _between(sites: Sequence[Site]) -> Iterator[tuple[str, str]]:
    """Overlaps between two sites; only within one folder an id means the same patient at both."""
    parts: dict[str, dict[tuple[str, str], Sequence[Found]]] = {}
    folders: dict[str, Path] = {}
    for site in sites:
        try:
            chosen = cases.select(cases.find(site.data), site.data.cases)
            parts[site.name] = {(site.name, part): found for part, found in _parts(site, chosen).items()}
            folders[site.name] = site.data.folder.resolve()
        except FedmergeError:
            continue  # `check` has said why
    for a, b in combinations(parts, 2):
        for here, there in product(parts[a], parts[b]):
            pair = {here: parts[a][here], there: parts[b][there]}
            yield from ((b, sentence) for sentence in shared(pair, by_name=folders[a] == folders[b]))


def _parts(site: Site, chosen: Sequence[Found]) -> dict[str, Sequence[Found]]:
    split = cases.split(chosen, site.data, seed=0, target_cases=0)
    held = {case.id for case in (*split.validate, *split.test)}
    pool = [case for case in chosen if case.id not in held]
    patients = {case.patient for case in (*split.validate, *split.test)} - {None}
    train = [case for case in pool if case.patient not in patients]
    return {"train": train, "validate": split.validate, "test": split.test}


def _about_split(site: Site, split: cases.Split) -> list[Finding]:
    findings = []
    if not split.by_patient:
        sentence = f"{site.name}: the ids do not tell the patients; cases are disjoint, patients could not be checked"
        findings.append(Finding(site.name, "", "warning", sentence))
    if site.role == "source" and len(split.train) < site.policy.min_cases:
        sentence = (
            f"{site.name}: the policy's 'min_cases' expected {site.policy.min_cases} training cases,"
            f" got {len(split.train)}"
        )
        findings.append(Finding(site.name, "", "error", sentence))
    return findings


def _together(findings: Sequence[Finding], site: Site, cases: int) -> list[Finding]:
    """The findings, those of many cases without a label as one, in the place of the first."""
    bare = [f for f in findings if f.sentence.endswith(UNLABELLED)]
    if len(bare) <= FEW:
        return list(findings)
    sentence = f"{site.name}: {len(bare)} of {cases} label maps show none of the site's labels, {bare[0].file} first"
    one = Finding(site.name, "", "warning", sentence)
    return [one if f is bare[0] else f for f in findings if f is bare[0] or f not in bare]


def _case(site: Site, found: Found, names: Sequence[str], patch: Sequence[int] | None, seen: Tally) -> list[Finding]:
    """All that is wrong with one case; counts into `seen` what it shows."""
    findings: list[Finding] = []

    def add(path: Path, severity: Literal["error", "warning"], sentence: str) -> None:
        findings.append(Finding(site.name, path.name, severity, sentence))

    images: list[tuple[Path, Volume]] = []
    mask = None
    for path in found.images:
        try:
            read = volumes.read_channels(path, len(names) if len(found.images) == 1 else 1, who=site.name)
        except FedmergeError as error:
            add(path, "error", str(error))
            continue
        images += [(path, volume) for volume in read]
        if any(np.ptp(volume.data) == 0 for volume in read):
            add(path, "warning", f"{site.name}: {path.name} has the same intensity everywhere")
    try:
        label = volumes.read_labels(found.label, who=site.name)
    except FedmergeError as error:
        add(found.label, "error", str(error))
        return findings
    name = f"{site.name}: {found.label.parent.name}/{found.label.name}"
    if images:
        for path, sentence in looking.lay(found, images, names, site, seen):
            add(path, "error", sentence)
        try:
            label = looking.lay_labels(found, label, images[0][1], site, seen)
        except FedmergeError as error:
            add(found.label, "error", str(error))
        try:
            mask = looking.lay_mask(found, images[0][1], site, seen)
        except FedmergeError as error:
            add(found.mask or found.label, "error", str(error))
            patch = None  # nobody knows where it would lie
    seen.values.update(labels.present(label.data))
    try:
        truth = labels.remap(label.data, site.data.labels, site.data.background, never=dict(found.never), who=name)
    except FedmergeError as error:
        add(found.label, "error", str(error))
        return findings
    seen.labels.update(int(k) for k in np.unique(truth))
    if not truth.any():
        add(found.label, "warning", f"{name} {UNLABELLED}")
    elif patch is not None and images and truth.shape == images[0][1].data.shape:
        share = looking.outside(truth, [volume for _, volume in images], mask, site, patch)
        if share > 0.05:
            add(found.label, "warning", f"{name} has {share:.0%} of its labelled voxels outside the net's patch")
    return findings


def _picture(site: Site, found: Found, names: Sequence[str], patch: Sequence[int] | None, seen: Tally) -> list[Finding]:
    """All that is wrong with one picture; counts its class into `seen`."""
    name = found.images[0].name
    seen.labels[1 + list(site.data.labels).index(pictures.class_of(found.group, site.data))] += 1
    try:
        pixels = pictures.read(found.images[0], len(names), who=site.name)
    except FedmergeError as error:
        return [Finding(site.name, name, "error", str(error))]
    if np.ptp(pixels) > 0:
        return []
    return [Finding(site.name, name, "warning", f"{site.name}: {found.id} has the same intensity everywhere")]


Look = Callable[[Site, Found, Sequence[str], Sequence[int] | None, Tally], list[Finding]]
CASES: dict[str, Look] = {"classes": _picture}  # layout -> how one case is looked at, where that is no volume
