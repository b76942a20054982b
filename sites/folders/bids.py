"""The layout `bids`: images in `sub-X[/ses-Y]/anat/`, label maps in `derivatives/NAME/sub-X[/ses-Y]/.../*_dseg.nii.gz`.

A file is known by its entities (`run-1`, `desc-aseg`, ...) and its suffix (`T1w`, `dseg`). Where a case has several
files for one thing the settings choose, by as many entities as it takes: `label_file = "desc-aseg_dseg"`. Images are
looked for beside the raw ones first, then in the derivative that holds the label maps; masks in that derivative first,
then beside the raw images, then in all derivatives.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedmerge.errors import DataError
from sites.folders.found import LABEL, MASK, Listing, folders, volumes_below
from sites.records import Data
from sites.volumes import stem

KINDS = {"T1w": "T1", "T2w": "T2", "FLAIR": "FLAIR", "PDw": "PD"}  # suffix -> modality, as other layouts call it
ORDER = ("T1", "T1ce", "T2", "FLAIR", "PD")
DERIVED = ("desc", "space", "res", "den", "label", "seg", "atlas")  # entities that an image as scanned does not have


@dataclass(frozen=True)
class Named:
    """A file, and what its name says. `case` is `sub-X` or `sub-X_ses-Y`; `entities` are the others."""

    path: Path
    case: str
    entities: Mapping[str, str]
    suffix: str

    @property
    def modality(self) -> str:
        """The common name of a contrast; T1w with a contrast agent (`ce-`) is T1ce."""
        if self.suffix == "T1w" and "ce" in self.entities:
            return "T1ce"
        return KINDS.get(self.suffix, self.suffix)

    @property
    def short(self) -> str:
        """The name without subject and session: what the settings choose a file by."""
        return "_".join([*(f"{key}-{value}" for key, value in self.entities.items()), self.suffix])


def read(data: Data) -> Listing:
    """Every subject and session that has an image or a label map.

    Raises:
        DataError: the derivative is not there, or there are several and the settings do not say which.
    """
    raw = _tree(data.folder)
    shape = _parse(data.label_file or "dseg")
    derived = _derivative(data, shape.suffix) or raw
    names = data.modalities or _seen([*raw, *derived])
    asked = {name: _parse(file) for name, file in data.files.items()}
    images, beside = _by_case(raw), _by_case(derived)
    trees = [beside, images, _by_case(_everywhere(data))] if data.mask_file else []
    listing = Listing(names=names, label=f"{data.label_file or '*_dseg'}, beside its images or in a derivative")
    listing.mask = f"{data.mask_file}, beside its images or in a derivative" if data.mask_file else ""
    for case in sorted({*images, *beside}):
        drawn = [one for one in beside.get(case, ()) if one.suffix == shape.suffix]
        chosen = {LABEL: _chosen(drawn, shape if data.label_file else None)}
        for name in names:
            first, second = (
                _chosen([one for one in tree.get(case, ()) if _is(one, name, asked.get(name))], asked.get(name))
                for tree in (images, beside)
            )
            chosen[name] = _beside(first or second, chosen[LABEL])
        if data.mask_file:
            masks = (_masks(tree.get(case, ()), _parse(data.mask_file)) for tree in trees)
            chosen[MASK] = _beside(next(filter(None, masks), []), chosen[LABEL])
        got = {name: files[0].path for name, files in chosen.items() if files}
        if got:
            listing.cases[case] = got
        for name, files in chosen.items():
            if len(files) > 1:
                listing.problems.setdefault(case, _ambiguous(case, name, files))
    return listing


def _everywhere(data: Data) -> list[Named]:
    """The files of all derivatives."""
    folder = data.folder / "derivatives"
    return [one for path in folders(folder) for one in _tree(path)] if folder.is_dir() else []


def _masks(files: Iterable[Named], asked: Named) -> list[Named]:
    """The masks that the settings ask for."""
    return _chosen([one for one in files if one.suffix == asked.suffix], asked)


def _by_case(files: Iterable[Named]) -> dict[str, list[Named]]:
    cases: dict[str, list[Named]] = {}
    for one in files:
        cases.setdefault(one.case, []).append(one)
    return cases


def _tree(folder: Path) -> list[Named]:
    """The volumes of all subjects of a dataset whose names BIDS can read."""
    subjects = [path for path in folders(folder) if path.name.startswith("sub-")]
    return [one for subject in subjects for path in volumes_below(subject) if (one := _parse(stem(path), path)).case]


def _parse(text: str, path: Path = Path()) -> Named:
    """`[sub-X_][ses-Y_][key-value_...]suffix`; a name that is no such chain has no case."""
    *chain, suffix = text.split("_")
    pairs = dict(part.partition("-")[::2] for part in chain)
    case = "_".join(f"{key}-{pairs.pop(key)}" for key in ("sub", "ses") if key in pairs)
    return Named(path, case if all(pairs.values()) else "", pairs, suffix)


def _derivative(data: Data, suffix: str) -> list[Named] | None:
    """The files of the derivative that the label maps are in; None where there is no derivative with any."""
    folder = data.folder / "derivatives"
    there = {path.name: path for path in folders(folder)} if folder.is_dir() else {}
    if data.derivative is not None:
        if data.derivative not in there:
            raise DataError(f"{folder} has no derivative '{data.derivative}', it has {', '.join(there) or 'none'}")
        return _tree(there[data.derivative])
    trees = {name: _tree(path) for name, path in there.items()}
    trees = {name: tree for name, tree in trees.items() if any(one.suffix == suffix for one in tree)}
    if len(trees) > 1:
        raise DataError(
            f"{folder} has *_{suffix} files in {', '.join(trees)}: choose with derivative = '{next(iter(trees))}'"
        )
    return next(iter(trees.values()), None)


def _seen(files: Iterable[Named]) -> tuple[str, ...]:
    """The well-known modalities that any case has."""
    there = {one.modality for one in files}
    return tuple(name for name in ORDER if name in there) or ORDER[:1]


def _is(one: Named, name: str, asked: Named | None) -> bool:
    """Whether a file is an image of this modality, by its own name or by what the settings ask for."""
    return one.suffix == asked.suffix if asked else name in (one.modality, one.suffix)


def _chosen(files: Sequence[Named], asked: Named | None) -> list[Named]:
    """Those with the entities that the settings ask for; one that has no others is meant before all."""
    if asked is None:
        return list(files)
    fitting = [one for one in files if asked.entities.items() <= one.entities.items()]
    return [one for one in fitting if one.entities == asked.entities] or fitting


def _beside(images: list[Named], labels: Sequence[Named]) -> list[Named]:
    """Of several images those that the label map was drawn on: in its space, of its run and acquisition."""
    if len(images) < 2 or len(labels) != 1:
        return images
    drawn = labels[0].entities
    own = {key: value for key, value in drawn.items() if key not in DERIVED}
    same = [one for one in images if one.entities.get("space") == drawn.get("space")] or images
    return [one for one in same if own.items() <= one.entities.items()] or same


def _ambiguous(case: str, name: str, files: Sequence[Named]) -> str:
    """What there is, and the line that would choose the first of it."""
    what, key = f"images of {name}", f'files = {{ {name} = "{files[0].short}" }}'
    if name == LABEL:
        what, key = "label maps", f'label_file = "{files[0].short}"'
    if name == MASK:
        what, key = "masks", f'mask_file = "{files[0].short}"'
    return f"case '{case}' has {len(files)} {what}, {', '.join(one.short for one in files)}: choose with {key}"
