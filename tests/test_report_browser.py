"""The page of a run in a real browser: every control, both colour schemes, two widths, and names that bite.

The panels are our own slices; those of NiiVue have `test_report_niivue.py`.
"""

import resource
import subprocess
import sys
import time

import browser
import made_run
import pytest
from commandline import command

from fedmerge.pages import viewer

ODD = "<img src=x onerror=alert(1)>&\"'"


@pytest.fixture(scope="module")
def chromium():
    """One browser for all tests."""
    with browser.chromium() as found:
        yield found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of four cases, whose labels and cases have names that are markup."""
    return made_run.write(tmp_path_factory.mktemp("run") / "run", methods=("none", "transfer:site0", "t-imm"), odd=ODD)


@pytest.fixture(scope="module")
def page(run):
    """Its page."""
    assert command("report", run, "--viewer", "own") == 0
    return run / "report.html"


@pytest.fixture
def shown(chromium, page):
    """The page, opened and ready; at the end it has complained of nothing."""
    with browser.opened(chromium, page) as (found, complaints):
        ready(found)
        yield found
    assert complaints == []


def ready(page):
    """Wait until the viewer has opened its first case."""
    browser.until(page, lambda: page.locator("#viewer-say").inner_text().startswith("Under the cross-hair"))


def looks(page, side="a", plane="axial"):
    """What a panel shows, as a text."""
    return page.locator(f'canvas[data-side="{side}"][data-plane="{plane}"]').evaluate("sheet => sheet.toDataURL()")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_runs_over_the_edge_and_nothing_is_complained_of(chromium, page, width, scheme):
    """The page is as wide as the window; everything that is folded is opened by a click."""
    with browser.opened(chromium, page, width=width, scheme=scheme) as (found, complaints):
        ready(found)
        closed = found.locator("details:not([open]) > summary")
        for left in range(closed.count(), 0, -1):
            assert closed.count() == left
            closed.first.click()
        assert closed.count() == 0
        assert found.evaluate("document.documentElement.scrollWidth") == width
        paper = found.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    assert complaints == []


def test_names_from_files_are_text_and_never_markup(shown):
    """Cases and labels whose names are an image with a script are shown letter by letter."""
    assert shown.locator("img").count() == 0
    assert ODD in shown.locator("#viewer-case option").first.inner_text()
    assert f"core{ODD}" in shown.locator("fieldset.labels").inner_text()
    assert f"Campaign made{ODD}" == shown.locator("h1").inner_text()


def test_every_control_has_a_name_and_is_reached_by_keys(shown):
    """What can be used is a link, a button, an input, a select, a fold or a panel; tabbing comes to all of them."""
    names = shown.evaluate(
        "[...document.querySelectorAll('button, input, select, canvas')].map(n => n.ariaLabel"
        " || [...(n.labels ?? [])].map(l => l.textContent).join('') || n.textContent)"
    )
    assert all(names)
    browser.tab_through_viewer(shown)


def test_the_case_is_changed_by_its_list_and_by_both_buttons(shown):
    """Each way leads to another image; before the first comes the last."""
    seen = [looks(shown)]
    for act in (
        lambda: shown.locator("#viewer-after").click(),
        lambda: shown.locator("#viewer-case").select_option("3"),
    ):
        act()
        browser.until(shown, lambda: looks(shown) != seen[-1])
        seen.append(looks(shown))
    shown.locator("#viewer-after").click()
    browser.until(shown, lambda: shown.locator("#viewer-case").input_value() == "0")
    shown.locator("#viewer-before").click()
    browser.until(shown, lambda: shown.locator("#viewer-case").input_value() == "3")
    assert len(set(seen)) == 3


def test_two_methods_are_chosen_one_by_one_with_their_scores(shown):
    """Another method changes its own panel only, and the score above it."""
    before, other, score = looks(shown), looks(shown, "b"), shown.locator("#viewer-score-a").inner_text()
    shown.locator("#viewer-a").select_option("transfer:site0")
    browser.until(shown, lambda: looks(shown) != before)
    assert shown.locator("#viewer-score-a").inner_text() not in ("", score)
    assert looks(shown, "b") == other


def test_the_planes_are_shown_one_or_all(shown):
    """Three panels a plane; all three planes are nine."""
    for plane, count in (("coronal", 3), ("sagittal", 3), ("all", 9), ("axial", 3)):
        shown.locator(f'input[value="{plane}"]').check(force=True)
        assert shown.locator("#viewer canvas:visible").count() == count


def test_opacity_outlines_and_the_annotation_change_what_is_drawn(shown):
    """Each slider and box gives another picture, and taking it back gives the first one again."""
    first = looks(shown)
    shown.locator("#viewer-opacity").focus()
    shown.keyboard.press("ArrowRight")
    assert looks(shown) != first
    shown.keyboard.press("ArrowLeft")
    assert looks(shown) == first
    for box in ("#viewer-lines", "#viewer-truth", 'input[data-label="1"]'):
        shown.locator(box).click()
        assert looks(shown) != first, box
        shown.locator(box).click()
        assert looks(shown) == first, box


def test_the_cross_hair_is_one_for_all_panels(shown):
    """A click in one panel moves slices in the planes across; wheel, arrow and page keys and sliders do likewise."""
    shown.locator('input[value="all"]').check(force=True)

    def at():
        return [shown.locator(f"#viewer-{axis}-at").inner_text() for axis in "xyz"]

    panel = shown.locator('canvas[data-side="a"][data-plane="axial"]')
    panel.scroll_into_view_if_needed()
    sagittal, before = looks(shown, "b", "sagittal"), at()
    panel.click(position={"x": 30, "y": 40})
    assert (at()[2], at()[0] != before[0], at()[1] != before[1]) == (before[2], True, True)
    assert looks(shown, "b", "sagittal") != sagittal
    moves = {"PageUp": (2, 1), "PageDown": (2, -1), "ArrowUp": (1, 1), "ArrowDown": (1, -1), "ArrowLeft": (0, 1),
             "ArrowRight": (0, -1)}  # fmt: skip
    panel.focus()
    for key, (axis, step) in moves.items():
        here = at()
        shown.keyboard.press(key)
        assert int(at()[axis]) - int(here[axis]) == step, key
    panel.hover()
    here = at()
    shown.mouse.wheel(0, 120)
    browser.until(shown, lambda: at()[2] != here[2])
    for axis, name in enumerate("xyz"):
        here = at()
        shown.locator(f"#viewer-{name}").focus()
        shown.keyboard.press("ArrowRight")
        assert int(at()[axis]) - int(here[axis]) == 1


def test_the_annotation_lies_where_the_file_has_it(chromium, tmp_path):
    """A label in the right, front, upper corner of the patient is seen at the left and top of the screen."""
    import numpy as np

    from fedmerge import colours
    from sites import volumes

    red, green, blue = colours.of(made_run.LABELS)[made_run.LABELS[0]]
    run = made_run.write(tmp_path / "run", cases=1, methods=("none",))
    affine = np.diag([-1.5, 1.0, 2.0, 1.0])
    truth = np.zeros((26, 30, 22), np.uint8)
    truth[2:6, 23:27, 15:19] = 1  # x runs from right to left in the file
    volumes.write(truth, affine, run / "data/labelsTr/case_000.nii.gz")
    assert command("report", run, "--viewer", "own") == 0
    with browser.opened(chromium, run / "report.html") as (found, complaints):
        ready(found)
        found.locator("#viewer-opacity").fill("100")
        mean = found.locator('canvas[data-side="truth"][data-plane="axial"]').evaluate(
            "n => { const d = n.getContext('2d').getImageData(0, 0, n.width, n.height).data; let c = 0, x = 0, y = 0;"
            "for (let i = 0; i < d.length; i += 4)"
            f" if (d[i] === {red} && d[i + 1] === {green} && d[i + 2] === {blue}) {{"
            " c++; x += (i / 4) % n.width; y += Math.floor(i / 4 / n.width); }"
            "return [x / c / n.width, y / c / n.height, c]; }"
        )
    assert complaints == []
    assert mean[2] > 100
    assert mean[:2] == pytest.approx([4 / 26, 5 / 30], abs=0.03)


def test_without_webgl_the_page_of_niivue_shows_slices(chromium, monkeypatch, tmp_path):
    """NiiVue's file is not even looked at, so one that is empty will do here."""
    empty = tmp_path / "niivue.js"
    empty.write_text("/* nothing */")
    monkeypatch.setattr(viewer, "NIIVUE", empty)
    run = made_run.write(tmp_path / "run", cases=2)
    assert command("report", run, "--viewer", "niivue") == 0
    with browser.opened(chromium, run / "report.html") as (found, complaints):
        ready(found)
        assert "no WebGL 2" in found.locator("#viewer-by").inner_text()
        assert found.locator("#viewer .slice canvas:visible").count() == 3
        assert not found.locator('input[value="render"]').is_visible()
    assert complaints == []


