"""The layout `folders`: `ID/T1.nii.gz`, `ID/FLAIR.nii.gz`, ..., `ID/label.nii.gz`; `ID/ID_T1.nii.gz` works too."""

from sites.folders.found import LABEL, MASK, Listing, folders, put, seen, volumes
from sites.records import Data
from sites.volumes import stem


def read(data: Data) -> Listing:
    """One case a folder; files that are none of the site's modalities are left aside."""
    wanted = {data.files.get(name, name): name for name in data.modalities}
    label = data.label_file or "label"
    listing = Listing(label=label, mask=data.mask_file or "")
    for folder in folders(data.folder):
        for path in volumes(folder):
            name = stem(path).removeprefix(folder.name).lstrip("_-") or stem(path)
            if name == data.mask_file:
                put(listing, folder.name, MASK, path)
            if name == label:
                put(listing, folder.name, LABEL, path)
            elif name in wanted or not (data.modalities or name == data.mask_file):
                put(listing, folder.name, wanted.get(name, name), path)
    listing.names = data.modalities or seen(listing.cases) or ("image",)
    return listing
