"""NiiVue on the page of a run, in a real browser with WebGL by the processor.

Without WebGL the same page shows slices: that is tested in `test_report_browser.py`, which needs no NiiVue.
"""

import io

import browser
import made_run
import nibabel as nib
import numpy as np
import pytest
from commandline import command
from PIL import Image

from fedmerge import colours
from fedmerge.pages import viewer
from sites import volumes

METHODS = ("none", "transfer:site0", "t-imm")
PATIENCE = 60.0  # seconds; without a graphics card NiiVue's programs take long to compile
pytestmark = pytest.mark.skipif(not viewer.NIIVUE.is_file(), reason="NiiVue is not built in: `make viewer` does it")


@pytest.fixture(scope="module")
def chromium():
    """One browser for all tests."""
    with browser.chromium(webgl=True) as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a run of four cases."""
    run = made_run.write(tmp_path_factory.mktemp("run") / "run", methods=METHODS)
    assert command("report", run, "--viewer", "niivue") == 0
    return run / "report.html"


@pytest.fixture(scope="module")
def window(chromium, page):
    """The page, opened once for all tests, since that is what takes long."""
    with browser.opened(chromium, page) as (found, complaints):
        ready(found)
        yield found
    assert serious(complaints) == []


@pytest.fixture
def shown(window):
    """The same as it was when it was opened: first case, axial, all controls as at first."""
    window.evaluate(
        "() => { for (const box of document.querySelectorAll('#viewer input[type=checkbox]'))"
        " if (box.checked !== box.defaultChecked) box.click(); }"
    )
    window.locator("#viewer-opacity").fill("55")
    plane(window, "axial")
    window.locator("#viewer-a").select_option("none")
    window.locator("#viewer-b").select_option("t-imm")
    window.locator("#viewer-case").select_option("0")
    for axis in "xyz":
        window.locator(f"#viewer-{axis}").fill("11")
    return window


def ready(page):
    """Wait until the viewer has opened its first case."""
    browser.until(page, lambda: page.locator("#viewer-say").inner_text().startswith("Under the cross-hair"), PATIENCE)


def serious(complaints):
    """Without the driver's remark that NiiVue reads back what it drew, which only costs time."""
    return [one for one in complaints if "GPU stall due to ReadPixels" not in one]


def plane(page, name):
    """Choose a plane, or 3D; the bar at the top may lie over the button."""
    page.locator(f'input[name="viewer-plane"][value="{name}"]').evaluate("button => button.click()")


def picture(page, side="a"):
    """What a panel of NiiVue shows, (Y, X, 3)."""
    page.wait_for_timeout(60)  # for what is drawn with the next frame
    shot = page.locator(f'.deep canvas[data-side="{side}"]').screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), np.int16)


def differ(one, other):
    """Whether more than noise is different."""
    return one.shape != other.shape or (np.abs(one - other).max(-1) > 24).sum() > 20


def at(page):
    """The cross-hair, in voxels."""
    return [int(page.locator(f"#viewer-{axis}-at").inner_text()) for axis in "xyz"]


def centre(image, colour, off=12):
    """Of the dots of a colour: how far to the right and down they lie on average, as shares; and their number."""
    rows, columns = np.nonzero((np.abs(image - np.array(colour)) <= off).all(-1))
    return (columns.mean() / image.shape[1], rows.mean() / image.shape[0], len(rows)) if len(rows) else (0, 0, 0)


def test_each_control_changes_the_panels_and_taking_it_back_gives_the_first_picture_again(shown):
    """Opacity, outlines, the annotation over both, and single labels."""
    first = picture(shown)
    shown.locator("#viewer-opacity").fill("90")
    assert differ(picture(shown), first)
    shown.locator("#viewer-opacity").fill("55")
    assert not differ(picture(shown), first)
    for box in ("#viewer-lines", "#viewer-truth", 'input[data-label="1"]'):
        shown.locator(box).evaluate("box => box.click()")
        assert differ(picture(shown), first), box
        shown.locator(box).evaluate("box => box.click()")
        assert not differ(picture(shown), first), box


def test_a_method_changes_its_own_panel_and_its_scores_alone(shown):
    """Dice, HD95 with its unit, and lesion-wise Dice stand above it."""
    before, other = picture(shown), picture(shown, "b")
    score = shown.locator("#viewer-score-a").inner_text()
    shown.locator("#viewer-a").select_option("transfer:site0")
    browser.until(shown, lambda: shown.locator("#viewer-score-a").inner_text() != score)
    assert differ(picture(shown), before)
    assert not differ(picture(shown, "b"), other)
    named = shown.locator("#viewer-score-a").inner_text().replace("\u00a0", " ").split(", ")
    assert [one.rpartition(" ")[0] for one in named if "mm" not in one] == ["Dice", "lesion-wise Dice"]
    assert named[1].startswith("HD95 ")
    assert named[1].endswith(" mm")