def test_links_at_the_top_lead_to_their_parts(shown):
    """Each names a part that is there."""
    for link in shown.locator("nav a").all():
        link.click()
        name = link.get_attribute("href").removeprefix("#")
        assert shown.locator(f"section#{name}").is_visible()


@pytest.mark.slow
def test_ten_sites_and_fifty_cases_make_a_page_in_time_and_of_a_size_that_can_be_sent(chromium, tmp_path, capsys):
    """50 heads of 112 x 136 x 104 voxels, 14 methods, 10 sources: within 30 s of a core and 30 MB."""
    methods = ("none", *(f"transfer:site{k}" for k in range(10)), "mean", "imm-mode", "t-imm")
    run = made_run.write(tmp_path / "run", cases=50, shape=(112, 136, 104), sources=10, methods=methods)
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "fedmerge.cli", "report", run, "--viewer", "own"], check=True)
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    size = (run / "report.html").stat().st_size
    with browser.opened(chromium, run / "report.html") as (found, complaints):
        opening = time.perf_counter()
        ready(found)
        opening = time.perf_counter() - opening
        cases = found.locator("#viewer-case option").count()
    assert complaints == []
    with capsys.disabled():
        told = f"{worked:.1f} s of a processor, {took:.1f} s on this machine; {size / 1e6:.1f} MB"
        print(f"\n{cases} cases shown; {told}; the first case opens in {opening:.1f} s")
    if viewer.NIIVUE.is_file():
        size += viewer.NIIVUE.stat().st_size  # which is all that NiiVue adds
    assert worked < 30  # what else the machine does is not counted
    assert size < 30e6
    assert cases == 50
