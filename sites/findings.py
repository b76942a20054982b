"""The lines of a site's check that need nothing but the site itself: its data, geometry, labels, disk, policy."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fedmerge.errors import FedmergeError
from sites import cases, described, explaining, labels, preflight, room, wording
from sites import hardware as machine
from sites.looking import Tally
from sites.records import Site

Result = Literal["ok", "warning", "off", "error"]


@dataclass(frozen=True)
class Line:
    """One line of the check: what was looked at, how it is, what was found, and what to do about it."""

    check: str
    result: Result
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Asked:
    """What a campaign that the coordinator sent asks of this site.

    Attributes:
        name: the campaign's.
        net: the net's name.
        patch: (X, Y, Z) voxels of the net's input.
        roles: site -> role.
        labels: site -> label names, of the sites whose labels the file tells.
        load: what it asks of the disk.
        field: whether the net reads the patch in each volume's middle, or the whole volume patch by patch.
    """

    name: str
    net: str
    patch: tuple[int, ...]
    roles: Mapping[str, str]
    labels: Mapping[str, tuple[str, ...]]
    load: room.Load
    field: str = "centre"


REMEDIES = (
    (r"truncated|damaged|not an? \w+ file|cannot be read", "restore the file from the archive, or leave the case out"),
    (r"is missing|case '.*' has (no|two) |has the modalities", "complete the case, or move it out of the folder"),
    (r"there is no folder|holds no case", "set `folder` and `layout` of [data] in site.toml; can the agent read it?"),
    (r"choose with", "set the key that the sentence ends with in [data] of site.toml"),
    (r"is not declared", "name the value under `labels` or `background` of [data] in site.toml"),
    (
        r"expected the shape|expected the affine",
        "export the case's files on one grid, or let `grids` of [data] resample them",
    ),
    (r"expected to show at least|expected its labels inside", "look at the file's header: it says another place"),
    (r"on other voxels than", "nothing, where that is meant; else export the case on one grid"),
    (r"'landmarks' expected", "name a file with landmarks of all modalities under `landmarks` of [data]"),
    (r"outside the net's patch", "set a larger `spacing_mm` in [data], or ask the coordinator for a larger patch"),
    (r"min_cases", "annotate more cases, or lower `min_cases` of [policy] if the hospital agrees"),
    (r"in two splits", "keep one of the two; the same image must not train and test"),
    (r"do not tell the patients", "set `patient` of [data]: a pattern that finds the patient in a case's id"),
    (r"no case shows", "look whether the label's values in [data] are right"),
)
GEOMETRY = re.compile(
    r"expected the shape|expected the affine|dimensions|channels in a fourth|outside the net's patch"
    r"|expected to show at least|expected its labels inside|on other voxels than"
)


def remedy(sentence: str) -> str:
    """What to do about a finding of the preflight."""
    for pattern, told in REMEDIES:
        if re.search(pattern, sentence):
            return told
    return "mend the file, or leave the case out with `cases` of [data] in site.toml"


def hardware(site: Site) -> list[Line]:
    """What the site's trainings run on."""
    try:
        return [Line("hardware", "ok", f"trains on {machine.described(site.hardware)}")]
    except FedmergeError as error:
        return [Line("hardware", "error", str(error), "edit `device` and `devices` of [hardware] in site.toml")]


def data(site: Site, patch: Sequence[int] | None, field: str = "centre") -> list[Line]:
    """What the preflight finds in the site's files, and the geometry of its images.

    Args:
        site: every file of its cases is read.
        patch: (X, Y, Z) of the net's input; None where no campaign is known yet.
        field: of the campaign.
    """
    seen = Tally()
    found = preflight.check(site, patch, seen, field=field)
    told = [
        Line("geometry" if GEOMETRY.search(f.sentence) else "data", f.severity, f.sentence, remedy(f.sentence))
        for f in found
    ]
    try:
        chosen = cases.select(cases.scan(site.data)[0], site.data.cases)
    except FedmergeError:
        return told  # the preflight has said why
    if not any(line.result == "error" and line.check == "data" for line in told):
        split = cases.split(chosen, site.data, seed=0)
        parts = ", ".join(
            f"{len(part)} to {what}"
            for what, part in (("train", split.train), ("validate", split.validate), ("test", split.test))
            if part
        )
        told.insert(0, Line("data", "ok", f"{len(chosen)} cases in {site.data.folder}: {parts}"))
        told.insert(1, Line("layout", "ok", described.layout(site, seen)))
    if chosen and not any(line.result == "error" for line in told):
        if steps := explaining.steps(site, chosen):
            told.append(Line("preparation", "ok", "; ".join(steps)))
        told.append(Line("geometry", "ok", explaining.geometry(site, chosen, patch, field)))
    return told