def test_the_planes_are_axes_and_three_dimensions_and_each_looks_different(shown):
    """One panel a side whatever is shown, and no slice of our own beside it."""
    seen = []
    for name in ("axial", "coronal", "sagittal", "all", "render"):
        plane(shown, name)
        assert shown.locator("#viewer canvas:visible").count() == 3
        assert ("3D" if name == "render" else name) in shown.locator('.deep canvas[data-side="b"]').get_attribute(
            "aria-label"
        )
        seen.append(picture(shown))
    assert all(differ(one, other) for k, one in enumerate(seen) for other in seen[:k])


def test_the_cross_hair_is_one_for_all_panels(shown):
    """Clicks, the wheel, arrow and page keys and sliders move it in the panel that they meet and in the others."""
    panel, others, before = shown.locator('.deep canvas[data-side="a"]'), picture(shown, "b"), at(shown)
    panel.scroll_into_view_if_needed()
    panel.click(position={"x": 60, "y": 70})
    browser.until(shown, lambda: at(shown)[:2] != before[:2])
    assert at(shown)[2] == before[2]
    assert differ(picture(shown, "b"), others)
    moves = {"PageUp": (2, 1), "PageDown": (2, -1), "ArrowUp": (1, 1), "ArrowDown": (1, -1), "ArrowLeft": (0, 1),
             "ArrowRight": (0, -1)}  # fmt: skip
    panel.focus()
    for key, (axis, step) in moves.items():
        here = at(shown)
        shown.keyboard.press(key)
        assert at(shown)[axis] - here[axis] == step, key
    panel.hover()
    here = at(shown)
    shown.mouse.wheel(0, -120)
    browser.until(shown, lambda: at(shown)[2] == here[2] + 1)
    others = picture(shown, "truth")
    shown.locator("#viewer-x").focus()
    shown.keyboard.press("ArrowRight")
    assert at(shown)[0] - here[0] == 1
    assert differ(picture(shown, "truth"), others)


@pytest.mark.slow
def test_a_turned_head_turns_in_all_panels(shown):
    """By arrow keys in one of them, in three dimensions; the cross-hair stays."""
    plane(shown, "render")
    before, here = {side: picture(shown, side) for side in ("truth", "a", "b")}, at(shown)
    shown.locator('.deep canvas[data-side="b"]').focus()
    for key in ("ArrowLeft", "ArrowUp", "PageUp"):
        shown.keyboard.press(key)
    assert all(differ(picture(shown, side), first) for side, first in before.items())
    assert at(shown) == here
    for key in ("ArrowRight", "ArrowDown", "PageDown"):
        shown.keyboard.press(key)
    assert not any(differ(picture(shown, side), first) for side, first in before.items())


def test_every_control_has_a_name_and_is_reached_by_keys(shown):
    """The three panels among them, which say what they show."""
    names = shown.evaluate(
        "[...document.querySelectorAll('#viewer :is(button, input, select, canvas)')].filter(n => n.checkVisibility())"
        ".map(n => n.ariaLabel || [...(n.labels ?? [])].map(l => l.textContent).join('') || n.textContent)"
    )
    assert all(names)
    browser.tab_through_viewer(shown)


def test_a_panel_has_the_pictures_of_our_own_slices(chromium, page, shown, tmp_path):
    """Size, sides, greys and every label's place and extent are the same in each plane, up to the smoothing."""
    other = tmp_path / "own.html"
    assert command("report", page.parent, "--viewer", "own", "--out", other) == 0
    with browser.opened(chromium, other) as (found, _):
        ready(found)
        for one in (found, shown):
            one.locator("#viewer-opacity").fill("100")
        for axis in "xyz":
            found.locator(f"#viewer-{axis}").fill("11")
        for name in ("axial", "coronal", "sagittal"):
            for one in (found, shown):
                plane(one, name)
            canvas = found.locator(f'canvas[data-side="a"][data-plane="{name}"]').screenshot()
            ours = np.asarray(Image.open(io.BytesIO(canvas)).convert("RGB"), np.int16)
            theirs = picture(shown)
            assert np.abs(np.subtract(ours.shape, theirs.shape)).max() <= 1
            low, wide = (min(a, b) for a, b in zip(ours.shape[:2], theirs.shape[:2]))
            mine, its = (one[:low, :wide].mean(-1) for one in (ours, theirs))
            alike = [np.corrcoef(one.ravel(), its.ravel())[0, 1] for one in (mine, mine[:, ::-1], mine[::-1])]
            assert alike[0] > max(0.95, *alike[1:]), name  # no mirror image is nearer
            for colour in colours.of(made_run.LABELS).values():
                one, other = centre(ours, colour), centre(theirs, colour)
                assert one[2] > 200, name
                assert one[:2] == pytest.approx(other[:2], abs=0.01), name
                assert one[2] == pytest.approx(other[2], rel=0.1), name  # lines and letters lie on some


