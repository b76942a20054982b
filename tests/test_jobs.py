"""Long work in one thread: joined, waited for, told of, given once, and forgotten."""

import threading

import pytest

from sites import jobs, progress
from sites.jobs import Jobs, Later


def test_who_asks_waits_a_little_and_asks_again():
    """Before its end a job is `Later`, under its own name; then its result is there, and after that nothing."""
    gate, work = threading.Event(), Jobs("north")
    work.begin("a", lambda: gate.wait(10))
    assert work.wait("a", 0.01) == Later("a", {})
    gate.set()
    assert work.wait("a", 10.0) is True
    assert work.wait("a", 0.0) is None


def test_the_same_ask_joins_the_job_that_is_under_way():
    """Two who ask for the same at once wait for one piece of work."""
    gate, done, work = threading.Event(), [], Jobs()
    for _ in range(3):
        work.begin("a", lambda: done.append(gate.wait(10)))
    gate.set()
    work.wait("a", 10.0)
    assert done == [True]


def test_jobs_are_done_one_at_a_time_in_the_order_in_which_they_came():
    """A second job begins when the first has ended."""
    order, work = [], Jobs()
    for name in "abcd":
        work.begin(name, lambda name=name: order.append(name) or threading.active_count())
    for name in "abcd":
        work.wait(name, 10.0)
    assert order == list("abcd")


def test_what_a_job_raises_is_raised_to_who_waits_and_may_be_tried_again():
    """A failure is not kept: the same ask begins anew."""
    tries, work = [], Jobs()

    def fail():
        tries.append(1)
        raise TimeoutError("its own, not that of the wait")

    for _ in range(2):
        work.begin("a", fail)
        with pytest.raises(TimeoutError, match="its own"):
            work.wait("a", 10.0)
    assert len(tries) == 2


def test_who_waits_hears_the_last_progress_of_this_site():
    """What other sites of the process tell is not this one's; a job that has not begun has told nothing."""
    told, gate, work = threading.Event(), threading.Event(), Jobs("north")

    def train():
        progress.report("north", "training", 3, 9)
        progress.report("south", "training", 5, 9)
        told.set()
        gate.wait(10)

    work.begin("a", train)
    work.begin("b", train)
    told.wait(10)
    assert work.wait("a", 0.0) == Later("a", {"what": "training", "done": 3, "total": 9})
    assert work.wait("b", 0.0) == Later("b", {})
    gate.set()
    work.wait("b", 10.0)


def test_results_that_nobody_fetches_do_not_pile_up():
    """The oldest go first; a job that is under way is never forgotten."""
    gate, work = threading.Event(), Jobs()
    for k in range(2 * jobs.MOST_HELD):
        assert work.begin(str(k), lambda k=k: k)
        while not work._jobs[str(k)].done():
            pass
    work.begin("last", lambda: gate.wait(10))
    work.begin("more", lambda: 0)
    assert work.wait("0", 0.0) is None
    assert work.wait(str(2 * jobs.MOST_HELD - 1), 0.0) == 2 * jobs.MOST_HELD - 1
    assert work.wait("last", 0.0) == Later("last", {})
    gate.set()


def test_the_queue_has_an_end():
    """Who asks for more than that is sent away, and joins what is in the queue all the same."""
    gate, work = threading.Event(), Jobs()
    assert all(work.begin(str(k), lambda: gate.wait(10)) for k in range(jobs.MOST_WAITING))
    assert not work.begin("one more", lambda: True)
    assert work.begin("0", lambda: True)
    gate.set()
    assert work.wait(str(jobs.MOST_WAITING - 1), 10.0) is True
    assert work.begin("one more", lambda: True)


def test_a_jobs_name_is_all_that_was_asked():
    """Operation, task and digests; their order does not matter, their content does."""
    one = jobs.name("train.contribute", {"a": 1, "b": 2}, {"start": "x"})
    assert one == jobs.name("train.contribute", {"b": 2, "a": 1}, {"start": "x"})
    others = [("train.pull", {"a": 1, "b": 2}, {"start": "x"}), ("train.contribute", {"a": 2, "b": 2}, {"start": "x"}),
              ("train.contribute", {"a": 1, "b": 2}, {"start": "y"})]  # fmt: skip
    assert len({one, *(jobs.name(*other) for other in others)}) == 4
