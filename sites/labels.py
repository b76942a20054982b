"""Label maps: what the values of well-known annotations mean, and from a site's values to 1..K."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import numpy.typing as npt

from fedmerge.errors import DataError
from sites import freesurfer

# The aseg part of FreeSurfer's colour table, both hemispheres under one name.
FREESURFER: dict[str, tuple[int, ...]] = {
    "white-matter": (2, 41),
    "cortex": (3, 42),
    "lateral-ventricle": (4, 43),
    "inferior-lateral-ventricle": (5, 44),
    "cerebellum-white-matter": (7, 46),
    "cerebellum-cortex": (8, 47),
    "thalamus": (10, 49),
    "caudate": (11, 50),
    "putamen": (12, 51),
    "pallidum": (13, 52),
    "third-ventricle": (14,),
    "fourth-ventricle": (15,),
    "brainstem": (16,),
    "hippocampus": (17, 53),
    "amygdala": (18, 54),
    "csf": (24,),
    "accumbens": (26, 58),
    "ventral-dc": (28, 60),
}

# Since 2023 the enhancing tumour is 3, until 2021 it was 4: 1 necrosis, 2 oedema, 4 enhancing, as
# https://www.med.upenn.edu/sbia/brats2018/tasks.html has it (2018), and the same for 2019 to 2021; 3 from the naming
# BraTS-GLI-00000-000 on (Synapse syn51156910, 2023).
BRATS: dict[str, tuple[int, ...]] = {"necrosis": (1,), "oedema": (2,), "enhancing": (3, 4)}

# After treatment (BraTS 2024, adult glioma; de Verdier et al., arXiv:2405.18368) 4 is the hole that the surgeon left.
# It is no tumour: no region but its own holds it.
BRATS_POST: dict[str, tuple[int, ...]] = {"necrosis": (1,), "oedema": (2,), "enhancing": (3,), "cavity": (4,)}

# What the challenge scores: whole tumour, tumour core, enhancing tumour.
REGIONS: dict[str, tuple[str, ...]] = {
    "WT": ("necrosis", "oedema", "enhancing"),
    "TC": ("necrosis", "enhancing"),
    "ET": ("enhancing",),
}

HIPPOCAMPUS: dict[str, tuple[int, ...]] = {"anterior": (1,), "posterior": (2,)}


@dataclass(frozen=True)
class Table:
    """A well-known annotation.

    Attributes:
        labels: name -> the values that mean it, in the order of a net's channels.
        known: values that its files may hold besides, all of them background.
        regions: unions of labels that scores are taken of.
    """

    labels: Mapping[str, tuple[int, ...]]
    known: tuple[int, ...] = ()
    regions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


TABLES: dict[str, Table] = {
    "freesurfer": Table(freesurfer.parcelled(FREESURFER), freesurfer.in_brain()),
    "freesurfer-14": Table(freesurfer.parcelled(freesurfer.CLASSES), freesurfer.in_brain()),
    "brats": Table(BRATS, regions=REGIONS),
    "brats-post": Table(BRATS_POST, regions={**REGIONS, "RC": ("cavity",)}),
    "hippocampus": Table(HIPPOCAMPUS),
}
"""A site's file takes a table whole (`labels = "brats"`), in part, or name by name (`csf = "freesurfer:csf"`)."""


