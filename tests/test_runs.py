"""Campaigns of a server's home: queued, given to Flower, given again when they end without a word, stopped."""

import contextlib
import os
import subprocess
import sys
import time
import tomllib

import pytest
from made_consortium import Consortium
from made_plans import MEMBERS, trainings

from fedmerge.errors import CampaignStopped, ConfigError, DataError
from fedmerge.trust import keys
from server import runner, runs, superlink, verdict
from server.runner import Runner
from server.superlink import Unanswered

T = float(int(time.time()))  # when the tests begin, in seconds since 1970
SHORT = "steps = 2\nlr = 1e-3"
PLAN = '[campaign]\nname = "first try"\n' + trainings(
    net='weights = "start.safetensors"', train=SHORT, adapt=SHORT, finetune=SHORT
)
PLAN += MEMBERS


class Flower:
    """Flower's command, as the runner uses it: what was ordered, and runs with a state."""

    def __init__(self):
        self.orders, self.states, self.down, self.details = [], {}, False, "N/A"

    def order(self, home, *words, wait_s=0.0):
        """An order and its answer."""
        if self.down:
            raise Unanswered(f"flwr {words[0]}: no SuperLink")
        self.orders.append(words)
        if words[0] == "run":
            number = str(100 + len(self.states))
            self.states[number] = "pending"
            return {"success": True, "run-id": number}
        if words[0] == "stop":
            self.states[words[1]] = "finished:stopped"
            return {"success": True}
        asked = words[words.index("--run-id") + 1] if "--run-id" in words else None
        facts = {"status-details": self.details}
        found = [{"run-id": n, "status": s, **facts} for n, s in self.states.items() if asked in (None, n)]
        return {"success": True, "runs": found}


@pytest.fixture(scope="module")
def consortium(tmp_path_factory):
    """A consortium with a source and a target."""
    made = Consortium(tmp_path_factory.mktemp("server"))
    source, target = (made.entry(name, keys.new_node()) for name in ("north", "harbour"))
    made.publish(source, made.with_roles(target, "target"))
    return made


@pytest.fixture
def home(consortium, tmp_path):
    """Its home, without a run."""
    for path in consortium.home.runs.iterdir():
        path.rename(tmp_path / path.name)
    return consortium.home


@pytest.fixture
def flower(monkeypatch):
    """A Flower that does as the test wishes, and a registry of nodes that is as it should be."""
    made = Flower()
    monkeypatch.setattr(superlink, "order", made.order)
    monkeypatch.setattr("server.registry.sync_nodes", lambda home, now: None)
    return made


@pytest.fixture
def plan(tmp_path):
    """A coordinator's campaign file."""
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    return path


@contextlib.contextmanager
def app(home, name):
    """The server's app of a run is at work while the block runs."""
    with verdict.running(runs.out(home, name)):
        yield


def begun(home, plan, flower, now=T):
    """A run that was given to Flower by a runner; both."""
    run = runs.submit(home, plan, now=now)
    made = Runner(home, now)
    made.tick(now)
    return runs.read(home, run.name), made


def test_a_run_keeps_its_own_copy_of_the_campaign(home, plan):
    """With absolute paths, its name made fit for a folder, and readable as a plan again."""
    run = runs.submit(home, plan, options={"methods": "t-imm", "seeds": "", "target-cases": 0}, now=T)
    assert (run.name, run.state, run.options) == ("first-try", "queued", {"methods": "t-imm"})
    table = tomllib.loads((home.runs / "first-try/campaign.toml").read_text())
    assert table["net"]["weights"] == str(plan.parent / "start.safetensors")
    assert runs.sites_of(home, "first-try") == ("north", "harbour")
    assert runs.resolved(home.runs / "first-try/campaign.toml") == (home.runs / "first-try/campaign.toml").read_text()
    assert runs.names(home) == ["first-try"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (('name = "north"', 'name = "nord"'), "site 'nord' is not on the roster; its sites are: north, harbour"),
        (
            ('role = "source"', 'role = "target"\n[[site]]\nname = "more"\nrole = "source"'),
            "north takes part as source, not as target",
        ),
        (('role = "source"', 'role = "source"\n[site.data]\nfolder = "x"'), "belongs into that hospital's own site"),
        (("depth = 2", "depth = 0"), "depth"),
    ],
)
def test_what_cannot_run_is_refused_before_anybody_waits(home, plan, change, told):
    """With a sentence, and without a trace."""
    plan.write_text(PLAN.replace(*change, 1))
    with pytest.raises(ConfigError, match=told):
        runs.submit(home, plan)
    assert list(home.runs.iterdir()) == []


