"""The dashboard of a server's home, and of a hospital's own: what each may see, from files that real programs wrote."""

import fcntl
import json
import time

import agents
import dashboards
import pytest
from agents import ask
from commandline import command
from made_consortium import Consortium
from small import hospitals
from test_dashboard import ODD, Here, begun
from test_intruders_site import DESCRIBE
from test_runs import PLAN

from fedmerge import sessions
from fedmerge.dashboard.board import EVERY_S
from fedmerge.records import Record
from fedmerge.trust import keys
from server import runs, up, verdict
from sites import client, curves, doing
from sites.progress import report


def pieces(there, run=""):
    """What a page shows, after a new look at the disk."""
    time.sleep(EVERY_S)
    return dashboards.state(there, run)["pieces"]


@pytest.fixture
def made(tmp_path):
    """A consortium of a source and a target."""
    made = Consortium(tmp_path / "server")
    made.publish(
        made.entry("north", keys.new_node()), made.with_roles(made.entry("harbour", keys.new_node()), "target")
    )
    return made


@pytest.fixture
def plan(tmp_path):
    """A coordinator's campaign file."""
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    return path


def test_a_home_without_a_run_shows_who_takes_part(made):
    """And whether their nodes were seen; that the server is down is said."""
    (made.home.run).mkdir(exist_ok=True)
    seen = {"harbour": {"seen": time.time() - 300}}
    (made.home.run / "door.json").write_text(json.dumps({"turned": 0, "sites": seen}))
    with dashboards.serve(made.home.folder) as there:
        found = pieces(there)
    assert found["head"]["state"] == "waiting"
    assert [(card["name"], card["words"]) for card in found["sites"]] == [
        ("north", "never seen"), ("harbour", "offline for 5 min"),
    ]  # fmt: skip
    assert any("The server is down" in warning for warning in found["head"]["warnings"])


def test_the_runs_of_a_home_can_be_chosen(made, plan):
    """The newest at first, or the one that is asked for; each with its own state, sites and messages."""
    home, now = made.home, time.time()
    for k, name in enumerate(("old", "new")):
        runs.submit(home, plan, name, now=now - 100 + k)
    with runs.alone(home, "old"):
        runs.keep(home, runs.move(runs.read(home, "old"), "running", now - 90, attempts=2))
    out = runs.out(home, "old")
    told = {"north": {"what": f"training{ODD}", "done": 400, "total": 2000}}
    begun(out, now, ("north", "harbour"), {"north": "train.contribute"}, told)
    (out / "log.txt").write_text("2026-01-01 10:00:00,000 WARNING harbour is not there\n")
    (home.run / "logs").mkdir(parents=True, exist_ok=True)
    (home.run / "logs/runner.log").write_text("2026-01-01 09:00:00,000 INFO run 'old' was given to Flower\n")
    seen = {"north": {"seen": now, "turned": 0.0, "reason": ""}}
    (home.run / "door.json").write_text(json.dumps({"turned": 0, "sites": seen}))
    with sessions.alone(up.state_file(home)), verdict.running(out), dashboards.serve(home.folder) as there:
        first = dashboards.state(there)
        assert (first["run"], first["runs"]) == ("new", {"old": "running", "new": "queued"})
        assert first["pieces"]["head"]["words"] == "It waits for its turn."
        assert [card["words"] for card in first["pieces"]["sites"]] == ["is asked when it begins"] * 2
        second = dashboards.state(there, "old", first["version"])
        assert second["run"] == "old"
        north = second["pieces"]["sites"][0]
        assert (north["state"], north["progress"]["done"], north["notes"]) == ("working", 400, ["online"])
        assert "attempt 2" in second["pieces"]["head"]["facts"]
        assert second["pieces"]["head"]["warnings"] == []
        assert [m["source"] for m in second["messages"]] == ["runner", "campaign"]
    with dashboards.serve(runs.folder(home, "old")) as there:
        assert dashboards.state(there)["run"] == "old"
    with dashboards.serve(home.folder, "old") as there:
        assert dashboards.state(there)["run"] == "old"


