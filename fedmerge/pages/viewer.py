"""The viewer's part of a page: its controls, its panels, and the cases for its scripts.

`viewer.js` knows what is shown, and two others draw it: `slices.js`, which needs nothing, or NiiVue through
`niivue.js`, where `make viewer` has built it in. A page with NiiVue has the slices too, for browsers without WebGL 2.
"""

from collections.abc import Mapping, Sequence
from html import escape

from fedmerge import colours
from fedmerge.pages import markup
from fedmerge.pages.cases import Packed

NIIVUE = markup.FOLDER / "niivue/built/niivue.js"
PLANES = ("axial", "coronal", "sagittal")
UNITS = {"hd95": ("HD95", "mm", 1)}  # of scores that are no shares: name, unit, digits
AXES = {"x": "Left to right", "y": "Back to front", "z": "Foot to head"}


def scripts(*, niivue: bool) -> tuple[str, ...]:
    """What runs at the end of a page with a viewer, in its order.

    Args:
        niivue: with NiiVue's file, which has to be there (`NIIVUE`).
    """
    names = ("slices.js", *["niivue.js"] * niivue, "viewer.js")
    own = "".join((markup.FOLDER / name).read_text(encoding="utf-8") for name in names)
    return (NIIVUE.read_text(encoding="utf-8"), own) if niivue else (own,)


def part(
    packed: Packed,
    methods: Sequence[str],
    labels: Sequence[str],
    names: Mapping[str, str],
    pair: tuple[str, str],
    *,
    niivue: bool = False,
) -> str:
    """The viewer.

    Args:
        packed: at least one case.
        methods: those whose label maps the cases have.
        labels: the names of 1..K.
        names: of the cases' scores, by key.
        pair: the methods that are shown at first.
        niivue: NiiVue draws where it can.
    """
    told = {key: UNITS.get(key, (name, "", 3)) for key, name in names.items()}
    settings = {
        "cases": len(packed.cases),
        "labels": list(labels),
        "colours": [_hex(colour) for colour in colours.of(labels).values()],
        "measures": {key: dict(zip(("name", "unit", "digits"), one)) for key, one in told.items()},
    }
    data = [markup.data("viewer-settings", settings)]
    data += [markup.data(f"case-{k}", one) for k, one in enumerate(packed.cases)]
    by = '<p id="viewer-by" class="quiet">Drawn by NiiVue.</p>' if niivue else ""
    return (
        f'<div id="viewer">{_controls(packed, labels, niivue=niivue)}'
        f'<div class="panes">{_pane("truth", "annotated")}'
        f"{_pane('a', '', _methods('a', methods, pair[0]))}{_pane('b', '', _methods('b', methods, pair[1]))}</div>"
        f'<p id="viewer-say" role="status">The images are being opened.</p>{_slices()}{by}</div>' + "\n".join(data)
    )


def _hex(colour: colours.Colour) -> str:
    """The colour that the label has in the tables for viewers, too."""
    return "#" + bytes(colour).hex()


def _controls(packed: Packed, labels: Sequence[str], *, niivue: bool) -> str:
    cases = "".join(f'<option value="{k}">{escape(one["case"])}</option>' for k, one in enumerate(packed.cases))
    views = {**{plane: plane for plane in PLANES}, "all": "all three", **({"render": "3D"} if niivue else {})}
    planes = "".join(
        f'<label{" class=deep" * (view == "render")}><input type="radio" name="viewer-plane" value="{view}"'
        f"{' checked' * (view == 'axial')}><span>{words}</span></label>"
        for view, words in views.items()
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
        f'<div class="sheet slice"><canvas data-side="{side}" data-plane="{plane}" tabindex="0" role="img" '
        f'aria-label="{name}, {plane} slice; arrow keys move the cross-hair, page keys the slice"></canvas></div>'
        for plane in PLANES
    )
    return f'<div class="pane" data-side="{side}"><div class="head">{head}{score}</div>{sheets}</div>'


def _slices() -> str:
    sliders = "".join(
        f'<div class="control"><label for="viewer-{axis}">{words}: voxel '
        f'<output id="viewer-{axis}-at">0</output></label>'
        f'<input type="range" id="viewer-{axis}" min="0" max="1" value="0"></div>'
        for axis, words in AXES.items()
    )
    return f'<div class="controls">{sliders}</div>'