def test_a_queued_run_is_given_to_flower_once(home, plan, flower):
    """With the run config of its options, resuming; and not again while it runs."""
    runs.submit(home, plan, options={"methods": "t-imm", "chains": "0,1"}, now=T)
    made = Runner(home, T)
    for now in (T, T + 1.0, T + 2.0):
        made.tick(now)
    run = runs.read(home, "first-try")
    assert (run.state, run.attempts, run.flower_run, run.submitted) == ("running", 1, "100", T)
    (order,) = [words for words in flower.orders if words[0] == "run"]
    config = tomllib.loads((home.runs / "first-try/run-config.toml").read_text())
    assert order[2:] == ("--run-config", str(home.runs / "first-try/run-config.toml"))
    assert config == {
        "campaign": str(home.runs / "first-try/campaign.toml"), "out": str(home.runs / "first-try/out"),
        "resume": True, "methods": "t-imm", "chains": "0,1", "workers": runner.AT_ONCE,
    }  # fmt: skip


def test_a_run_that_says_done_is_done(home, plan, flower):
    """And nothing more is asked of Flower."""
    run, made = begun(home, plan, flower)
    with app(home, run.name):
        made.tick(T + 10)
    verdict.tell(runs.out(home, run.name), verdict.DONE)
    made.tick(T + 11)
    before = len(flower.orders)
    made.tick(T + 12)
    run = runs.read(home, run.name)
    assert (run.state, run.since, run.words) == ("done", T + 11, "")
    assert len(flower.orders) == before


def test_a_sentence_of_ours_ends_a_run(home, plan, flower):
    """Stopped, with the sentence; the same name goes on with it, another campaign may not have it."""
    run, made = begun(home, plan, flower)
    verdict.tell(runs.out(home, run.name), verdict.of(DataError("north: no cases")))
    made.tick(T + 11)
    assert (runs.read(home, run.name).state, runs.read(home, run.name).words) == ("stopped", "north: no cases")
    other = plan.with_name("other.toml")
    other.write_text(PLAN.replace("depth = 2", "depth = 3"))
    with pytest.raises(ConfigError, match="is another campaign"):
        runs.submit(home, other, run.name)
    again = runs.submit(home, None, run.name, now=T + 20)
    assert (again.state, again.words, verdict.words(runs.out(home, run.name))) == ("queued", "", "")
    with pytest.raises(ConfigError, match="is queued; fedmerge status shows it"):
        runs.submit(home, plan, now=T + 21)


def test_a_run_whose_app_vanished_is_given_again_at_once_then_with_pauses(home, plan, flower):
    """Flower's own run is stopped, which still waits for the app's heartbeat; a long attempt begins the count anew."""
    run, made = begun(home, plan, flower)
    now, pauses = T, []
    for attempt in range(1, 9):
        flower.states[run.flower_run] = "running"
        with app(home, run.name):
            made.tick(now + 1)
        made.tick(now + 2)
        run = runs.read(home, run.name)
        assert (run.state, run.words) == ("queued", f"attempt {attempt} ended without a word")
        assert ("stop", run.flower_run) in flower.orders
        pauses.append(max(run.next_try - (now + 2), 0.0))
        made.tick(now + 2 + pauses[-1] - 0.5)
        assert pauses[-1] == 0 or runs.read(home, run.name).state == "queued"
        now += 2 + pauses[-1]
        made.tick(now)
        run = runs.read(home, run.name)
        assert run.attempts == attempt + 1
    assert pauses == [0, 4, 8, 16, 32, 60, 60, 60]
    with app(home, run.name):
        made.tick(now + 1)
    made.tick(now + runner.SOON_S + 1)
    assert runs.read(home, run.name).next_try == now + runner.SOON_S + 1


