"""Programs that are kept running: they come back, they go together, and nothing of them is left."""

import json
import os
import pwd
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fedmerge import logs, sessions, supervisor
from fedmerge.errors import ConfigError
from fedmerge.supervisor import Kept, Program

SCRIPT = """
import sys
from pathlib import Path
from fedmerge.supervisor import Program, supervise
folder = Path(sys.argv[1])
supervise(
    [Program(name, ["sh", "-c", command], folder / f"{name}.log") for name, command in zip("ab", sys.argv[2:])],
    folder / "state.json",
    tick_s=0.02,
)
"""
FAMILY = "sleep 1001 & sleep 1002 & wait"  # a program that started two others


def until(true, seconds=10.0):
    """Wait for something to become true; its value."""
    end = time.monotonic() + seconds
    while not (value := true()) and time.monotonic() < end:
        time.sleep(0.02)
    assert value
    return value


def program(tmp_path, name, command, **more):
    """A program that is a line of shell."""
    return Program(name, ["sh", "-c", command], tmp_path / f"{name}.log", **more)


@pytest.fixture
def begun(tmp_path):
    """Start a supervisor of lines of shell as a process of its own; all of it ends with the test."""
    started = []

    def begin(*commands):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, tmp_path, *commands])
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
    until(lambda: not sessions.is_up(tmp_path / "state.json"))
    sessions.sweep(tmp_path / "state.json")


def entry(tmp_path, name="a"):
    """What the state file says of a program."""
    return sessions.read_state(tmp_path / "state.json").get("programs", {}).get(name, {})


def pids(tmp_path, name="a", number=3):
    """The pid of a program, once its session has `number` processes, and all of theirs."""
    leader = until(lambda: entry(tmp_path, name).get("pid"))
    return leader, until(lambda: len(found := sessions.members(leader)) == number and found)


def alive(pid):
    """Whether a process is there and no zombie."""
    facts = sessions._facts(pid)
    return facts is not None and facts[0] != "Z"


def test_a_program_that_was_killed_comes_back_without_the_rest_of_its_session(tmp_path, begun):
    """Its children are gone before it is started again, and the state file has the new pid and the reason."""
    begun(FAMILY)
    leader, family = pids(tmp_path)
    os.kill(leader, signal.SIGKILL)
    until(lambda: entry(tmp_path).get("pid") not in (None, leader))
    assert not any(map(alive, family))
    assert entry(tmp_path)["restarts"] == 1
    assert entry(tmp_path)["words"] == "killed by signal 9"
    pids(tmp_path)


def test_nothing_is_left_when_the_supervisor_is_stopped(tmp_path, begun):
    """SIGTERM ends both programs and what they started; the supervisor ends with 0."""
    process = begun(FAMILY, FAMILY)
    families = [pids(tmp_path, name)[1] for name in "ab"]
    process.terminate()
    assert process.wait(10) == 0
    assert not any(alive(pid) for family in families for pid in family)
    assert entry(tmp_path)["state"] == "stopped"


def test_nothing_is_left_when_the_supervisor_is_killed(tmp_path, begun):
    """Children die with it by the kernel, grandchildren by the watchman."""
    process = begun(FAMILY)
    _, family = pids(tmp_path)
    process.kill()
    until(lambda: not any(map(alive, family)))


def test_the_next_supervisor_ends_what_an_earlier_one_left(tmp_path, begun):
    """A session in the state file whose leader is the same process, or gone; a reused pid is let live."""
    left = [subprocess.Popen(["sh", "-c", "sleep 1001 & wait"], start_new_session=True) for _ in range(2)]
    try:
        ours, reused = (until(lambda p=p: len(found := sessions.members(p.pid)) == 2 and found) for p in left)
        programs = {
            "ours": {"pid": left[0].pid, "born": sessions.born(left[0].pid)},
            "reused": {"pid": left[1].pid, "born": "1"},
        }
        path = tmp_path / "state.json"
        path.write_text(json.dumps({"boot": "another start of the machine", "programs": programs}))
        sessions.sweep(path)
        assert all(map(alive, ours + reused))
        path.write_text(json.dumps({"boot": sessions.boot(), "programs": programs}))
        begun("sleep 1003")
        until(lambda: not any(map(alive, ours)))
        assert all(map(alive, reused))
    finally:
        for process in left:
            sessions.kill_session(process.pid, signal.SIGKILL)
            process.wait()


def test_two_supervisors_of_one_folder_are_one_too_many(tmp_path, begun):
    """The second says so, and the first goes on."""
    assert not sessions.is_up(tmp_path / "state.json")
    begun("exec sleep 1001")
    leader, _ = pids(tmp_path, number=1)
    assert sessions.is_up(tmp_path / "state.json")
    with pytest.raises(ConfigError, match="is up already; stop that one first"):
        supervisor.supervise([], tmp_path / "state.json")
    assert alive(leader)


