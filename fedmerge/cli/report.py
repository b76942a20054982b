"""`fedmerge report`: the page of a run, with the test cases where the images are."""

import datetime
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmerge.cli import screen
from fedmerge.errors import ConfigError

if TYPE_CHECKING:
    from fedmerge.pages.around import Around
    from fedmerge.results import Results
    from server.home import Paths as ServerPaths
    from sites.home import Paths as SitePaths

NONE = -1  # cases of a page without images


class Viewer(StrEnum):
    """Who draws the test cases."""

    AUTO = "auto"
    NIIVUE = "niivue"
    OWN = "own"


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or home of a hospital's site that was a target.")],
    *,
    out: Annotated[Path | None, typer.Option("--out", help="The page; else report.html in the run's folder.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out if it is there.")] = False,
    no_images: Annotated[bool, typer.Option("--no-images", help="Make a page without images of patients.")] = False,
    cases: Annotated[
        int, typer.Option("--cases", min=0, help="Test cases to show; 0: as many as there is room for.")
    ] = 0,
    viewer: Annotated[
        Viewer, typer.Option("--viewer", help="Who draws the test cases; auto: NiiVue where it was built in, else own.")
    ] = Viewer.AUTO,
    campaign: Annotated[
        str, typer.Option("--campaign", help="Of a site's home: which campaign; else the newest.")
    ] = "",
) -> None:
    """Write one HTML page about a run: verdict, timeline, scores, curves, ratios, test cases, privacy."""
    from fedmerge import whole
    from fedmerge.pages import report as page
    from sites import home as sites

    if not run.is_dir():
        raise ConfigError(f"expected the folder of a run or the home of a site, got {run}")
    if out is not None and out.exists() and not overwrite:
        raise ConfigError(f"--out {out} is there already; --overwrite replaces it")
    niivue = drawn_by_niivue(viewer)
    shown = NONE if no_images else cases
    if sites.Paths(run).site_file.exists():
        found, around, folder = of_site(run, campaign, shown)
    else:
        found, around, folder = of_run(run, shown)
    path = out or folder / "report.html"
    text = page.html(found, replace(around, niivue=niivue))
    whole.write(path, text)
    screen.say(f"Page: {path} ({len(text.encode()) / 1e6:.1f} MB)")
    if around.images is None:
        screen.say(f"It has no images: {around.why_none}.")
    elif not around.images.synthetic:
        screen.say(f"It contains patients' images: it must not leave {around.images.site}.")


def drawn_by_niivue(viewer: Viewer) -> bool:
    """Whether NiiVue draws the test cases.

    Raises:
        ConfigError: NiiVue is asked for and was not built in.
    """
    from fedmerge.pages.viewer import NIIVUE

    if viewer is Viewer.NIIVUE and not NIIVUE.is_file():
        raise ConfigError(f"--viewer niivue expected the file {NIIVUE}: `make viewer` builds it; or take --viewer own")
    return viewer is not Viewer.OWN and NIIVUE.is_file()


def of_run(run: Path, cases: int) -> "tuple[Results, Around, Path]":
    """The results in a run's folder, what the page says besides, and where it goes."""
    from fedmerge import results
    from fedmerge.cli import shown
    from fedmerge.pages.around import Around
    from server import home as servers

    found = results.read(run)
    images, why = shown.of_run(run, found, cases) if cases != NONE else (None, NOT_ASKED)
    server = servers.Paths(run.absolute().parent.parent.parent)  # a run at a server lies at runs/NAME/out of its home
    return found, Around(images, why, _head(server), _now()), run


def of_site(home: Path, campaign: str, cases: int) -> "tuple[Results, Around, Path]":
    """A campaign as its target kept it.

    Raises:
        ConfigError: the site has kept no such campaign.
    """
    from fedmerge.cli import shown
    from fedmerge.pages.around import Around
    from sites import config, recalled
    from sites import home as sites

    site = config.from_file(home / "site.toml")
    known = recalled.campaigns(site)
    if not known or (campaign and campaign not in known):
        wanted = f"a campaign '{campaign}'" if campaign else "a campaign that this site was a target of"
        raise ConfigError(f"{home}: expected {wanted}, got {', '.join(known) or 'none yet'}")
    folder = known[campaign] if campaign else next(iter(known.values()))
    found = recalled.results(site, folder)
    images, why = shown.of_site(site, folder, found, cases) if cases != NONE else (None, NOT_ASKED)
    return found, Around(images, why, _head(sites.Paths(home)), _now(), own=site.name), folder


NOT_ASKED = "they were not asked for"


def _head(home: "SitePaths | ServerPaths") -> tuple[str, ...]:
    """What the audit log of a home says, a site's or a server's; a simulation has none."""
    from fedmerge.cli import audit

    if not home.consortium_file.exists():
        return ()
    return (audit.verdict(audit.report_of(audit.book_of(home.folder))),)


def _now() -> str:
    return datetime.datetime.now().astimezone().strftime("%d %B %Y, %H:%M")