def remap(
    values: npt.NDArray[np.generic],
    labels: Mapping[str, Sequence[int]],
    background: Sequence[int] = (),
    *,
    never: Mapping[int, str] | None = None,
    who: str = "label map",
) -> npt.NDArray[np.uint8]:
    """A site's label values to 0..K, in the order of `labels`.

    Args:
        values: label map of any shape and any numeric dtype; the values are whole numbers.
        labels: name -> the values that mean it, for the channels 1..K.
        background: declared values that count as background; 0 always does.
        never: values that this file must not hold, whatever is declared -> why.
        who: the site and file, for the error.

    Returns:
        uint8 of the same shape.

    Raises:
        DataError: a value is not a whole number, must not be there, or the site did not declare it.
    """
    if not np.issubdtype(values.dtype, np.integer):
        whole = np.rint(values)
        if not np.array_equal(whole, values):
            bad = values[whole != values].flat[0]
            raise DataError(f"{who}: label values expected whole numbers, got {bad:g}")
        values = whole.astype(np.int64)
    table = {0: 0} | dict.fromkeys(background, 0)
    table |= {value: k for k, name in enumerate(labels, start=1) for value in labels[name]}
    there = present(values)
    for value, reason in (never or {}).items():
        if value in there:
            raise DataError(f"{who}: label value {value} is there, and {reason}")
    unknown = [value for value in there if value not in table]
    if unknown:
        raise DataError(
            f"{who}: label value {', '.join(map(str, unknown))} is not declared; declared are {in_words(table)}"
        )
    if _small(values):
        numbers = np.zeros(1 + max(there), np.uint8)
        numbers[there] = [table[value] for value in there]
        return np.asarray(numbers[values])
    out = np.zeros(values.shape, np.uint8)
    for value in there:
        if table[value]:
            out[values == value] = table[value]
    return out


def in_words(values: Iterable[int]) -> str:
    """Whole numbers in order; five or more in a row are told by their ends."""
    rows: list[list[int]] = []
    for value in sorted(values):
        if rows and value == rows[-1][-1] + 1:
            rows[-1].append(value)
        else:
            rows.append([value])
    return ", ".join(f"{row[0]} to {row[-1]}" if len(row) > 4 else ", ".join(map(str, row)) for row in rows)


def present(values: npt.NDArray[np.generic]) -> list[int]:
    """The sorted distinct values; counting is ten times as fast as sorting where the values are small."""
    if not np.issubdtype(values.dtype, np.integer):
        values = np.rint(values)
    elif _small(values):
        return [int(v) for v in np.flatnonzero(np.bincount(values.ravel().astype(np.intp)))]
    return [int(v) for v in np.unique(values)]


def _small(values: npt.NDArray[np.generic]) -> bool:
    return bool(values.size) and int(values.min()) >= 0 and int(values.max()) < 1 << 16


def misspelt(sites: Mapping[str, Sequence[str]]) -> list[tuple[str, str, str, str]]:
    """Pairs of label names of two sites that look like one name in two spellings.

    Two names are suspicious when they are the same letters in another dress (case, spaces, dashes), or when a
    long word of one is a single edit away from the other's. A site that uses both names means two things.

    Args:
        sites: name of a site -> its label names.

    Returns:
        (site, name there, other site, name there), each pair of names once.
    """
    found: list[tuple[str, str, str, str]] = []
    seen: set[frozenset[str]] = set()
    for (a, names_a), (b, names_b) in combinations(sites.items(), 2):
        for x in names_a:
            for y in names_b:
                pair = frozenset((x, y))
                known = any(x in own and y in own for own in sites.values())
                if x != y and not known and pair not in seen and _alike(x, y):
                    seen.add(pair)
                    found.append((a, x, b, y))
    return found


def _alike(x: str, y: str) -> bool:
    words_x, words_y = (re.findall(r"[^\W\d_]+|\d+", name.casefold()) for name in (x, y))
    if "".join(words_x) == "".join(words_y):
        return True
    if len(words_x) != len(words_y):
        return False
    differing = [(a, b) for a, b in zip(words_x, words_y, strict=True) if a != b]
    return all(min(len(a), len(b)) >= 4 and _one_edit(a, b) for a, b in differing)


def _one_edit(a: str, b: str) -> bool:
    """Whether one letter inserted, left out, exchanged or swapped with its neighbour makes a into b."""
    if len(a) > len(b):
        a, b = b, a
    k = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), len(a))
    if len(a) < len(b):
        return a[k:] == b[k + 1 :]
    swapped = a[k : k + 2] == b[k : k + 2][::-1] and a[k + 2 :] == b[k + 2 :]
    return a[k + 1 :] == b[k + 1 :] or swapped
