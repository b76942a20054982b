"""The viewer's part of a page: its controls, its panels, and the cases for its script (`viewer.js`)."""

from collections.abc import Sequence
from html import escape

from fedmerge import colours
from fedmerge.pages import markup
from fedmerge.pages.cases import Packed

SCRIPT = (markup.FOLDER / "viewer.js").read_text(encoding="utf-8")
PLANES = ("axial", "coronal", "sagittal")
AXES = {"x": "Left to right", "y": "Back to front", "z": "Foot to head"}


def part(packed: Packed, methods: Sequence[str], labels: Sequence[str], measure: str, pair: tuple[str, str]) -> str:
    """The viewer.

    Args:
        packed: at least one case.
        methods: those whose label maps the cases have.
        labels: the names of 1..K.
        measure: the name of the cases' scores.
        pair: the methods that are shown at first.
    """
    settings = {
        "cases": len(packed.cases),
        "labels": list(labels),
        "colours": [_hex(colour) for colour in colours.of(labels).values()],
        "measure": measure,
    }
    data = [markup.data("viewer-settings", settings)]
    data += [markup.data(f"case-{k}", one) for k, one in enumerate(packed.cases)]
    return (
        f'<div id="viewer">{_controls(packed, labels)}'
        f'<div class="panes">{_pane("truth", "annotated")}'
        f"{_pane('a', '', _methods('a', methods, pair[0]))}{_pane('b', '', _methods('b', methods, pair[1]))}</div>"
        f'<p id="viewer-say" role="status">The images are being opened.</p>{_slices()}</div>' + "\n".join(data)
    )


def _hex(colour: colours.Colour) -> str:
    """The colour that the label has in the tables for viewers, too."""
    return "#" + bytes(colour).hex()


def _controls(packed: Packed, labels: Sequence[str]) -> str:
    cases = "".join(f'<option value="{k}">{escape(one["case"])}</option>' for k, one in enumerate(packed.cases))
    planes = "".join(
        f'<label><input type="radio" name="viewer-plane" value="{plane}"{" checked" * (plane == "axial")}>'
        f"<span>{'all three' if plane == 'all' else plane}</span></label>"
        for plane in (*PLANES, "all")
    )
    marks = "".join(
        f'<label><input type="checkbox" data-label="{k}" checked><span class="mark" '
        f'style="background:{_hex(colour)}"></span>{escape(name)}</label>'
        for k, (name, colour) in enumerate(colours.of(labels).items(), start=1)
    )
    return (
        '<div class="controls">'
        '<div class="control"><label for="viewer-case">Test case</label><span class="row">'
        '<button type="button" id="viewer-before" aria-label="case before">‹</button>'
        f'<select id="viewer-case">{cases}</select>'
        '<button type="button" id="viewer-after" aria-label="next case">›</button></span></div>'
        f'<fieldset class="control"><legend>Plane</legend><span class="row planes">{planes}</span></fieldset>'
        '<div class="control"><label for="viewer-opacity">Opacity of the labels</label>'
        '<input type="range" id="viewer-opacity" min="0" max="100" value="55"></div>'
        '</div><div class="controls second">'
        f'<fieldset class="control labels"><legend>Labels</legend><span class="row">{marks}</span></fieldset>'
        '<fieldset class="control"><legend>Drawn as</legend><span class="row">'
        '<label><input type="checkbox" id="viewer-lines">outlines only</label>'
        '<label><input type="checkbox" id="viewer-truth">annotation over both</label></span></fieldset></div>'
    )


def _methods(side: str, methods: Sequence[str], chosen: str) -> str:
    options = "".join(
        f'<option value="{escape(name)}"{" selected" * (name == chosen)}>{escape(name)}</option>' for name in methods
    )
    which = "first" if side == "a" else "second"
    return f'<select id="viewer-{side}" aria-label="{which} method">{options}</select>'


def _pane(side: str, title: str, choice: str = "") -> str:
    head = choice or f"<span>{title}</span>"
    name = title or ("first method" if side == "a" else "second method")
    score = f'<span class="score" id="viewer-score-{side}"></span>' if choice else ""
    sheets = "".join(
        f'<div class="sheet"><canvas data-side="{side}" data-plane="{plane}" tabindex="0" role="img" '
        f'aria-label="{name}, {plane} slice; arrow keys move the cross-hair, page keys the slice"></canvas></div>'
        for plane in PLANES
    )
    return f'<div class="pane"><div class="head">{head}{score}</div>{sheets}</div>'


def _slices() -> str:
    sliders = "".join(
        f'<div class="control"><label for="viewer-{axis}">{words}: voxel '
        f'<output id="viewer-{axis}-at">0</output></label>'
        f'<input type="range" id="viewer-{axis}" min="0" max="1" value="0"></div>'
        for axis, words in AXES.items()
    )
    return f'<div class="controls">{sliders}</div>'
