"""Finding a site's cases on disk: Decathlon / nnU-Net folders, or one folder a case.

- `msd`: `imagesTr/ID.nii.gz` (one channel, or several in a fourth dimension) or nnU-Net's `imagesTr/ID_0000.nii.gz`
  with one file a channel, `labelsTr/ID.nii.gz`, and `dataset.json` with the names of the modalities.
- `folders`: `ID/T1.nii.gz`, `ID/FLAIR.nii.gz`, ..., `ID/label.nii.gz`; `ID_T1.nii.gz` inside `ID/` works too.
- `phantom`: synthetic cases, written in the first layout on first use.
- `classes`: `CLASS/NAME.png` (or .jpg, .bmp, .tif, .nii.gz), a folder for each class; with a table `phantom` they are
  synthetic, written on first use.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmerge.errors import DataError
from sites import phantom, spots
from sites.records import Data
from sites.volumes import SUFFIXES, stem

# Ids that tell the patient: BIDS, BraTS with timepoints, and "NAME_visit2" in its usual spellings.
PATIENTS = (
    re.compile(r"(sub-[A-Za-z0-9]+)(?:[_-].*)?"),
    re.compile(r"(BraTS-[A-Z]+-\d+)-\d{3}"),
    re.compile(r"(.+?)[_-](?:ses|session|visit|scan|time|tp)[_-]?[A-Za-z0-9]+"),
)

_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
PICTURES = (*_ENDINGS, *map(str.upper, _ENDINGS), *SUFFIXES)
SYNTHETIC: dict[str, Any] = {"phantom": phantom, "classes": spots}  # layout -> how its synthetic cases are made


@dataclass(frozen=True)
class Found:
    """A case's files: one image a modality (or one file with all of them), and the label map.

    `patient` is None where the id does not tell. `lent` is the case whose label map this one is trained with, where a
    simulation makes the labels meaningless. `group` is the class folder of a picture, whose file is its label too.
    """

    id: str
    patient: str | None
    images: tuple[Path, ...]
    label: Path
    lent: "Found | None" = None
    group: str = ""


def find(data: Data) -> list[Found]:
    """The folder's cases, sorted by id.

    Raises:
        DataError: the folder is missing or empty, or a case is not complete.
    """
    found, problems = scan(data)
    if problems:
        raise DataError(next(iter(problems.values())))
    return found


def scan(data: Data) -> tuple[list[Found], dict[str, str]]:
    """The complete cases, sorted by id, and for each other one ("" for the folder) a sentence why not."""
    if data.phantom is not None:
        SYNTHETIC[data.layout].ensure(data.folder, **data.phantom)
    if not data.folder.is_dir():
        return [], {"": f"there is no folder {data.folder}"}
    if data.layout == "classes":
        return _class_folders(data)
    images = _one_folder_a_case(data) if data.layout == "folders" else _decathlon(data)
    labels = {case: files.pop(_LABEL, None) for case, files in images.items()}
    expected = _names(data, images)
    found, problems = [], {}
    for case in sorted(images):
        got = images[case]
        files = [got[name] for name in expected if name in got]
        if list(got) == [_ALL]:
            files = [got[_ALL]]
        elif set(got) != set(expected):
            have, want = ", ".join(sorted(got)) or "none", ", ".join(expected)
            problems[case] = f"{data.folder.name}: case '{case}' has the modalities {have}, expected {want}"
            continue
        label = labels[case]
        if label is None:
            problems[case] = f"{data.folder.name}: case '{case}' has no label map"
            continue
        found.append(Found(case, patient(case, data.patient), tuple(files), label))
    if not images:
        problems[""] = f"{data.folder} holds no case in the layout '{data.layout}'"
    return found, problems


def modalities(data: Data) -> tuple[str, ...]:
    """The names of the channels, in order: the site's own, else `dataset.json`'s, else the files'."""
    if data.modalities:
        return data.modalities
    if data.phantom is not None or data.layout == "classes":
        names: tuple[str, ...] = SYNTHETIC[data.layout].MODALITIES
        return names
    if not data.folder.is_dir():
        raise DataError(f"there is no folder {data.folder}")
    files = _one_folder_a_case(data) if data.layout == "folders" else _decathlon(data)
    for case in files.values():
        case.pop(_LABEL, None)
    return _names(data, files)


