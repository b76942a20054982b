"""The README and the pages as tests read them: fenced blocks, commands, tables, sections."""

import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
STORIES = sorted((ROOT / "docs/gallery").glob("*.md"))
"""The pages of the gallery: each is a script as a whole, see `stories`."""


@dataclass(frozen=True)
class Block:
    """A fenced block, and where it stands."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self):
        return f"{self.page.name}:{self.line}"


def blocks(*languages, pages=PAGES):
    """The fenced blocks of these pages in these languages."""
    found = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            if match[1] in languages:
                found.append(Block(page, text[: match.start()].count("\n") + 1, match[1], match[2]))
    return found


def commands(pages=PAGES):
    """Each command of the shell blocks as words, in the order of the pages."""
    return [
        words
        for block in blocks("sh", "console", pages=pages)
        for line in block.text.replace("\\\n", " ").splitlines()
        if (words := shlex.split(line, comments=True))
    ]


def prose(page):
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def tables(page):
    """(heading, rows of cells) of each table of a page; a pipe in a cell is escaped."""
    found, heading = [], ""
    for part in re.split(r"\n\n+", prose(ROOT / page)):
        if part.startswith("#"):
            heading = part.lstrip("# ").replace("`", "")
        if part.startswith("|"):
            lines = part.strip().splitlines()
            found.append((heading, [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]))
    return found


def named(cell):
    """The words in code type of a cell."""
    return re.findall(r"`([^`]+)`", cell)


def keys(page, heading):
    """The keys in the first column of the tables under a heading."""
    return [key for title, rows in tables(page) if title == heading for row in rows for key in named(row[0])]


def sections(page):
    """(heading, text) of a page's sections."""
    parts = re.split(r"^## (.*)$", prose(ROOT / page), flags=re.MULTILINE)[1:]
    return [(title.strip("`"), text) for title, text in zip(parts[::2], parts[1::2])]


def only_campaign():
    """The campaign file of the README."""
    (found,) = [b.text for b in blocks("toml") if isinstance(tomllib.loads(b.text).get("campaign"), dict)]
    return found
