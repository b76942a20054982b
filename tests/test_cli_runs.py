"""`fedmerge run`, `status`, `stop` and `results` on a server's home, with nothing of Flower's running."""

import json
import threading
import time
from dataclasses import replace

import pytest
from commandline import command
from made_consortium import DAY, Consortium
from test_runs import PLAN

from fedmerge import sessions
from fedmerge.cli import status
from fedmerge.trust import keys
from server import runs, up, verdict


@pytest.fixture
def consortium(tmp_path):
    """A consortium with a source, a target, and a source whose time has run out."""
    made = Consortium(tmp_path / "server")
    now = made.now
    source, target, late = (
        made.entry("north", keys.new_node()),
        made.with_roles(made.entry("harbour", keys.new_node()), "target"),
        made.entry("south", keys.new_node(), now - 9 * DAY, now - DAY),
    )
    made.publish(source, target, late)
    return made


@pytest.fixture
def plan(tmp_path):
    """A coordinator's campaign file."""
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    return path


def table(text):
    """The lines of the terminal without the blanks between the columns."""
    return [" ".join(line.split()) for line in text.splitlines()]


def test_a_run_is_queued_though_the_server_is_down(consortium, plan, capsys):
    """With a warning that says how to start it."""
    assert command("run", plan, "--server", consortium.home.folder, "--seeds", "0-1", "--detach") == 0
    told = capsys.readouterr().err
    assert "run 'first-try' is queued in" in told
    assert f"the server is not up, so the run waits: fedmerge server up --server {consortium.home.folder}" in told
    assert runs.read(consortium.home, "first-try").options == {"seeds": "0,1"}


def test_status_has_a_line_for_each_site_and_run(consortium, plan, capsys, monkeypatch):
    """Connected or since when not, at work on what, bytes both ways; runs with their last words; server up or down."""
    home, now = consortium.home, time.time()
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("one", "two"):
        runs.submit(home, plan, name)
    runs.keep(home, runs.move(runs.read(home, "one"), "running", now - 7200, attempts=2))
    runs.keep(home, runs.move(runs.read(home, "two"), "stopped", now - 3 * DAY, words="north: no cases"))
    facts = {"what": "train.contribute", "since": now, "reason": "", "sent": 1_500_000, "received": 20}
    training = {"what": "training", "done": 400, "total": 2000}
    sites = {
        "north": {**facts, "state": "working", "progress": training},
        "harbour": {**facts, "state": "away", "progress": None, "reason": "its node is not connected"},
    }
    (runs.out(home, "one") / "server").mkdir(parents=True)
    (runs.out(home, "one") / "server/progress.json").write_text(json.dumps({"time": now, "sites": sites}))
    (runs.out(home, "one") / "log.txt").write_text("2026-01-01 00:00:00,000 WARNING harbour is not there\n")
    seen = {"north": {"seen": now - 5}, "harbour": {"seen": now - 300}, "south": {"seen": now}}
    (home.run / "door.json").write_text(json.dumps({"turned": 0, "sites": seen}))
    with sessions.alone(up.state_file(home)):
        assert command("status", "--server", home.folder) == 0
    lines = table(capsys.readouterr().out)
    assert lines[0] == "north: the server is up"
    (north,) = [line for line in lines if line.startswith("north source")]
    (harbour,) = [line for line in lines if line.startswith("harbour target")]
    (south,) = [line for line in lines if line.startswith("south source")]
    assert north.endswith("online one: training 400/2000 20 B 1.5 MB")
    assert harbour.endswith("offline for 5 min one: away train.contribute its node is not connected 20 B 1.5 MB")
    assert "expired - 0 B 0 B" in south
    (one,) = [line for line in lines if line.startswith("one ")]
    (two,) = [line for line in lines if line.startswith("two ")]
    assert one == "one running 2 h 2 north, harbour 2026-01-01 00:00:00,000 WARNING harbour is not there"
    assert two == "two stopped 3 d 0 north, harbour north: no cases"
    assert command("status", "--server", home.folder) == 0
    down = table(capsys.readouterr().out)
    assert down[0] == "north: the server is down"
    assert any(line.startswith("north source") and "offline for" in line for line in down)
    assert any(line.startswith("one running, server down") for line in down)


