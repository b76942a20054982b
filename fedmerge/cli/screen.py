"""What the terminal shows: sentences, tables, warnings; results go to stdout, everything else to stderr."""

import logging
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedmerge.errors import FedmergeError

WIDEST = 100_000  # columns of a table that nobody looks at
OURS = ("fedmerge", "sites", "server")


def out() -> Console:
    """The console of the results."""
    return Console(highlight=False, soft_wrap=False)


@cache
def err() -> Console:
    """The console of progress, warnings and errors: one for all, so that a line is printed above the bars."""
    return Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """A line of the results, whole, however narrow the terminal."""
    out().print(text, markup=False, soft_wrap=True)


def complain(text: str, *, red: bool = False) -> None:
    """A line to stderr, whole; an error is red."""
    err().print(text, markup=False, soft_wrap=True, style="red" if red or text.startswith("error") else None)


def sentence(error: Exception) -> str:
    """What an error says to the user; empty for one that nobody expected.

    Args:
        error: ours, whose text is a sentence, or the system's, which names a path and what was wrong with it.
    """
    if isinstance(error, OSError) and error.strerror:
        path = error.filename2 or error.filename
        return f"{path}: {error.strerror}" if path else error.strerror
    return str(error) if isinstance(error, FedmergeError) else ""


def table(
    heading: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    left: int = 1,
    colours: Mapping[str, str] | None = None,
) -> None:
    """Print a table; the first `left` columns are texts, the others figures.

    A table keeps its full width where nobody looks at a terminal: what a pipe receives is never cut.

    Args:
        heading: of the columns.
        rows: of cells.
        left: how many columns are texts.
        colours: cell -> the colour of a cell that holds exactly this.
    """
    console = out()
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=any(heading))
    for i, name in enumerate(heading):
        drawn.add_column(name, justify="left" if i < left else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell, style=(colours or {}).get(cell, "")) for cell in row))
    if not console.is_terminal:
        console.width = max(Console(width=WIDEST).measure(drawn).maximum, 20)
    console.print(drawn)


def logging_to_stderr(debug: bool) -> None:
    """Flower is quiet; with `debug`, everything that is logged goes to stderr."""
    logging.getLogger("flwr").setLevel(logging.INFO if debug else logging.ERROR)
    if debug:
        handler = logging.StreamHandler(sys.stderr)
        handler.addFilter(lambda record: record.name != "fedmerge.progress")  # shown as bars or lines
        logging.basicConfig(handlers=[handler], level=logging.INFO, format="%(name)s: %(message)s")


@contextmanager
def warnings_as_sentences(debug: bool) -> Iterator[None]:
    """Show the warnings of our own packages as a line each, those of others only with `debug`."""
    if debug:
        yield
        return

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        here = Path(__file__).parents[2]
        if any(Path(filename).is_relative_to(here / name) for name in OURS):
            complain(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
