"""The dashboard in a real browser, beside a simulation that runs: every control, by mouse and by keys."""

import contextlib
import json
import signal
import subprocess
import sys
import time

import browser
import dashboards
import made_run
import pytest
from browser import until
from made_consortium import Consortium
from small import campaign, hospitals
from test_dashboard import ODD, Here, begun
from test_runs import PLAN

from fedmerge import results
from fedmerge.records import Record
from fedmerge.trust import keys
from server import runs, verdict
from sites import curves

PATIENCE_S = 240.0  # the machine may be busy
CONTRAST = """() => {
  const light = (c) => c.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const under = (node) => {
    for (; node; node = node.parentElement) {
      const c = numbers(getComputedStyle(node).backgroundColor);
      if (c.length === 3 || c[3] === 1) return c.slice(0, 3);
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("main *:not(svg *)")].filter((node) =>
    node.checkVisibility() && [...node.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())
  ).map((node) => {
    const [a, b] = [light(numbers(getComputedStyle(node).color).slice(0, 3)), light(under(node))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.textContent.trim().slice(0, 40)];
  }).filter(([ratio]) => ratio < 4.5);
}"""


@pytest.fixture(scope="module")
def chromium():
    """One browser for all tests."""
    with browser.chromium() as found:
        yield found


def simulation(folder, steps=90):
    """The file of a small campaign that lasts for some seconds."""
    path = campaign(hospitals(folder, cases=8), head='methods = ["none", "t-imm"]')
    text = path.read_text().replace("steps = 6\n", f"steps = {steps}\n").replace("steps = 4\n", "steps = 20\n")
    text = text.replace("steps = 5\n", "steps = 30\n").replace("validate_every = 2", "validate_every = 10")
    path.write_text(text)
    return path


