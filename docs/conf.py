"""How the documentation becomes a site: `make docs`."""

import re
from importlib.metadata import version as installed
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent
REPOSITORY = "https://github.com/fedmerge/fedmerge/blob/main"

project = "fedmerge"
author = "The fedmerge authors"
copyright = author
release = version = installed("fedmerge")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "fedmerge"
html_theme_options = {"source_repository": "https://github.com/fedmerge/fedmerge", "source_directory": "docs/"}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_use_ivar = True
suppress_warnings = ["misc.highlighting_failure"]  # campaign files show `...` in TOML


def elsewhere(_app: Sphinx, page: str, source: list[str]) -> None:
    """Links to files that are no pages lead to the repository."""
    out = re.escape("../" * (page.count("/") + 1))  # of this folder
    source[0] = re.sub(rf"\]\({out}([^)#]+\.?[^)]*)\)", rf"]({REPOSITORY}/\1)", source[0])
    source[0] = re.sub(r"\]\((evidence/[^)]+\.json)\)", rf"]({REPOSITORY}/docs/\1)", source[0])


def plain(_app: Sphinx, _what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Docstrings are written to be read as they stand: names in backticks are code, and what is indented is a formula.

    Sections of the Google style (`Args:` and so on) are indented too; they are left to napoleon.
    """
    out: list[str] = []
    formula = section = False
    for line in lines:
        if line and not line.startswith(" "):
            section = bool(re.fullmatch(r"(Args|Attributes|Raises|Returns|Yields):", line))
        if not section and line.startswith("    ") and not formula:
            out += ["", "::", ""]
            formula = True
        elif line and not line.startswith(" ") and formula:
            out.append("")
            formula = False
        out.append(line if formula else coded(line))
    lines[:] = out


def coded(line: str) -> str:
    """A line in which nothing but code has a meaning of its own."""
    parts = re.split(r"(`+[^`]+`+)", line)
    return "".join(
        f"``{part.strip('`')}``" if k % 2 else re.sub(r"([*|])", r"\\\1", part) for k, part in enumerate(parts)
    )


def setup(app: Sphinx) -> None:
    """Sphinx calls it."""
    app.connect("source-read", elsewhere)
    app.connect("autodoc-process-docstring", plain, priority=400)  # before napoleon