def test_status_says_why_a_site_is_refused(consortium, capsys, monkeypatch):
    """For as long as it knocks in vain; afterwards it is offline, or online."""
    monkeypatch.setenv("COLUMNS", "200")
    home, now = consortium.home, time.time()
    reason = "the clock of north is +600 s off"
    for seen, turned, told in (
        (now - 50, now - 5, f"refused: {reason}"), (now - 5, now - 50, "online"), (now - 400, now - 300, "offline for"),
    ):  # fmt: skip
        visits = {"seen": seen, "turned": turned, "reason": reason}
        (home.run / "door.json").write_text(json.dumps({"turned": 1, "sites": {"north": visits}}))
        with sessions.alone(up.state_file(home)):
            assert command("status", "--server", home.folder) == 0
        (north,) = [line for line in table(capsys.readouterr().out) if line.startswith("north source")]
        assert told in north


def test_status_shows_programs_that_had_to_be_started_again(consortium, capsys, monkeypatch):
    """With their last words; those that are well are not listed."""
    monkeypatch.setenv("COLUMNS", "200")
    entry = {"pid": 1, "born": "1", "since": "", "state": "running", "restarts": 0, "words": ""}
    programs = {"door": entry, "superlink": {**entry, "restarts": 3, "words": "killed by signal 9"}}
    path = up.state_file(consortium.home)
    path.write_text(json.dumps({"boot": "", "programs": programs}))
    with sessions.alone(path):
        assert command("status", "--server", consortium.home.folder) == 0
    told = table(capsys.readouterr().out)
    assert "superlink running 3 killed by signal 9" in told
    assert not any(line.startswith("door") for line in told)


def test_a_run_is_followed_to_its_sentence(consortium, plan, capsys):
    """What the server's app logs is shown, and the command ends with 2 where the campaign stopped."""
    home = consortium.home

    def campaign():
        end = time.monotonic() + 20
        while not runs.names(home) and time.monotonic() < end:
            time.sleep(0.05)
        runs.out(home, "first-try").mkdir(parents=True, exist_ok=True)
        log = runs.out(home, "first-try") / "log.txt"
        log.write_text("2026-01-01 00:00:00,000 INFO north: trained 6 steps\n2026-01-01 00:00:00,000 ERROR south: no\n")
        time.sleep(1.5)
        with runs.alone(home, "first-try"):
            runs.keep(home, runs.move(runs.read(home, "first-try"), "stopped", time.time(), words="south: no cases"))

    thread = threading.Thread(target=campaign)
    thread.start()
    assert command("run", plan, "--server", home.folder) == 2
    thread.join()
    told = capsys.readouterr().err
    assert "north: trained 6 steps\n" in told
    assert told.endswith("error: south: no cases\n")


def test_stop_and_results_mean_the_newest_run_unless_told(consortium, plan, capsys):
    """And say what they cannot do."""
    home = consortium.home
    assert command("stop", "--server", home.folder) == 2
    assert "has no run yet; fedmerge run CAMPAIGN begins one" in capsys.readouterr().err
    runs.submit(home, plan, "old", now=time.time() - 10)
    runs.submit(home, plan, "new")
    assert command("stop", "--server", home.folder) == 0
    assert [runs.read(home, name).state for name in ("old", "new")] == ["queued", "stopped"]
    assert command("results", "old", "--server", home.folder) == 2
    assert "run 'old' has no results yet: it is queued" in capsys.readouterr().err
    assert command("stop", "never", "--server", home.folder) == 2
    assert "there is no run 'never'; runs are: new, old" in capsys.readouterr().err


def test_a_stopped_run_goes_on_by_its_name_alone(consortium, plan, capsys):
    """Without a file, with the options that it had; without either there is nothing to run."""
    home = consortium.home
    runs.submit(home, plan, "again", {"methods": "none"})
    verdict.tell(runs.out(home, "again"), "north: no cases")
    with runs.alone(home, "again"):
        runs.keep(home, replace(runs.read(home, "again"), state="stopped", words="north: no cases"))
    assert command("run", "--name", "again", "--server", home.folder, "--detach") == 0
    run = runs.read(home, "again")
    assert (run.state, run.options, run.words) == ("queued", {"methods": "none"}, "")
    assert command("run", "--server", home.folder) == 2
    assert "which campaign?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "told"), [(0, "0 s"), (59, "59 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 d"), (-5, "0 s")]
)
def test_durations_are_told_in_their_largest_unit(seconds, told):
    """Whole numbers."""
    assert status.lasting(seconds) == told


@pytest.mark.parametrize(
    ("number", "told"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (240e6, "240 MB"), (3.2e12, "3.2 TB")]
)
def test_bytes_are_told_in_units_that_fit(number, told):
    """Three digits."""
    assert status.size(number) == told