def simulate(plan, out, *words):
    """`fedmerge simulate` in the background."""
    command = [sys.executable, "-m", "fedmerge.cli", "simulate", plan, "--out", out, *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def says(page, name):
    """The text of an element."""
    return page.locator(f"#{name}").inner_text()


def points(page):
    """How many points the curves on the drawing have."""
    return page.evaluate("[...document.querySelectorAll('#chart polyline')].reduce((n, p) => n + p.points.length, 0)")


@pytest.fixture(scope="module")
def run(chromium, tmp_path_factory):
    """A simulation, from before its beginning to its end under the eyes of one page; (its folder, what was seen)."""
    folder = tmp_path_factory.mktemp("simulation")
    out, seen = folder / "run", {}
    with (
        dashboards.serve(out) as there,
        dashboards.page(chromium, there.address) as (page, complaints),
    ):
        until(page, lambda: says(page, "state").startswith("waiting"), PATIENCE_S)
        seen["address"] = page.url
        process = simulate(simulation(folder / "data"), out)
        try:
            bar = page.locator('.card[data-state="working"] progress')
            until(page, lambda: bar.count() and float(bar.first.get_attribute("value") or 0) > 0, PATIENCE_S)
            seen["working"] = page.locator('.card[data-state="working"]').first.inner_text()
            seen["running"], seen["words"] = says(page, "state"), says(page, "words")
            seen["open"] = page.locator("svg.timeline g.open").count()
            until(page, lambda: points(page) > 1, PATIENCE_S)
            first = points(page)
            until(page, lambda: points(page) > first, PATIENCE_S)
            until(page, lambda: says(page, "state").startswith("done"), PATIENCE_S)
        finally:
            process.wait(PATIENCE_S)
        until(page, lambda: "2 of 2 rows are over" in says(page, "facts"), PATIENCE_S)
        seen["scores"], seen["complaints"] = says(page, "scores-table"), complaints
        seen["said"] = says(page, "say")
    return out, seen


@pytest.fixture
def shown(chromium, run):
    """A page of the finished run; at the end it has complained of nothing."""
    with dashboards.serve(run[0]) as there, dashboards.page(chromium, there.address) as (page, complaints):
        until(page, lambda: says(page, "state").startswith("done"), 20)
        yield page
    assert complaints == []


def test_a_simulation_is_followed_from_before_it_begins_to_its_end(run):
    """Sites at work with a bar, a task that is not over on the timeline, curves that grow, scores, the end."""
    _, seen = run
    assert seen["complaints"] == []
    assert "token" not in seen["address"]
    assert seen["running"].startswith("running for")
    assert seen["words"].startswith("Waits for north, which")
    assert " of " in seen["working"]
    assert seen["open"] >= 1
    assert "t-imm" in seen["scores"]
    assert seen["said"] == "Campaign small is now done"


def test_what_was_written_meanwhile_is_what_the_results_have(run):
    """The rows that were over, stage by stage, without single cases; and the timeline."""
    out, _ = run
    found = results.read(out)
    lines = [json.loads(line) for line in (out / "server/rows.jsonl").read_text().splitlines()]
    key = ("method", "seed", "chain", "target", "target_cases", "stage", "status", "error", "target_steps", "curve")
    told = [[*(line[name] for name in key), line["score"]] for line in lines]
    assert told == [[*(row[name] for name in key), row["dice"]] for row in found["rows"]]
    assert lines[0].keys() == {*key, "score", "time"}
    assert json.loads((out / "server/timeline.json").read_text())["lines"] == found["timeline"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_readable_at_any_width_by_day_and_by_night(chromium, run, width, scheme):
    """Nothing runs over the edge, and text stands out from its ground by 4.5 to 1 (WCAG 2.2, 1.4.3)."""
    with (
        dashboards.serve(run[0]) as there,
        dashboards.page(chromium, there.address, width=width, scheme=scheme) as (page, complaints),
    ):
        until(page, lambda: points(page) > 0, 20)
        page.locator("summary").click()
        assert page.evaluate("document.documentElement.scrollWidth") == width
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
        assert page.evaluate(CONTRAST) == []
        page.evaluate("document.documentElement.style.setProperty('--grey', 'rgb(128, 128, 128)')")
        assert page.evaluate(CONTRAST) != []  # such a grey stands out from neither ground
    assert complaints == []


def test_every_control_is_named_and_reached_by_keys(shown):
    """Tabbing comes to each link, button, choice, box, fold and scrolling part, and what has the focus is outlined."""
    names = shown.evaluate(
        "[...document.querySelectorAll('button, input, select, [tabindex]')].filter(n => n.checkVisibility()).map(n =>"
        " n.ariaLabel || [...(n.labels ?? [])].map(l => l.textContent).join('') || n.textContent)"
    )
    assert all(name.strip() for name in names)
    wanted = shown.evaluate(
        "[...document.querySelectorAll('a, button, input:not([type=radio]), select, summary, [tabindex]')]"
        ".filter(n => n.checkVisibility()).length"
    )
    reached, outlined = set(), []
    shown.locator("body").press("Tab")
    for _ in range(wanted + 10):
        here = shown.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)")
        if here in reached:
            break
        reached.add(here)
        outlined.append(
            shown.evaluate(
                "(n => getComputedStyle(n.matches('[type=radio]') ? n.nextSibling : n).outlineStyle)"
                "(document.activeElement)"
            )
        )
        shown.keyboard.press("Tab")
        if shown.evaluate("document.activeElement === document.body"):
            break
    assert len(reached) == wanted + 1  # and one for the three kinds of curves
    assert set(outlined) <= {"solid", "auto"}


def test_links_at_the_top_lead_to_their_parts(shown):
    """Each names a part that is there; those that a simulation has not are not."""
    links = shown.locator("nav li:visible a").all()
    assert [link.inner_text() for link in links] == [
        "Sites", "Timeline", "Curves", "Scores", "Traffic", "Messages",
    ]  # fmt: skip
    for link in links:
        link.click()
        assert shown.locator(link.get_attribute("href")).is_visible()
    assert shown.locator("#left").is_hidden()


def test_the_timeline_is_there_as_a_table_too(shown):
    """Opened by a key."""
    assert shown.locator("svg.timeline").count() == 1
    shown.locator("summary").press("Enter")
    rows = shown.locator("#times-table tbody tr")
    assert rows.count() == shown.locator("svg.timeline g").count()
    assert rows.first.inner_text().startswith("north")


def test_curves_are_chosen_by_kind_training_site_and_scale(shown):
    """Each choice changes what is drawn; taking it back gives the first drawing again."""
    drawn = lambda: shown.locator("#chart").inner_html()  # noqa: E731 - a word of the test
    lines = shown.locator("#chart polyline")
    first = drawn()
    assert lines.count() == 3
    for kind in ("lr", "validation", "loss"):
        shown.locator(f'input[value="{kind}"]').check(force=True)
        assert (drawn() == first) == (kind == "loss")
    shown.locator("#chosen input").first.uncheck()
    assert lines.count() == 2
    shown.locator("#chosen input").first.check()
    assert drawn() == first
    shown.locator("#log-scale").check()
    assert drawn() != first
    shown.locator("#log-scale").uncheck()
    shown.locator("#which").select_option("all")
    assert lines.count() == 5  # two sources, the adaptation, two fine-tunings
    shown.locator("#which").select_option(label="adaptation/small/t-imm-seed0-chain0-n2")
    assert lines.count() == 1
    shown.locator('input[value="validation"]').check(force=True)
    steps = shown.locator("#legend").inner_text()
    assert "at step 20" in steps
    for box in shown.locator("#chosen input").all():
        box.uncheck()
    assert "No such curve" in says(shown, "chart")


def test_values_are_read_off_by_keys_and_by_the_mouse(shown):
    """Arrow keys go from record to record, Home and End to the ends, Escape to the last ones; the mouse likewise."""
    box = shown.locator("#chart")
    shown.locator("#which").select_option(label="training/small/chain 0, plain")
    last = says(shown, "legend")
    box.focus()
    shown.keyboard.press("Home")
    assert says(shown, "reading").startswith("At step 4:")  # a twentieth of 90 steps
    shown.keyboard.press("ArrowRight")
    assert says(shown, "reading").startswith("At step 8: north")
    shown.keyboard.press("End")
    assert says(shown, "reading").startswith("At step 90:")
    shown.keyboard.press("ArrowLeft")
    assert says(shown, "reading").startswith("At step 88:")
    assert says(shown, "legend") != last
    shown.keyboard.press("Escape")
    assert (says(shown, "reading"), says(shown, "legend")) == ("", last)
    box.scroll_into_view_if_needed()
    box.hover(position={"x": 60, "y": 100})
    assert says(shown, "legend").count("at step 4") == 2
    assert shown.locator("#chart .cursor").count() == 1
    assert says(shown, "reading") == ""  # whoever uses a mouse sees it
    shown.locator("h1").hover()
    assert says(shown, "legend") == last


def test_messages_are_filtered_by_level_and_by_words(shown):
    """Progress is left out at first; every word has to be there; the number of lines is told."""
    log = shown.locator("#log li")
    first = log.count()
    assert first == shown.locator('#log li:not([data-level="progress"])').count() > 3
    shown.locator("#level").select_option("progress")
    assert log.count() > first
    shown.locator("#level").select_option("error")
    assert log.count() == 0
    shown.locator("#level").select_option("info")
    shown.locator("#search").fill("harbour DICE")
    assert log.count() == 2
    assert all("harbour: Dice" in text for text in log.all_inner_texts())
    assert says(shown, "how-many").startswith("2 of ")
    shown.locator("#search").fill("")
    assert log.count() == first


def test_thousands_of_messages_stay_bounded_and_are_followed_until_one_looks_back(chromium, tmp_path):
    """500 lines in the page, the newest in sight; with `follow` off, or after scrolling up, the list stays."""
    out = tmp_path / "run"
    out.mkdir()
    text = "".join(f"2026-01-01 10:00:00,000 INFO line {i} {ODD}\n" for i in range(4000))
    (out / "log.txt").write_text(text)
    with dashboards.serve(out) as there, dashboards.page(chromium, there.address) as (page, complaints):
        log = page.locator("#log li")
        until(page, lambda: log.count() == 500, 20)
        assert f"line 3999 {ODD}" in log.last.inner_text()
        assert "4000 lines" in says(page, "how-many")
        end = "document.querySelector('#log').scrollHeight - document.querySelector('#log').clientHeight"
        at = "document.querySelector('#log').scrollTop"
        assert page.evaluate(f"Math.abs({end} - {at}) < 2")
        page.locator("#log").press("Home")
        until(page, lambda: page.evaluate(at) == 0, 5)
        assert not page.locator("#follow").is_checked()
        with (out / "log.txt").open("a") as file:
            file.write("2026-01-01 10:00:00,000 WARNING the newest\n")
        until(page, lambda: "the newest" in log.last.inner_text(), 10)
        assert page.evaluate(at) < 100
        page.locator("#follow").check()
        assert page.evaluate(f"Math.abs({end} - {at}) < 2")
        assert page.locator("img").count() == 0
    assert complaints == []


def test_updates_are_paused_and_go_on(chromium, tmp_path):
    """While they are, nothing changes; afterwards all that was missed is there."""
    out = tmp_path / "run"
    with verdict.running(out), dashboards.serve(out) as there:
        begun(out, time.time())
        with dashboards.page(chromium, there.address) as (page, complaints):
            until(page, lambda: page.locator(".card").count() == 2, 20)
            page.locator("#pause").click()
            assert says(page, "updated").startswith("paused")
            told = {"north": {"what": "training", "done": 40, "total": 200}}
            begun(out, time.time(), asked={"north": "train.contribute"}, told=told)
            page.wait_for_timeout(2500)
            assert page.locator("progress:visible").count() == 0
            page.locator("#pause").press("Enter")
            until(page, lambda: page.locator("progress:visible").count() == 1, 10)
            assert "training 40 of 200" in page.locator(".card").first.inner_text()
        assert complaints == []


def test_a_site_that_goes_and_comes_is_told_to_those_who_do_not_see(chromium, tmp_path):
    """Once, in a sentence; progress is not read out."""
    out, sites = tmp_path / "run", ("north", "south", "harbour")
    with verdict.running(out), dashboards.serve(out) as there:
        begun(out, time.time(), ("north", "harbour"))
        with dashboards.page(chromium, there.address, motion="reduce") as (page, complaints):
            until(page, lambda: page.locator(".card").count() == 2, 20)
            assert says(page, "say") == ""
            begun(out, time.time(), sites)
            until(page, lambda: page.locator('.card[data-state="away"]').count() == 1, 10)
            assert "is not there: its node is not connected" in page.locator(".card").nth(1).inner_text()
            assert "south, which is not there" in says(page, "words")
            moves = page.evaluate("getComputedStyle(document.querySelector('#state'), '::before').animationName")
            assert moves == "none"
        assert complaints == []


def test_a_dashboard_that_has_ended_is_said(chromium, tmp_path):
    """And from when on what is shown is old; the browser itself complains of the connection, and nobody else."""
    with endable(chromium, tmp_path / "run") as (page, complaints, end):
        until(page, lambda: says(page, "state").startswith("waiting"), 20)
        assert page.locator("#lost").is_hidden()
        end()
        until(page, lambda: page.locator("#lost").is_visible(), 20)
        assert says(page, "lost").startswith("The dashboard does not answer: it was ended, or the connection is gone.")
    assert all("ERR_CONNECTION_REFUSED" in one for one in complaints)


@contextlib.contextmanager
def endable(chromium, out):
    """A page whose dashboard can be ended before the page is: (page, complaints, what ends it)."""
    with contextlib.ExitStack() as served:
        there = served.enter_context(dashboards.serve(out))
        with dashboards.page(chromium, there.address) as (page, complaints):
            yield page, complaints, served.close


def test_names_that_are_markup_are_shown_letter_by_letter(chromium, tmp_path):
    """Of the campaign, of methods, trainings, sites, kinds of work, and in messages."""
    out = made_run.write(tmp_path / "run", cases=1, methods=("none", "t-imm"), odd=ODD)
    site = Here(out / "sites/north", f"north{ODD}")
    curves.keep(site, "k", f"training/{ODD}", Record(10, 1.0, 1e-3, None, 0.0))
    (out / "log.txt").write_text(f"2026-01-01 10:00:00,000 WARNING {ODD} is not there\n")
    begun(out, time.time(), (f"north{ODD}", "harbour"), campaign=f"made{ODD}")
    with dashboards.serve(out) as there, dashboards.page(chromium, there.address) as (page, complaints):
        until(page, lambda: points(page) == 1, 20)
        assert says(page, "title") == f"Campaign made{ODD}"
        assert page.locator(".card h3").first.inner_text().startswith(f"north{ODD}")
        assert f"north{ODD}: training/{ODD}" in says(page, "legend")
        assert f"{ODD} is not there" in says(page, "log")
        assert page.locator("img").count() == 0
    assert complaints == []


def test_the_runs_of_a_server_are_chosen_from_a_list(chromium, tmp_path):
    """The newest is shown first; each has its own state and sites; a hospital's curves are nowhere."""
    made = Consortium(tmp_path / "server")
    made.publish(
        made.entry("north", keys.new_node()), made.with_roles(made.entry("harbour", keys.new_node()), "target")
    )
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    for k, name in enumerate(("old", "new")):
        runs.submit(made.home, plan, name, now=time.time() - 100 + k)
    out = runs.out(made.home, "old")
    verdict.tell(out, "north: no cases")
    with runs.alone(made.home, "old"):
        runs.keep(made.home, runs.move(runs.read(made.home, "old"), "stopped", time.time(), words="north: no cases"))
    with dashboards.serve(made.home.folder) as there, dashboards.page(chromium, there.address) as (page, complaints):
        until(page, lambda: says(page, "title") == "Run new", 20)
        assert says(page, "state").startswith("queued")
        assert page.locator("#run option").all_inner_texts() == ["new (queued)", "old (stopped)"]
        page.locator("#run").select_option("old")
        until(page, lambda: says(page, "title") == "Run old", 10)
        assert says(page, "words") == "It was stopped: north: no cases"
        assert "The server is down" in says(page, "warnings")
        assert page.locator(".card h3").all_inner_texts() == ["north source", "harbour target"]
        assert "stay at their hospitals" in says(page, "no-curves")
    assert complaints == []


@pytest.mark.slow
def test_a_run_that_is_killed_and_resumed_is_followed(chromium, tmp_path):
    """Interrupted, in words that say what to do; then it runs again, and ends."""
    plan, out = simulation(tmp_path / "data", steps=400), tmp_path / "run"
    with dashboards.serve(out) as there, dashboards.page(chromium, there.address) as (page, complaints):
        process = simulate(plan, out)
        until(page, lambda: points(page) > 1, PATIENCE_S)
        process.send_signal(signal.SIGKILL)
        process.wait()
        until(page, lambda: says(page, "state").startswith("interrupted"), 20)
        assert "--resume goes on" in says(page, "words")
        assert "when it ended: trains for the consortium" in page.locator(".card").first.inner_text()
        process = simulate(plan, out, "--resume")
        until(page, lambda: says(page, "state").startswith("running"), PATIENCE_S)
        until(page, lambda: says(page, "state").startswith("done"), PATIENCE_S)
        process.wait()
    assert complaints == []
