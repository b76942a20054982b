"""The page: its parts, empty. Its script asks for what is in them, once a second."""

from functools import cache
from pathlib import Path

from fedmerge.pages import markup

FOLDER = Path(__file__).parent
SCRIPT = "".join((FOLDER / name).read_text(encoding="utf-8") for name in ("chart.js", "dashboard.js"))
STYLE = "".join(
    (folder / name).read_text(encoding="utf-8")
    for folder, name in ((markup.FOLDER, "report.css"), (FOLDER, "dashboard.css"))
)
PARTS = ("sites", "timeline", "curves", "scores", "left", "traffic", "messages")
TITLES = {"left": "What left, what was refused", "scores": "Scores so far"}
KINDS = {"loss": "loss", "lr": "learning rate", "validation": "validation"}
LEVELS = {
    "info": "messages",
    "warning": "warnings and errors",
    "error": "errors",
    "progress": "all, with progress",
}


def policy() -> str:
    """What the page may do: run its script, and ask where it came from; nobody may put it into a frame."""
    return f"{markup.policy((SCRIPT,), live=True)}; frame-ancestors 'none'"


@cache
def html() -> str:
    """The page's text; the same for everybody."""
    links = "".join(f'<li data-part="{name}"><a href="#{name}">{name.capitalize()}</a></li>' for name in PARTS)
    bodies = {
        "sites": '<ul id="cards" class="cards"></ul>',
        "timeline": _timeline(),
        "curves": _curves(),
        "scores": '<div id="scores-table"></div>',
        "left": '<div id="left-table" class="tall"></div>',
        "traffic": '<div id="traffic-table"></div>',
        "messages": _messages(),
    }
    body = [
        _header(),
        f'<nav aria-label="parts of this page"><ul>{links}</ul></nav>',
        *(markup.section(TITLES.get(name, name.capitalize()), bodies[name], name=name) for name in PARTS),
        "<noscript>This page needs its script.</noscript>",
    ]
    return markup.document("fedmerge dashboard", body, style=STYLE, scripts=(SCRIPT,), live=True)


def _header() -> str:
    return (
        '<header><div class="head"><h1 id="title">fedmerge</h1><span id="state" class="state"></span></div>'
        '<p id="words"></p><p class="facts" id="facts"></p><ul id="warnings" hidden></ul>'
        '<p id="lost" class="notice patients" role="alert" hidden></p><p id="say" class="unseen" role="status"></p>'
        '<div class="tools"><span id="chooser" hidden><label for="run">Run</label> <select id="run"></select></span>'
        '<button type="button" id="pause" aria-pressed="false">Pause</button>'
        '<span id="updated" class="quiet"></span></div></header>'
    )


def _timeline() -> str:
    return (
        '<div id="drawing"></div><p id="left-out" class="quiet"></p>'
        '<details id="times"><summary>The last tasks as a table</summary><div id="times-table"></div></details>'
    )


def _curves() -> str:
    kinds = "".join(
        f'<label><input type="radio" name="kind" value="{kind}"{" checked" * (kind == "loss")}>'
        f"<span>{name}</span></label>"
        for kind, name in KINDS.items()
    )
    return (
        '<div id="no-curves" class="quiet"></div><div id="some-curves" hidden><div class="controls">'
        f'<fieldset class="control"><legend>Curve</legend><span class="row planes">{kinds}</span></fieldset>'
        '<div class="control"><label for="which">Trainings</label><span class="row"><select id="which"></select></span>'
        '</div><fieldset class="control"><legend>Sites</legend><span class="row" id="chosen"></span></fieldset>'
        '<fieldset class="control"><legend>Scale</legend><span class="row"><label>'
        '<input type="checkbox" id="log-scale">logarithmic</label></span></fieldset></div>'
        '<div id="chart" tabindex="0" role="group" aria-describedby="how-to-read"></div>'
        '<p id="reading" class="unseen" role="status"></p><ul id="legend" class="key"></ul>'
        '<p id="how-to-read" class="quiet">Point at the drawing, or move along it with the arrow keys, to read values '
        "off; Escape shows the last ones again.</p></div>"
    )


def _messages() -> str:
    levels = "".join(f'<option value="{level}">{name}</option>' for level, name in LEVELS.items())
    return (
        '<div class="controls"><div class="control"><label for="level">Show</label><span class="row">'
        f'<select id="level">{levels}</select></span></div>'
        '<div class="control grow"><label for="search">With these words</label><span class="row">'
        '<input type="search" id="search" autocomplete="off" spellcheck="false"></span></div>'
        '<fieldset class="control"><legend>New ones</legend><span class="row"><label><input type="checkbox" '
        'id="follow" checked>follow</label></span></fieldset></div>'
        '<ol id="log" role="log" aria-live="off" aria-label="messages" tabindex="0"></ol>'
        '<p id="how-many" class="quiet"></p>'
    )