def test_a_run_that_waits_for_its_app_is_left_alone(home, plan, flower):
    """The superexec may be down: Flower says pending, and is asked every 15 seconds only."""
    run, made = begun(home, plan, flower)
    for now in range(int(T) + 1, int(T) + 100):
        made.tick(now)
    assert runs.read(home, run.name) == run
    assert sum(words[0] == "ls" and "--run-id" in words for words in flower.orders) == 99 // 15
    flower.states[run.flower_run] = "finished:failed"
    flower.details = "ServerApp failed with exception: No module named 'torch'"
    made.tick(T + 116)
    assert runs.read(home, run.name).words == f"attempt 1 ended without a word; Flower says: {flower.details}"
    made.tick(T + 117)
    assert runs.read(home, run.name).attempts == 2


def test_after_the_server_was_restarted_a_run_goes_on(home, plan, flower):
    """Its app went with the earlier server, though Flower thinks that it runs; a SuperLink may be down for a while."""
    run, _ = begun(home, plan, flower)
    flower.states[run.flower_run] = "running"
    flower.down = True
    fresh = Runner(home, began=T + 1000)
    fresh.tick(T + 1000)
    assert runs.read(home, run.name).state == "running"
    flower.down = False
    fresh.tick(T + 1010)
    fresh.tick(T + 1011)
    run = runs.read(home, run.name)
    assert (run.state, run.attempts, flower.states["100"]) == ("running", 2, "finished:stopped")


def test_errors_that_nobody_foresaw_end_a_run_at_the_third_time(home, plan, flower):
    """Circumstances that pass, as a full disk, leave no word and never do."""
    run, made = begun(home, plan, flower)
    now = T
    for strike in range(1, runner.STRIKES):
        verdict.tell(runs.out(home, run.name), verdict.of(KeyError("a mistake")))
        made.tick(now + 1)
        assert (runs.read(home, run.name).state, runs.read(home, run.name).unexpected) == ("queued", strike)
        now = runs.read(home, run.name).next_try
        made.tick(now)
    verdict.tell(runs.out(home, run.name), verdict.of(KeyError("a mistake")))
    made.tick(now + 1)
    assert (runs.read(home, run.name).state, runs.read(home, run.name).words) == ("stopped", verdict.UNEXPECTED)
    assert verdict.of(OSError(28, "No space left on device")) == ""
    assert verdict.of(CampaignStopped("north did not answer")) == "north did not answer"


