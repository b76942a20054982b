"""What the values of a label map mean, in the forms that viewers read: a file a viewer beside the predictions.

`docs/ecosystem.md` says where each form is specified, and how a viewer is told to read it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from fedmerge import colours, whole
from fedmerge.colours import Colour

Row = tuple[int, str, Colour]  # value, name, colour


def files(labels: Sequence[str]) -> dict[str, str]:
    """File name -> text, for each of `FORMS`.

    Args:
        labels: the names of the values 1..K; 0 is the background.
    """
    drawn = colours.of(labels)
    rows = [(value, " ".join(name.split()), drawn[name]) for value, name in enumerate(labels, start=1)]
    return {name: form(rows) for name, form in FORMS.items()}


def write(folder: Path, labels: Sequence[str]) -> None:
    """Write the files into a folder, which is made where it is not there."""
    for name, text in files(labels).items():
        whole.write(folder / name, text.encode())


def others(folder: Path, labels: Sequence[str]) -> Path | None:
    """A file of these that is in the folder already, and of other labels; None where there is none."""
    for name, text in files(labels).items():
        if (path := folder / name).exists() and path.read_bytes() != text.encode():
            return path
    return None


def itksnap(rows: Sequence[Row]) -> str:
    """ITK-SNAP's label description: value, red, green, blue, opacity 0 to 1, visible, visible in 3D, "name"."""
    head = ["# ITK-SnAP Label Description File", "# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL"]
    body = [(0, "Clear Label", (0, 0, 0), 0), *((value, _quoted(name), colour, 1) for value, name, colour in rows)]
    return _lines(head, [
        f'{value:5} {r:5} {g:4} {b:4} {seen:8} {seen:2} {seen:3}    "{name}"' for value, name, (r, g, b), seen in body
    ])  # fmt: skip


def slicer(rows: Sequence[Row]) -> str:
    """3D Slicer's colour table: value, name without spaces, red, green, blue, opacity 0 to 255."""
    head = ["# Color table file", f"# {len(rows) + 1} values"]
    body = [f"{value} {_word(name)} {r} {g} {b} 255" for value, name, (r, g, b) in rows]
    return _lines(head, ["0 Background 0 0 0 0", *body])


def fsleyes(rows: Sequence[Row]) -> str:
    """FSLeyes' lookup table: value, red, green, blue from 0 to 1, name."""
    return _lines([], [f"{value} {r / 255:.5f} {g / 255:.5f} {b / 255:.5f} {name}" for value, name, (r, g, b) in rows])


def freesurfer(rows: Sequence[Row]) -> str:
    """FreeSurfer's colour table, which FreeView and FSLeyes read: value, name without spaces, red, green, blue, 0."""
    body = [f"{value} {_word(name)} {r} {g} {b} 0" for value, name, (r, g, b) in rows]
    return _lines(["#No. Label_Name R G B A"], ["0 Unknown 0 0 0 0", *body])


FORMS: dict[str, Callable[[Sequence[Row]], str]] = {
    "labels-itksnap.txt": itksnap,
    "labels-slicer.ctbl": slicer,
    "labels-fsleyes.lut": fsleyes,
    "labels-freesurfer.txt": freesurfer,
}


def _lines(head: Sequence[str], body: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in (*head, *body))


def _word(name: str) -> str:
    """The name as one word."""
    return name.replace(" ", "_")


def _quoted(name: str) -> str:
    return name.replace('"', "'")
