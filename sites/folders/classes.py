"""The layout `classes`: `CLASS/NAME.png` (or .jpg, .bmp, .tif, or a volume of one slice), a folder for each class."""

from sites.folders.found import Found, files, folders, patient
from sites.records import Data
from sites.volumes import SUFFIXES, stem

_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
PICTURES = (*_ENDINGS, *map(str.upper, _ENDINGS), *SUFFIXES)


def scan(data: Data) -> tuple[list[Found], dict[str, str]]:
    """The pictures of the folders that `labels` names; those that `background` names are left aside."""
    wanted = [name for names in data.labels.values() for name in names]
    there = {path.name: path for path in folders(data.folder)}
    problems = {
        f"{name}/": f"{data.folder.name}: the class folder '{name}' is not declared; declared are {', '.join(wanted)}"
        for name in there
        if name not in (*wanted, *data.background)
    }
    found = []
    for name in wanted:
        pictures = files(there[name], PICTURES) if name in there else []
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
