"""`fedmerge report`: the page of a run, with the test cases where the images are."""

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmerge.cli import screen
from fedmerge.errors import ConfigError

if TYPE_CHECKING:
    from fedmerge.pages.report import Around
    from fedmerge.results import Results


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run with its results.json.")],
    *,
    out: Annotated[Path | None, typer.Option("--out", help="The page; else report.html in the run's folder.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out if it is there.")] = False,
    images: Annotated[
        bool, typer.Option("--images/--no-images", help="Show the test cases, where their images lie on this machine.")
    ] = True,
    cases: Annotated[
        int, typer.Option("--cases", min=0, help="Test cases to show; 0: as many as there is room for.")
    ] = 0,
) -> None:
    """Write one HTML page about a run: verdict, timeline, scores, curves, ratios, test cases, privacy."""
    from fedmerge import results, whole
    from fedmerge.pages import report as page

    if not run.is_dir():
        raise ConfigError(f"expected the folder of a run, got {run}")
    if out is not None and out.exists() and not overwrite:
        raise ConfigError(f"--out {out} is there already; --overwrite replaces it")
    found = results.read(run)
    around = gather(run, found, cases if images else -1)
    path = out or run / "report.html"
    text = page.html(found, around)
    whole.write(path, text)
    screen.say(f"Page: {path} ({len(text.encode()) / 1e6:.1f} MB)")
    if around.images is not None and not around.images.synthetic:
        screen.say(f"It contains patients' images: it must not leave {around.images.site}.")
    elif around.why_none:
        screen.say(f"It has no images: {around.why_none}.")


def gather(run: Path, found: "Results", cases: int) -> "Around":
    """What the page says besides the results.

    Args:
        run: the folder.
        found: its results.
        cases: how many test cases are shown; 0: all that there is room for; -1: none.
    """
    from fedmerge.cli import shown
    from fedmerge.pages.report import Around

    images, why = (None, "they were not asked for") if cases < 0 else shown.of(run, found, cases)
    made = datetime.datetime.now().astimezone().strftime("%d %B %Y, %H:%M")
    return Around(images, why, heads=heads(run), made=made)


def heads(run: Path) -> tuple[str, ...]:
    """What the audit log of the server's home says in which a run lies, at `runs/NAME/out`; none in a simulation."""
    from fedmerge.cli import audit
    from server import home as servers

    folder = run.absolute().parent.parent.parent
    if not servers.Paths(folder).consortium_file.exists():
        return ()
    return (audit.verdict(audit.report_of(audit.book_of(folder))),)
