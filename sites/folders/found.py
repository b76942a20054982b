"""What a layout's reader finds in a folder, and what the names of cases tell about patients."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sites.volumes import SUFFIXES

LABEL = "\0label"
MASK = "\0mask"
ALL = "\0all"
Files = dict[str, Path]  # modality, LABEL, MASK, or ALL where one file holds every channel -> file

# Ids that tell the patient: BIDS, BraTS with timepoints, and "NAME_visit2" in its usual spellings.
PATIENTS = (
    re.compile(r"(sub-[A-Za-z0-9]+)(?:[_-].*)?"),
    re.compile(r"(BraTS-[A-Z]+-\d+)-\d{3}"),
    re.compile(r"(.+?)[_-](?:ses|session|visit|scan|time|tp)[_-]?[A-Za-z0-9]+"),
)


@dataclass(frozen=True)
class Found:
    """A case's files: one image a modality (or one file with all of them), and the label map.

    `patient` is None where the id does not tell. `lent` is the case whose label map this one is trained with, where a
    simulation makes the labels meaningless. `group` is the class folder of a picture, whose file is its label too.
    `never` are values that the label map must not hold although the site's labels have them, each with the reason.
    `mask` is there where the site crops by one.
    """

    id: str
    patient: str | None
    images: tuple[Path, ...]
    label: Path
    lent: "Found | None" = None
    group: str = ""
    never: tuple[tuple[int, str], ...] = ()
    mask: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files."""
        return (*self.images, self.label, *([self.mask] if self.mask else []))


@dataclass
class Listing:
    """A folder as its layout's reader sees it: nothing says yet that a case is complete.

    Attributes:
        cases: id -> the files of a case.
        names: of the channels, in order.
        problems: id -> a sentence, for what the reader itself cannot decide; such a case is not used.
        patients: id -> patient, where the layout tells it and the id alone would not.
        label: where the label map of a case is expected, for the sentence about one that has none.
        never: id -> as in `Found`.
        mask: where the mask of a case is expected; "": none is asked for.
    """

    cases: dict[str, Files] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    problems: dict[str, str] = field(default_factory=dict)
    patients: dict[str, str] = field(default_factory=dict)
    label: str = ""
    never: dict[str, tuple[tuple[int, str], ...]] = field(default_factory=dict)
    mask: str = ""


def put(listing: Listing, case: str, name: str, path: Path) -> None:
    """Adds a file to a case; two files for one thing are a problem of the case."""
    files = listing.cases.setdefault(case, {})
    if name in files:
        what = {LABEL: "label maps", MASK: "masks", ALL: "images"}.get(name, f"files of the modality {name}")
        both = " and ".join(f"{one.parent.name}/{one.name}" for one in (files[name], path))
        listing.problems[case] = f"case '{case}' has two {what}, {both}"
    files[name] = path


def patient(case: str, pattern: str | None) -> str | None:
    """The patient that a case's id tells, by the site's own pattern or by the usual ones."""
    if pattern:
        match = re.match(pattern, case)
        return match[1] if match else None
    return first_match(PATIENTS, case)


def first_match(patterns: Iterable[re.Pattern[str]], text: str) -> str | None:
    """The group of the first pattern that fits the whole text."""
    return next((match[1] for pattern in patterns if (match := pattern.fullmatch(text))), None)


def seen(cases: dict[str, Files], order: Sequence[str] = ()) -> tuple[str, ...]:
    """The modalities that any case has, in the given order, then by the alphabet."""
    names = {name for files in cases.values() for name in files} - {LABEL, MASK, ALL}
    return tuple(name for name in order if name in names) + tuple(sorted(names.difference(order)))


def volumes(folder: Path) -> list[Path]:
    """The volumes of a folder, sorted; none where there is no such folder."""
    return files(folder, SUFFIXES) if folder.is_dir() else []


def volumes_below(folder: Path) -> Iterator[Path]:
    """The volumes of a folder and of all folders in it, folder by folder, sorted; hidden ones are left aside."""
    yield from volumes(folder)
    for inner in folders(folder):
        yield from volumes_below(inner)


def folders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted; hidden ones are left aside."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files by their endings, sorted; dot files are what macOS leaves in archives."""
    return sorted(p for p in folder.iterdir() if p.name.endswith(suffixes) and not p.name.startswith("."))
