"""The parts of a page: the document, sections, lists, tables. What comes from files is escaped here, and only here."""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = Path(__file__).parent
STYLE = (FOLDER / "page.css").read_text(encoding="utf-8")


def policy(scripts: Sequence[str] = (), *, live: bool = False) -> str:
    """What a page may do: load nothing, run no other script than `scripts`; a live one asks where it came from."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    runs = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    asks = "connect-src 'self'; form-action 'none'; " if live else ""
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {runs}; {asks}base-uri 'none'"


def document(
    title: str, body: Iterable[str], *, style: str = "", scripts: Sequence[str] = (), live: bool = False
) -> str:
    """The whole page; its own policy forbids it to load anything, and to run any other script than `scripts`.

    Args:
        title: of the window, not yet escaped.
        body: parts in HTML; empty ones are left out.
        style: rules after those that all pages have.
        scripts: JavaScript that runs when the page is there, one after the other.
        live: whether the scripts may ask where the page came from, and nobody else.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy(scripts, live=live)}">\n'
        + ('<link rel="icon" href="data:,">\n' if live else "")
        + '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n"
        + "".join(f"<script>{script}</script>\n" for script in scripts)
        + "</body>\n</html>\n"
    )


def section(title: str, body: str, *, folded: bool = False, name: str = "") -> str:
    """A part with a heading (both HTML); a folded one is opened by a click or a key."""
    anchor = f' id="{name}"' if name else ""
    if folded:
        return f"<section{anchor}><details><summary><h2>{title}</h2></summary>{body}</details></section>"
    return f"<section{anchor}><h2>{title}</h2>{body}</section>"


def sentences(items: Iterable[str]) -> str:
    """A list of sentences; nothing where there is none."""
    text = "".join(f"<li>{escape(minus(item))}</li>" for item in items)
    return f"<ul>{text}</ul>" if text else ""


def table(heading: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1, name: str = "table") -> str:
    """A table that scrolls by itself where the page is narrow.

    Args:
        heading: of the columns.
        rows: of cells; a `Html` is put there as it is.
        left: how many columns are texts, the others are figures.
        name: what a screen reader calls it.
    """

    def row(cells: Sequence[str], tag: str) -> str:
        kinds = [' class="text"' if i < left else "" for i in range(len(cells))]
        made = (f"<{tag}{kind}>{cell_of(cell)}</{tag}>" for kind, cell in zip(kinds, cells))
        return f"<tr>{''.join(made)}</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return wide(f"<table><thead>{row(heading, 'th')}</thead><tbody>{body}</tbody></table>", name)


class Html(str):
    """A text that is HTML already."""

    __slots__ = ()


def cell_of(cell: str) -> str:
    """A cell's HTML."""
    return cell if isinstance(cell, Html) else escape(minus(cell))


def wide(body: str, name: str, kind: str = "") -> str:
    """What may be wider than the page: it scrolls by itself, by keys too."""
    return f'<div class="wide{kind}" role="region" tabindex="0" aria-label="{escape(name)}">{body}</div>'


def figure(drawing: "Figure", name: str) -> str:
    """A figure of matplotlib in the page's colours; `name` as for `drawn.svg`."""
    from fedmerge.pages import drawn  # brings matplotlib, which a page without figures has no use for

    return wide(drawn.svg(drawing, name), f"figure {name}", " figure")


def data(name: str, value: Any) -> str:  # noqa: ANN401 - whatever JSON can hold
    """A value for the page's script to read: JSON in an element that is never run, nor ended by what is in it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f'<script type="application/json" id="{escape(name)}">{text}</script>'


def minus(text: str) -> str:
    """A minus sign where a number is negative; names keep their hyphens."""
    return re.sub(r"(?<![^\s\[(])-(?=\d)", "\u2212", text)


def chance(p: float | None) -> str:
    """A p-value for readers."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