def test_a_page_that_changes_its_run_gets_all_of_the_other(made, plan):
    """Also where its version is another run's."""
    home = made.home
    runs.submit(home, plan, "one", now=time.time() - 10)
    with dashboards.serve(home.folder) as there:
        first = dashboards.state(there)
        runs.submit(home, plan, "two")
        other = dashboards.state(there, "", first["version"])
        assert (other["run"], other["whole"]) == ("two", True)
        assert dashboards.state(there, "one", first["version"])["whole"] is False


def test_a_run_that_there_is_not_is_a_sentence(made, plan, capsys):
    """With those that there are."""
    runs.submit(made.home, plan, "one")
    assert command("dashboard", made.home.folder, "--run", "two") == 2
    assert "there is no run 'two'; runs are: one" in capsys.readouterr().err


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """The home of a source whose agent has answered, refused, and been stopped."""
    folder = tmp_path_factory.mktemp("hospital")
    small = hospitals(folder / "data", cases=4)
    _, data = agents.plan(small, folder / "plan")
    north = agents.home(folder / "homes", small, "north", data["north"])
    with agents.in_thread(north):
        ask(north, "query.describe", DESCRIBE)
        with pytest.raises(client.Failed):
            ask(north, "query.describe", DESCRIBE, bundle="sha256:" + "c" * 64)
    return north


def test_a_hospital_sees_what_came_what_left_and_what_was_refused(hospital):
    """From its own audit log: a bar for the task, bytes both ways, and the reason of the refusal."""
    with dashboards.serve(hospital.folder) as there:
        found = pieces(there)
    assert (found["head"]["title"], found["head"]["state"]) == ("Site north", "down")
    assert "scores" not in found
    assert "is not allowed here" in found["left"]
    assert "figures: case counts" in found["left"]
    assert found["left"].index("is not allowed here") < found["left"].index("figures: case counts")
    assert "north: roll call" in found["timeline"]["drawing"]
    (card,) = found["sites"]
    assert min(card["sent"], card["received"]) > 0
    assert (card["state"], card["words"]) == ("off", "its agent is not running")


def test_a_hospital_sees_its_training_while_its_agent_runs(hospital):
    """The task and how far it is, the curve, and the time since the last checkpoint; its log, with names of files."""
    work = hospital.folder / "private/work"
    curves.keep(Here(work), "k", "training/small/chain 0, plain", Record(10, 1.0, 1e-3, None, 0.0))
    (work / "checkpoints").mkdir()
    (work / "checkpoints/k.safetensors").touch()
    with (work / "site.log").open("a") as file:
        file.write("2026-01-01 10:00:00,000 ERROR [0123abcd] case_2.nii.gz holds NaN\n")
    doing.path(work).write_text('{"kind": "train.contribute", "progress": null}')  # of an agent that was killed
    with agents.in_thread(hospital), dashboards.serve(hospital.folder) as there:
        assert pieces(there)["head"]["state"] == "waiting"
        with doing.told(work, "train.contribute", "small"):
            report("north", "training", 10, 90)
            time.sleep(1.0)
            report("north", "training", 20, 90)
            told = dashboards.state(there)
        found = told["pieces"]
        assert found["head"]["state"] == "running"
        (card,) = found["sites"]
        assert (card["words"], card["progress"]["done"]) == ("trains for the consortium", 20)
        assert card["notes"][0].startswith("last checkpoint")
        assert found["curve/curves/k.jsonl"]["points"]["loss"] == [[10, 1.0]]
        assert any("case_2.nii.gz holds NaN" in message["text"] for message in told["messages"])
        assert pieces(there)["head"]["state"] == "waiting"


def test_a_lock_is_seen_without_taking_it(tmp_path):
    """While it is held, and not before or afterwards."""
    path = tmp_path / "lock"
    assert not sessions.is_locked(path)
    path.touch()
    assert not sessions.is_locked(path)
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert sessions.is_locked(path)
    assert not sessions.is_locked(path)


def test_looking_changes_nothing(hospital):
    """No file of a home is made, changed or touched."""

    def files():
        return {path: path.stat().st_mtime_ns for path in hospital.folder.rglob("*")}

    before = files()
    with dashboards.serve(hospital.folder) as there:
        pieces(there)
    assert files() == before