def test_the_annotation_lies_where_the_file_has_it(chromium, tmp_path):
    """A label in the right, front, upper corner of the patient is seen at the left and top, in the page's colour.

    The head was scanned obliquely; slices go along the voxels.
    """
    run = made_run.write(tmp_path / "run", cases=1, methods=("none",))
    truth = np.zeros((26, 30, 22), np.uint8)
    truth[2:6, 23:27, 15:19] = 1  # x runs from right to left in the file
    turned = np.array([[0.98, -0.2, 0, 5], [0.2, 0.98, 0, -3], [0, 0, 1, 40], [0, 0, 0, 1]])
    affine, label = turned @ np.diag([-1.5, 1.0, 2.0, 1.0]), run / "data/labelsTr/case_000.nii.gz"
    for path in (run / "data/imagesTr/case_000.nii.gz", *(run / "sites").rglob("case_000.nii.gz")):
        volumes.write(np.asarray(nib.load(path).dataobj), affine, path)
    volumes.write(truth, affine, label)
    assert command("report", run, "--viewer", "niivue") == 0
    with browser.opened(chromium, run / "report.html") as (found, complaints):
        ready(found)
        found.locator("#viewer-opacity").fill("100")
        colour = colours.of(made_run.LABELS)[made_run.LABELS[0]]
        across = {name: (plane(found, name), centre(picture(found, "truth"), colour))[1] for name in PLACES}
    assert serious(complaints) == []
    for name, place in PLACES.items():
        assert across[name][2] > 100, name
        assert across[name][:2] == pytest.approx(place, abs=0.03), name


PLACES = {"axial": (4 / 26, 5 / 30), "coronal": (4 / 26, 5 / 22), "sagittal": (5 / 30, 5 / 22)}


@pytest.mark.slow
def test_three_contexts_serve_any_number_of_cases(chromium, page):
    """Browsers allow some sixteen; going through the cases makes none."""
    count = (
        "const get = HTMLCanvasElement.prototype.getContext; window.made = 0;"
        "HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {"
        " if (kind === 'webgl2') window.made++; return get.call(this, kind, ...rest); };"
    )
    with browser.opened(chromium, page, script=count) as (found, complaints):
        ready(found)
        first = found.evaluate("window.made")
        for k in range(1, 9):
            found.locator("#viewer-after").click()
            browser.until(found, lambda k=k: found.locator("#viewer-case").input_value() == str(k % 4), PATIENCE)
        assert found.evaluate("window.made") == first <= 4
    assert serious(complaints) == []


def test_where_the_graphics_card_gives_up_slices_take_over_at_the_same_place(chromium, page):
    """In the middle of the work; what was chosen stays chosen, but 3D, which they have not."""
    with browser.opened(chromium, page) as (found, complaints):
        ready(found)
        plane(found, "render")
        found.locator("#viewer-x").fill("7")
        here = at(found)
        lose = "canvas => canvas.getContext('webgl2').getExtension('WEBGL_lose_context').loseContext()"
        found.locator('.deep canvas[data-side="a"]').evaluate(lose)
        browser.until(found, lambda: found.locator(".sheet.deep").count() == 0)
        assert found.locator("#viewer canvas:visible").count() == 3
        assert not found.locator('input[value="render"]').is_visible()
        assert "plain slices" in found.locator("#viewer-by").inner_text()
        assert at(found) == here
        found.locator("#viewer-after").click()
        browser.until(found, lambda: found.locator("#viewer-case").input_value() == "1")
    assert serious(complaints) == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_runs_over_the_edge_and_nothing_is_complained_of(chromium, page, width, scheme):
    """In every plane the panels are as wide as their place, and the page as the window."""
    with browser.opened(chromium, page, width=width, scheme=scheme) as (found, complaints):
        ready(found)
        for name in ("axial", "all", "render"):
            plane(found, name)
            picture(found)
            assert found.evaluate("document.documentElement.scrollWidth") == width
            sizes = found.locator(".sheet.deep").evaluate_all(
                "all => all.map(n => n.firstChild.offsetWidth / n.offsetWidth)"
            )
            assert sizes == pytest.approx([1, 1, 1], abs=0.02)
    assert serious(complaints) == []