def test_programs_start_when_those_before_them_are_ready(tmp_path):
    """`after` waits for `ready`, not for the start; the tick is called in between."""
    stop, order = threading.Event(), []
    door = tmp_path / "door"

    def tick():
        states = {name: entry(tmp_path, name).get("state") for name in "ab"}
        order.append((states["a"], states["b"]))
        if states["b"] == "running":
            stop.set()

    first = program(tmp_path, "a", f"sleep 0.3; touch {door}; sleep 1001", ready=door.exists)
    second = program(tmp_path, "b", f"test -e {door} && sleep 1002", after=("a",))
    threading.Timer(10, stop.set).start()
    supervisor.supervise([first, second], tmp_path / "state.json", stop, tick, tick_s=0.02)
    assert ("starting", "waiting") in order
    assert ("running", "running") in order
    assert entry(tmp_path, "b")["restarts"] == 0


def test_pauses_double_up_to_half_a_minute_and_begin_anew_after_a_steady_minute(tmp_path):
    """The clock is an argument: 1, 2, 4, 8, 16, 30, 30 seconds between an end and the next start."""
    one, now, pauses = Kept(program(tmp_path, "a", "echo no room on the disk; exit 3")), 0.0, []

    def ended():
        one.step(now, {})
        one.process.wait()
        while one.process is not None:
            one.step(now, {})

    for _ in range(7):
        ended()
        pauses.append(one.again_at - now)
        assert not one.step(one.again_at - 0.01, {})
        now = one.again_at
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    assert one.words == "ended with code 3; last words: no room on the disk"
    one.program = program(tmp_path, "a", "sleep 1001")
    one.step(now, {})
    one.step(now + 1, {})
    one.step(now + 62, {})
    os.kill(one.process.pid, signal.SIGKILL)
    one.process.wait()
    one.step(now + 63, {})
    assert one.again_at == now + 63 + 1


def test_a_program_that_is_never_ready_is_started_again(tmp_path):
    """After its patience, with a reason."""
    one = Kept(program(tmp_path, "a", "sleep 1001", ready=lambda: False, patience_s=30))
    one.step(0, {})
    pid = one.process.pid
    one.step(29, {})
    assert one.state == "starting"
    one.step(31, {})
    assert (one.process, one.words) == (None, "was not ready within 30 s")
    assert not alive(pid)


def test_a_program_that_clings_to_life_is_killed(tmp_path):
    """SIGTERM that is ignored becomes SIGKILL."""
    one = Kept(program(tmp_path, "a", f"trap '' TERM; touch {tmp_path / 'deaf'}; while :; do sleep 0.1; done"))
    one.step(0, {})
    pid = one.process.pid
    until((tmp_path / "deaf").exists)
    supervisor.end(one, grace_s=0.2)
    assert not alive(pid)


def test_environment_folder_and_log_are_the_programs_own(tmp_path):
    """Variables come on top of those inherited; what is printed lands in the log, below what was there."""
    (tmp_path / "a.log").write_text("before\n")
    one = Kept(program(tmp_path, "a", "echo $COLOUR; pwd; echo $HOME >&2", env={"COLOUR": "red"}, cwd=tmp_path))
    one.step(0, {})
    one.process.wait()
    assert (tmp_path / "a.log").read_text().split() == ["before", "red", str(tmp_path), os.environ["HOME"]]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can start programs under another user")
def test_another_user_has_only_its_own_rights(tmp_path):
    """Its id, its groups, its home; and it still dies with the supervisor."""
    nobody = pwd.getpwnam("nobody")
    one = Kept(program(tmp_path, "a", "id -u; id -G; echo $HOME; sleep 1001", user="nobody", cwd=Path("/")))
    one.step(0, {})
    told = until(lambda: len(words := (tmp_path / "a.log").read_text().split()) == 3 and words)
    assert told == [str(nobody.pw_uid), str(nobody.pw_gid), nobody.pw_dir]
    supervisor.end(one)


def test_logs_are_bounded_while_the_program_goes_on_writing(tmp_path):
    """The newest lines are in LOG, older ones in LOG.1 to LOG.3, and nothing more is kept."""
    log = tmp_path / "a.log"
    with log.open("ab", buffering=0) as file:
        for i in range(6):
            file.write(f"{i}\n".encode() * 10)
            logs.rotate(log, limit=15)
        file.write(b"last\n")
    assert log.read_text() == "last\n"
    assert [Path(f"{log}.{i}").read_text()[0] for i in (1, 2, 3)] == ["5", "4", "3"]
    assert len(list(tmp_path.iterdir())) == 4


def test_last_words_have_no_colours(tmp_path):
    """And no pointer to a page of Flower's documentation."""
    log = tmp_path / "a.log"
    assert logs.last_words(log) == ""
    log.write_text("one\n\x1b[91mERROR\x1b[0m: disk full\n\nFor more information, visit: <x>\n\n")
    assert logs.last_words(log) == "ERROR: disk full"