def disk(site: Site, asked: Asked | None) -> Line:
    """Whether the work folder's disk has room for a campaign."""
    load = asked.load if asked else room.ASSUMED
    kept = int(site.data.cache_gb * 1e9)
    needed = room.needed_bytes(site.role, load, _maps_bytes(site)) + kept
    free = room.free_bytes(site.work)
    what = f"{load.parameters / 1e6:.3g} million parameters, {load.sources} sources, {load.rows} rows"
    purpose = "contributions, checkpoints and prepared cases" if kept else "contributions and checkpoints"
    sentence = f"{_gb(free)} free in {site.work}; {_gb(needed)} needed for {purpose} ({what})"
    if free < needed:
        return Line(
            "disk", "error" if asked else "warning", sentence, "free some space, or set another `work` in [site]"
        )
    if free < 2 * needed:
        return Line("disk", "warning", sentence, "there is room for one campaign, not for two")
    return Line("disk", "ok", sentence)


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e6:.2f} MB"


def _maps_bytes(site: Site) -> int:
    """The size of the label maps of the test cases."""
    try:
        chosen = cases.select(cases.scan(site.data)[0], site.data.cases)
        return sum(one.label.stat().st_size for one in cases.split(chosen, site.data, seed=0).test)
    except (FedmergeError, OSError):
        return 0


def policy(site: Site) -> list[Line]:
    """The policy in words, a line a key; yellow where a line declines every task of the site's own role."""
    against = wording.obstacles(site)
    return [
        Line(
            f"policy: {key}",
            "warning" if key in against else "ok",
            sentence + (f" ({against[key]})" if key in against else ""),
            f"every task will be declined; if the hospital wants to take part, set `{key}` of [policy] in site.toml"
            if key in against
            else "",
        )
        for key, sentence in wording.sentences(site.policy).items()
    ]


def campaign(site: Site, asked: Asked) -> list[Line]:
    """Whether the site and its policy fit a campaign that the coordinator sent."""
    policy, where = site.policy, f"campaign {asked.name}"
    told: list[Line] = []
    if site.name not in asked.roles:
        known = ", ".join(asked.roles)
        told.append(Line(where, "error", f"it has no site '{site.name}'; its sites are {known}", "ask the coordinator"))
    elif asked.roles[site.name] != site.role:
        sentence = f"it has {site.name} as a {asked.roles[site.name]}, [site] in site.toml says {site.role}"
        told.append(Line(where, "error", sentence, "agree on the role with the coordinator, and set `role` of [site]"))
    else:
        told.append(Line(where, "ok", f"it has {site.name} as a {site.role}"))
    for key, allowed, value in (("campaigns", policy.campaigns, asked.name), ("nets", policy.nets, asked.net)):
        if allowed is not None and value not in allowed:
            sentence = f"the policy's '{key}' does not list '{value}': every task of this campaign will be declined"
            told.append(Line(where, "error", sentence, f"add it to `{key}` of [policy], if the hospital agrees"))
    if site.role == "source":
        told += _limits(site, asked, where)
    return told + spelling(site, {name: own for name, own in asked.labels.items() if name != site.name}, where)


def _limits(site: Site, asked: Asked, where: str) -> list[Line]:
    """Whether the policy's limits leave room for a contribution to this campaign."""
    policy, told = site.policy, []
    size, gone = 2 * room.FLOAT * asked.load.parameters, len(list((site.work / "sent").glob("*")))
    if policy.max_bytes is not None and size > policy.max_bytes:
        sentence = f"a contribution has about {size:,} bytes, the policy's 'max_bytes' lets {policy.max_bytes:,} go"
        told.append(Line(where, "error", sentence, "raise `max_bytes` of [policy], if the hospital agrees"))
    if policy.max_contributions is not None and gone >= policy.max_contributions:
        sentence = f"{gone} contributions have left, the policy's 'max_contributions' is {policy.max_contributions}"
        how = "raise `max_contributions` of [policy], if the hospital agrees; the same one may be sent again"
        told.append(Line(where, "warning", sentence, how))
    return told


def spelling(site: Site, others: Mapping[str, Sequence[str]], where: str) -> list[Line]:
    """Whether the site's labels have the names that others use for the same structures.

    Args:
        site: whose labels to look at.
        others: who -> label names.
        where: the check's name in the table.
    """
    if not others:
        return []
    own = tuple(site.data.labels)
    told = []
    for a, x, b, y in labels.misspelt({**others, site.name: own}):
        if b == site.name:
            sentence = f"the label '{y}' is spelt '{x}' at {a}"
            told.append(
                Line(where, "error", sentence, "rename it under `labels` of [data]: the same structure, one name")
            )
    if not told:
        told.append(Line(where, "ok", f"the labels {', '.join(own)} are spelt as at {', '.join(others)}"))
    return told


def agreed(site: Site, names: Sequence[str]) -> list[Line]:
    """Whether the site's labels have the names that the consortium has agreed on.

    Args:
        site: whose labels to look at.
        names: of the table `[labels]` that travels in the roster; empty: nothing was agreed on.
    """
    where = "labels"
    if not names:
        return [Line(where, "ok", "the consortium has not agreed on names of labels")]
    told = spelling(site, {"the consortium": names}, where)
    misspelt = [line for line in told if line.result == "error"]
    for label in site.data.labels:
        if label not in names and not any(f"'{label}'" in line.found for line in misspelt):
            sentence = f"the label '{label}' is not among those that the consortium has agreed on: {', '.join(names)}"
            misspelt.append(Line(where, "warning", sentence, "ask the coordinator to add it, or use the agreed name"))
    return misspelt or told
