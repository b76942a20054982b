"""What a deployed campaign survives: each fault in each phase, and the numbers are those of an undisturbed one.

    make slow                                              with all other slow tests
    .venv/bin/python -m pytest -m slow tests/test_faults.py       these, with the table of what was lost

Every test is a consortium of its own on loopback: a server and three tiny hospitals, all programs of which are real.
"""

import time

import pytest
from deployed import until
from disturbed import EVERY, PATIENCE_S, Disturbed, simulated

PHASES = ("training", "transfer", "adaptation", "fine-tuning")
WORDS = {"training": ("north", "training"), "adaptation": ("harbour", "adapting"), "fine-tuning": ("harbour", "fine")}
VICTIMS = {"SuperLink": ("server", "superlink")}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Rows and ratios of the campaign in a simulation."""
    return simulated(tmp_path_factory.mktemp("simulated"))


@pytest.fixture(scope="module")
def table(request, tmp_path_factory):
    """Takes (what was broken, in which phase, what was lost, seconds until it went on); shown at the end."""
    lines = []
    yield lambda *line: lines.append(line)
    head = ("broken", "phase", "lost", "seconds until it went on")
    text = "\n".join(f"| {' | '.join(map(str, line))} |" for line in (head, ("---",) * 4, *lines))
    path = tmp_path_factory.getbasetemp() / "faults.md"
    path.write_text(text + "\n")
    terminal = request.config.pluginmanager.getplugin("terminalreporter")
    terminal.write_line(f"\n\n{text}\n\nalso in {path}")


@pytest.fixture
def consortium(tmp_path):
    """Everything is up, and nothing is left when the test is over."""
    made = Disturbed(tmp_path)
    try:
        made.up()
        yield made
    finally:
        made.stop()


def reached(consortium, phase):
    """Whether the campaign is in the middle of a phase."""
    if phase == "transfer":
        return consortium.arrived() > 0
    return consortium.steps(*WORDS[phase])[-1:] > [120]


def lost(steps, before):
    """How many steps were done twice: those that had been told `before`, beyond the one where the work went on."""
    if before == len(steps):
        return 0
    last, first = steps[before - 1], steps[before]
    assert first >= last // EVERY * EVERY, f"{last} steps were done, and it went on with {first}"
    return max(0, last - first)


def heard(consortium, site):
    """A function that tells whether the server's app has had an answer of the site since now."""
    began, last = time.time(), consortium.progress(site).get("received", 0)

    def true():
        told = consortium.told_at()
        return told > began and consortium.progress(site)["received"] not in (0, last)

    return true


@pytest.mark.parametrize("victim", VICTIMS)
def test_killed_in_each_phase(consortium, undisturbed, table, victim):
    """Killed by signal 9 in the middle of each phase: no step beyond the last checkpoint is lost, no number changes."""
    side, program = VICTIMS[victim]
    consortium.submit()
    seen = {}
    for phase in PHASES:
        site, what = WORDS.get(phase, ("north", "Fisher"))
        home = "server" if side == "server" else site
        until(lambda phase=phase: reached(consortium, phase), PATIENCE_S, consortium)
        before, came = len(consortium.steps(site, what)), consortium.arrived()
        went_on, began = heard(consortium, site), time.monotonic()
        if program:
            consortium.hit(home, program)
        else:
            consortium.kill_machine(home)
            consortium.start(home)
        until(went_on, PATIENCE_S, consortium)
        seen[phase] = (site, what, before, round(time.monotonic() - began))
        if phase == "transfer":
            assert consortium.kept() or consortium.arrived() >= came, "what had come was thrown away"
    assert consortium.finished() == undisturbed
    for phase, (site, what, before, seconds) in seen.items():
        again = lost(consortium.steps(site, what), before)
        table(victim, phase, f"{again} steps since the checkpoint" if again else "nothing", seconds)