def test_a_record_that_finds_no_room_on_the_disk_is_tried_again_later(home, plan, flower, monkeypatch):
    """Flower, which has its own disk, is not asked every second about a run whose fate cannot be written down."""
    run, _ = begun(home, plan, flower)
    flower.states[run.flower_run] = "finished:failed"
    fresh = Runner(home, began=T + 1000)
    with monkeypatch.context() as full:
        full.setattr(runs, "keep", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        fresh.tick(T + 1000)
        asked = len(flower.orders)
        fresh.tick(T + 1001)
        fresh.tick(T + 1000 + runner.ASK_S - 1)
    assert len(flower.orders) == asked
    fresh.tick(T + 1000 + runner.ASK_S)
    assert runs.read(home, run.name).state == "queued"


def test_a_run_of_flowers_that_no_record_knows_is_stopped(home, plan, flower):
    """The runner was killed between the order and its record: before anything else is given, the stray run ends."""
    flower.states = {"7": "running", "8": "finished:completed"}
    runs.submit(home, plan)
    Runner(home, T).tick(T)
    assert next(words for words in flower.orders if words[0] in ("stop", "run")) == ("stop", "7")
    assert flower.orders[-1][0] == "run"


def test_two_runs_go_on_side_by_side(home, plan, flower):
    """Each with its own run of Flower's; stopping one leaves the other."""
    for name in ("one", "two"):
        runs.submit(home, plan, name, now=T)
    made = Runner(home, T)
    made.tick(T)
    assert {runs.read(home, name).flower_run for name in ("one", "two")} == {"100", "101"}
    with app(home, "one"):
        assert runs.stop(home, "one", T + 1).state == "stopping"
        made.tick(T + 2)
        assert runs.read(home, "one").state == "stopping"
    made.tick(T + 3)
    assert (runs.read(home, "one").state, runs.read(home, "one").words) == ("stopped", runs.BY_HAND)
    assert runs.read(home, "two").state == "running"
    assert flower.states == {"100": "finished:stopped", "101": "pending"}
    with pytest.raises(ConfigError, match="is over: stopped by hand"):
        runs.stop(home, "one")


def test_a_queued_run_is_stopped_without_a_server(home, plan):
    """Nothing has begun, so nobody has to end anything."""
    runs.submit(home, plan, "idle")
    assert runs.stop(home, "idle").state == "stopped"


def test_an_app_that_does_not_end_when_flower_stops_it_is_asked_itself(home, plan, flower):
    """After two minutes, by SIGTERM to the process that holds the run."""
    run, made = begun(home, plan, flower)
    out = runs.out(home, run.name)
    code = f"from server import verdict; from pathlib import Path; import time\nwith verdict.running(Path({str(out)!r})): time.sleep(60)"  # noqa: E501
    stubborn = subprocess.Popen([sys.executable, "-c", code])
    try:
        end = time.monotonic() + 10
        while not verdict.is_running(out) and time.monotonic() < end:
            time.sleep(0.05)
        runs.stop(home, run.name, T + 10)
        made.tick(T + 11)
        made.tick(T + 20)
        assert stubborn.poll() is None
        made.tick(T + 10 + runner.SOON_S + 1)
        assert stubborn.wait(10) == -15
        made.tick(T + 10 + runner.SOON_S + 2)
    finally:
        stubborn.kill()
        stubborn.wait()
    assert runs.read(home, run.name).state == "stopped"


def test_only_one_app_works_on_a_run(home, plan):
    """The second is told so and leaves no words; who only asks is in nobody's way."""
    runs.submit(home, plan)
    out = runs.out(home, "first-try")
    assert not verdict.is_running(out)
    with verdict.running(out):
        assert verdict.is_running(out)
        assert (out / "server/lock").read_text() == str(os.getpid())
        with pytest.raises(CampaignStopped, match="another server's app is at work"), verdict.running(out):
            pass
    assert not verdict.is_running(out)
    assert verdict.words(out) == ""


def test_extending_uses_the_store_of_an_earlier_run(home, plan, flower):
    """Which must have begun."""
    with pytest.raises(ConfigError, match="--extend expected a run that has begun, got 'zero'"):
        runs.submit(home, plan, "later", extend="zero")
    runs.submit(home, plan, "zero")
    (runs.out(home, "zero") / "server").mkdir(parents=True)
    assert runs.submit(home, plan, "later", extend="zero").options == {"reuse": str(runs.out(home, "zero"))}


@pytest.mark.parametrize("name", ["../x", "", ".hidden", "a/b", "x" * 65])
def test_a_runs_name_stays_in_its_folder(home, name):
    """No path gets out of runs/."""
    with pytest.raises(ConfigError, match="a run's name is"):
        runs.folder(home, name)


def test_the_runner_needs_no_torch():
    """It is one of four programs on the server, and the only work it does is to look."""
    code = "import sys, server.runner; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"
