"""What a deployed campaign survives: each program killed in each phase, and the numbers of an undisturbed campaign.

    make slow        with all other slow tests; at the end comes the table of what was lost

Every test is a consortium of its own on loopback: a server and three tiny hospitals, all programs of which are real.
"""

import time

import pytest
from deployed import until
from disturbed import EVERY, PATIENCE_S

PHASES = ("training", "transfer", "adaptation", "fine-tuning")
WORDS = {"training": ("north", "training"), "adaptation": ("harbour", "adapting"), "fine-tuning": ("harbour", "fine")}
VICTIMS = {
    "SuperLink": [("server", "superlink")],
    "the server's superexec": [("server", "superexec")],
    "ServerApp": [("server", "app")],
    "the server's machine": [("server", None)],
    "SuperNode": [("site", "supernode")],
    "the site's superexec": [("site", "superexec")],
    "ClientApp": [("site", "app")],
    "agent": [("site", "agent")],
    "the site's machine": [("site", None)],
    "door, runner, and the site's roster": [("server", "door"), ("server", "runner"), ("site", "roster")],
}
"""Killed at once: program by side, where `site` is the one at work. `app`: what the superexec started; None: all."""

pytestmark = pytest.mark.slow


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
    consortium.submit()
    seen = {}
    for phase in PHASES:
        site, what = WORDS.get(phase, ("north", "Fisher"))
        until(lambda phase=phase: reached(consortium, phase), PATIENCE_S, consortium)
        before, came = len(consortium.steps(site, what)), consortium.arrived()
        went_on, began = heard(consortium, site), time.monotonic()
        for side, program in VICTIMS[victim]:
            home = "server" if side == "server" else site
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
