"""The layout `brats`: the challenge's folders of 2018 to 2024, under either scheme of names, and whatever is named so.

`CASE/CASE_t1ce.nii.gz` with `_t1 _t1ce _t2 _flair _seg` until 2021, `CASE/CASE-t1c.nii.gz` with `-t1n -t1c -t2w -t2f
-seg` since 2023; at any depth, such as in `HGG/` and `LGG/` as 2018 had them. A file's own name says what it is.
"""

import re
from pathlib import Path

from fedmerge.errors import DataError
from sites.folders.found import LABEL, Listing, first_match, put, seen, volumes_below
from sites.records import Data
from sites.volumes import stem

ORDER = ("T1", "T1ce", "T2", "FLAIR")
WORDS = {
    "t1": "T1", "t1n": "T1", "t1ce": "T1ce", "t1c": "T1ce", "t1gd": "T1ce", "t2": "T2", "t2w": "T2",
    "flair": "FLAIR", "t2f": "FLAIR", "seg": LABEL,
}  # fmt: skip
NAME = re.compile(rf"(?P<case>.+)[_-](?P<word>{'|'.join(WORDS)})", re.IGNORECASE)

# Until 2019 a name ends with the number of a scan; 2020 and 2021 have one scan of each patient; then come timepoints.
PATIENTS = (
    re.compile(r"(BraTS1[789]_.+)_\d+", re.IGNORECASE),
    re.compile(r"((?:BraTS20|FeTS21)_(?:Training|Validation)_\d+)"),
    re.compile(r"((?:BraTS|FeTS)20\d\d_\d+)"),
    re.compile(r"(BraTS-[A-Z]+-\d+)-\d{3}"),
)
TIMEPOINT = PATIENTS[-1]

# Why a map must not hold 4 where the site's labels read it the other way.
NOT_ENHANCING = (
    'under names as since 2023 it is no enhancing tumour (2024: a cavity): choose with labels = "brats-post"'
)
NOT_CAVITY = 'under names as until 2021 it is the enhancing tumour: choose with labels = "brats"'


def read(data: Data) -> Listing:
    """All files whose names end as the challenge's do, wherever they lie below the folder.

    Raises:
        DataError: the site names a modality that the challenge does not have.
    """
    if strange := [name for name in data.modalities if name not in ORDER]:
        raise DataError(f"{data.folder.name}: the layout 'brats' has {', '.join(ORDER)}, got the modality {strange[0]}")
    listing = Listing(label="whose name ends with _seg or -seg")
    others: dict[Path, list[str]] = {}
    for path in volumes_below(data.folder):
        match = NAME.fullmatch(stem(path))
        if match is None:
            others.setdefault(path.parent, []).append(path.name)
        elif (name := WORDS[match["word"].lower()]) in (*(data.modalities or ORDER), LABEL):
            put(listing, match["case"], name, path)
    listing.names = data.modalities or seen(listing.cases, ORDER) or ORDER
    for case, files in listing.cases.items():
        if known := first_match(PATIENTS, case):
            listing.patients[case] = known
            listing.never[case] = _never(case, data)
        there = others.get(next(iter(files.values())).parent)
        if LABEL not in files and there and files.keys() == set(listing.names):
            listing.problems[case] = (
                f"case '{case}' has no label map {case}_seg (or -seg), and {', '.join(there)} is named otherwise"
            )
    return listing


def _never(case: str, data: Data) -> tuple[tuple[int, str], ...]:
    """What 4 cannot mean in the year that a case's name tells."""
    if TIMEPOINT.fullmatch(case):
        return ((4, NOT_ENHANCING),) if any({3, 4} <= set(values) for values in data.labels.values()) else ()
    return ((4, NOT_CAVITY),) if 4 in data.labels.get("cavity", ()) else ()
