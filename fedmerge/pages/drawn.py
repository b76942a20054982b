"""Figures as SVG that stands in a page: no prolog, names of its own, colours that follow the page's.

Matplotlib writes a whole XML document with fixed colours. A page holds several, and is read in the light and in the
dark: so ids get a prefix, and the colours of the house style become the page's variables.
"""

import io
import re

import matplotlib
from matplotlib.figure import Figure

from fedmerge.figures import style

VARIABLES = {
    style.INK: "--ink",
    style.GREY: "--grey",
    style.PALE: "--pale",
    **{colour: f"--c{i}" for i, colour in enumerate(style.COLOURS)},
    "#ffffff": "--paper",
}


def svg(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element.

    Args:
        figure: drawn in the house style.
        name: letters and digits, different for each figure of a page.
    """
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", bbox_inches="tight", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", text)
    text = text.replace("xlink:href=", "href=")
    text = re.sub(r'(<image\b[^>]*?) id="[^"]*"', r"\1", text)  # equal pictures have equal ids, which nobody refers to
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    for colour, variable in VARIABLES.items():
        text = re.sub(rf"(fill|stroke): {colour}\b", rf"\1: var({variable})", text)
    text = re.sub(r"(<text[^>]*style=\"[^\"]*?)(font: [^;\"]*)", _without_family, text)
    return re.sub(r"\n\s*", "\n", text)


def _without_family(match: re.Match[str]) -> str:
    """Size and weight stay, the family is the page's."""
    size = re.search(r"(\d+(?:\.\d+)?)px", match[2])
    return f"{match[1]}font-size: {size[1] if size else 9}px"
