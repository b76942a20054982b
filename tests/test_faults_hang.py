"""A site that never answers, because a program of its hangs: named within two minutes, and the plan is followed."""

import re
import signal
import time

import pytest
from deployed import until
from disturbed import PATIENCE_S, simulated

from server.post import SILENT
from server.presence import GONE

NAMED_S = 120.0
AWAY = r"its agent does not answer \(\w+\)"

pytestmark = pytest.mark.slow


def begin(consortium):
    """Give the campaign to the server, and wait until the first source is in the middle of its training."""
    consortium.submit()
    until(lambda: consortium.steps("north", "training")[-1:] > [120], PATIENCE_S, consortium)


def hang(consortium, program, reason):
    """Let a program of a source that trains stop where it is; (its pids, after how many seconds the site was named)."""
    begin(consortium)
    pids, began = consortium.hit("north", program, signal.SIGSTOP), time.monotonic()
    until(lambda: re.search(f"north is not there since .*: {reason}", consortium.log()), NAMED_S, consortium)
    return pids, round(time.monotonic() - began)


def go_on(consortium, pids):
    """Let a program that hangs go on, as if nothing had been; when that was."""
    for pid in pids:
        consortium.send(pid, signal.SIGCONT)
    return time.monotonic()


@pytest.mark.parametrize(("program", "reason"), [("agent", AWAY), ("supernode", GONE)])
def test_a_site_that_hangs_is_waited_for(consortium, undisturbed, table, program, reason):
    """`absent = "wait"`: the campaign says for whom it waits, and goes on when the site does."""
    pids, named = hang(consortium, program, reason)
    assert re.search(f"north .*small: away .*{reason}", consortium.status())
    assert not consortium.run("small").over
    again = go_on(consortium, pids)
    until(lambda: re.search("north (answers|is connected) again", consortium.log()), PATIENCE_S, consortium)
    seconds = round(time.monotonic() - again)
    assert consortium.finished() == undisturbed
    table(f"{program} hung, named after {named} s, waited for", "training", "nothing", seconds)


@pytest.mark.parametrize("consortium", ['absent = "stop"'], indirect=True)
def test_a_site_that_hangs_stops_a_campaign_that_waits_for_nobody(consortium, undisturbed, table):
    """`absent = "stop"`: it ends with the site's name and the reason, and goes on by its name when the site is well."""
    pids, named = hang(consortium, "superexec", SILENT)
    run = until(lambda: (run := consortium.run("small")).over and run, PATIENCE_S, consortium)
    assert run.state == "stopped"
    assert re.fullmatch(rf"north has not been there for \d+ s: {SILENT}", run.words)
    assert run.words in consortium.status()
    again = go_on(consortium, pids)
    told = consortium.command("server", "run", "--name", "small", "--detach", "--server", consortium.server.folder)
    assert "small" in told
    until(lambda: consortium.progress("north").get("state") in ("asked", "working"), PATIENCE_S, consortium)
    seconds = round(time.monotonic() - again)
    assert consortium.finished() == undisturbed
    table(f"superexec hung, named after {named} s, the campaign stopped", "training", "nothing", seconds)


@pytest.mark.parametrize("consortium", ['absent = "without"\nwait_s = 1'], indirect=True)
def test_a_site_that_hangs_is_left_out(consortium, tmp_path_factory, table):
    """`absent = "without"`: the campaign goes on with the numbers that it has without this source."""
    _, named = hang(consortium, "supernode", GONE)
    began = time.monotonic()
    until(lambda: "north is left out" in consortium.log(), PATIENCE_S, consortium)
    seconds = round(time.monotonic() - began)
    found = consortium.finished()
    alone = simulated(tmp_path_factory.mktemp("alone"), without_north)
    assert found[1] == alone[1]
    assert found[0] == alone[0]
    table(f"supernode hung, named after {named} s, left out", "training", "this source, as planned", seconds)


def test_a_client_app_that_hangs_is_replaced(consortium, undisturbed, table):
    """Flower gives it up after a minute without a heartbeat, and the site is asked once more: a new one answers."""
    begin(consortium)
    last = consortium.progress("north")["received"]
    began = time.monotonic()
    consortium.hit("north", "app", signal.SIGSTOP)
    until(lambda: consortium.progress("north")["received"] > last, NAMED_S, consortium)
    seconds = round(time.monotonic() - began)
    assert consortium.finished() == undisturbed
    table("ClientApp hung, and was replaced", "training", "nothing", seconds)


def without_north(text):
    """The campaign's file without its first source."""
    return re.sub(r'\[\[site\]\]\nname = "north".*?(?=\[\[site\]\])', "", text, flags=re.DOTALL)
