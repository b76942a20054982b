"""Two campaigns at once, and one that its coordinator stops: each comes to the numbers of a simulation."""

import time

import pytest
from deployed import until
from disturbed import PATIENCE_S

pytestmark = pytest.mark.slow


def test_two_campaigns_go_on_at_once(consortium, undisturbed, table):
    """The same plan under two names, and programs that are killed meanwhile."""
    consortium.submit()
    until(lambda: consortium.steps("north", "training"), PATIENCE_S, consortium)
    consortium.submit("second")
    until(lambda: consortium.run("second").state == "running", PATIENCE_S, consortium)
    assert not consortium.run("small").over
    assert consortium.finished() == undisturbed
    assert consortium.finished(name="second") == undisturbed
    table("two campaigns at once", "all", "nothing", 0)


def test_a_run_is_stopped_and_goes_on(consortium, undisturbed):
    """The same name goes on to the same numbers, and what was done is not done again."""
    consortium.submit()
    until(lambda: consortium.steps("north", "training")[-1:] > [120], PATIENCE_S, consortium)
    where = ("--server", consortium.server.folder)
    consortium.command("server", "stop", *where)
    until(lambda: consortium.run("small").state == "stopped", PATIENCE_S, consortium)
    assert "has no results yet" in consortium.command("server", "results", "small", *where)
    time.sleep(1.0)
    consortium.command("server", "run", "--name", "small", "--detach", *where)
    assert consortium.finished() == undisturbed
    steps = consortium.steps("north", "training")
    assert steps == sorted(set(steps)), "something was trained twice"
    assert "t-imm" in consortium.command("server", "results", "small", *where)
