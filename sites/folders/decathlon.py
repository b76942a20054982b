"""The layout `msd`: folders of the Medical Segmentation Decathlon, and of nnU-Net in both its versions.

`imagesTr/ID.nii.gz` (one channel, or several in a fourth dimension) or nnU-Net's `imagesTr/ID_0000.nii.gz` with one
file a channel, `labelsTr/ID.nii.gz`, and `dataset.json` with the names of the channels.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from fedmerge.errors import DataError
from sites.folders.found import ALL, LABEL, Listing, put, seen, volumes
from sites.records import Data
from sites.volumes import SUFFIXES, stem


def read(data: Data) -> Listing:
    """The cases of both folders; an image without a label map is listed, and so is the opposite.

    Raises:
        DataError: dataset.json cannot be read, or speaks of other channels or files than those that there are.
    """
    maps = volumes(data.folder / "labelsTr")
    labels = {stem(path) for path in maps}
    names = _declared(data)
    listing = Listing()
    for path in volumes(data.folder / "imagesTr"):
        case, channel = stem(path), ALL
        numbered = re.fullmatch(r"(.+)_(\d{4})", case)
        if numbered and case not in labels and (numbered[1] in labels or len(names or ()) > 1):
            case, k = numbered[1], int(numbered[2])
            channel = names[k] if names is not None and k < len(names) else f"channel_{k:04d}"
        put(listing, case, channel, path)
    for path in maps:
        put(listing, stem(path), LABEL, path)
    listing.names = names or seen(listing.cases) or ("image",)
    return listing


def _declared(data: Data) -> tuple[str, ...] | None:
    """The modalities of the site's settings and of dataset.json, which have to agree in number."""
    path = data.folder / "dataset.json"
    if not path.is_file():
        return data.modalities or None
    names, ending = _description(path)
    if ending and not ending.endswith(SUFFIXES):
        raise DataError(f"{path} has the file_ending '{ending}', expected one of {', '.join(SUFFIXES)}")
    if data.modalities and names and len(names) != len(data.modalities):
        want, got = ", ".join(data.modalities), ", ".join(names)
        raise DataError(f"{path} has the modalities {got}, expected {want}")
    return data.modalities or names or None


def _description(path: Path) -> tuple[tuple[str, ...], str]:
    """The channels' names, and nnU-Net's ending of all files ("": not told)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        table: Mapping[str, str] = content.get("channel_names") or content.get("modality") or {}
        names = tuple(str(table[key]) for key in sorted(table, key=int))
        return names, str(content.get("file_ending") or "")
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{path} is not a dataset.json as of the Decathlon or nnU-Net: {error}") from None