def patient(case: str, pattern: str | None) -> str | None:
    """The patient that a case's id tells, by the site's own pattern or by the usual ones."""
    for known in (re.compile(pattern),) if pattern else PATIENTS:
        match = known.match(case) if pattern else known.fullmatch(case)
        if match:
            return match[1]
    return None


def _class_folders(data: Data) -> tuple[list[Found], dict[str, str]]:
    """The pictures of the folders that `labels` names; those that `background` names are left aside."""
    wanted = [name for names in data.labels.values() for name in names]
    there = {path.name: path for path in sorted(data.folder.iterdir()) if path.is_dir() and path.name[0] != "."}
    problems = {
        f"{name}/": f"{data.folder.name}: the class folder '{name}' is not declared; declared are {', '.join(wanted)}"
        for name in there
        if name not in (*wanted, *data.background)
    }
    found = []
    for name in wanted:
        pictures = _files(there[name], PICTURES) if name in there else []
        if not pictures:
            problems[f"{name}/"] = f"{data.folder.name}: the class folder '{name}' holds no picture"
        seen: set[str] = set()
        for path in pictures:
            short = stem(path) if path.name.endswith(SUFFIXES) else path.stem
            if short in seen:
                problems[f"{name}/{short}"] = f"{data.folder.name}: two pictures have the name '{name}/{short}'"
            seen.add(short)
            found.append(Found(f"{name}/{short}", patient(short, data.patient), (path,), path, group=name))
    return sorted(found, key=lambda one: one.id), problems


_LABEL = "\0label"
_ALL = "\0all"
Files = dict[str, dict[str, Path]]  # case -> modality, _LABEL or _ALL -> file


def _one_folder_a_case(data: Data) -> Files:
    cases: Files = {}
    for folder in sorted(data.folder.iterdir()):
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        files: dict[str, Path] = {}
        for path in _volumes(folder):
            name = stem(path).removeprefix(folder.name).lstrip("_-") or stem(path)
            if name == data.label_file:
                files[_LABEL] = path
            elif not data.modalities or name in data.modalities:
                files[name] = path
        if files:
            cases[folder.name] = files
    if not data.modalities:
        for files in cases.values():
            files.pop("", None)
    return cases


def _decathlon(data: Data) -> Files:
    labels = {stem(path): path for path in _volumes(data.folder / "labelsTr")}
    names = _declared(data)
    cases: Files = {}
    for path in _volumes(data.folder / "imagesTr"):
        case, channel = stem(path), _ALL
        numbered = re.fullmatch(r"(.+)_(\d{4})", case)
        if numbered and case not in labels and (numbered[1] in labels or len(names or ()) > 1):
            case, k = numbered[1], int(numbered[2])
            channel = names[k] if names is not None and k < len(names) else f"channel_{k:04d}"
        cases.setdefault(case, {})[channel] = path
    for case, path in labels.items():
        cases.setdefault(case, {})[_LABEL] = path
    return cases


def _names(data: Data, cases: Files) -> tuple[str, ...]:
    declared = None if data.layout == "folders" else _declared(data)
    if declared is not None:
        return declared
    if data.modalities:
        return data.modalities
    seen = {name for files in cases.values() for name in files} - {_LABEL, _ALL}
    return tuple(sorted(seen)) or ("image",)


def _declared(data: Data) -> tuple[str, ...] | None:
    """The modalities of the site's settings and of dataset.json, which have to agree in number."""
    path = data.folder / "dataset.json"
    if not path.is_file():
        return data.modalities or None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        table: Mapping[str, str] = content.get("channel_names") or content.get("modality") or {}
        names = tuple(str(table[key]) for key in sorted(table, key=int))
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{path} is not a dataset.json as of the Decathlon or nnU-Net: {error}") from None
    if data.modalities and names and len(names) != len(data.modalities):
        want, got = ", ".join(data.modalities), ", ".join(names)
        raise DataError(f"{path} has the modalities {got}, expected {want}")
    return data.modalities or names or None


def _volumes(folder: Path) -> list[Path]:
    """The NIfTI files of a folder, sorted."""
    return _files(folder, SUFFIXES) if folder.is_dir() else []


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files by their endings, sorted; dot files are what macOS leaves in archives."""
    return sorted(p for p in folder.iterdir() if p.name.endswith(suffixes) and not p.name.startswith("."))
