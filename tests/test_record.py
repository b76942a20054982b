"""The server's side of the audit log: what a campaign between real sites leaves in it, and the word on held weights."""

import contextlib
import json

import agents
import hostile
import pytest
from commandline import command
from made_consortium import Consortium
from made_plans import MEMBERS, trainings
from test_campaign import run

from fedmerge import whole, wire
from fedmerge.trust import audit, keys
from server import presence, runs


@pytest.fixture
def server(tmp_path):
    """A server's home with three sites on its roster."""
    made = Consortium(tmp_path / "server")
    entries = [made.entry(name, keys.new_node()) for name in ("north", "south", "harbour")]
    made.publish(*entries[:2], made.with_roles(entries[2], "target"))
    return made.home


def deployed(server, small, folder, methods="mean", app=None, head=""):
    """The results of a campaign between the agents of three homes, in a run of the server, and those homes."""
    path, data = agents.plan(small, folder / "plan", head=head)
    homes = agents.homes(folder / "homes", small, data)
    configs = [{"agent": str(home.socket)} for home in homes.values()]
    more = {"app": app} if app else {}
    with contextlib.ExitStack() as stack:
        for home in homes.values():
            stack.enter_context(agents.in_thread(home))
        out = server.runs / "first/out"
        return run(path, out, methods, node_configs=configs, names=tuple(homes), **more), homes


def lines(server):
    """The lines of the server's log, which all hold; without those of its rosters."""
    report = audit.verify(server.audit, keys.read_signing(server.audit_key).public_key())
    assert report.sound
    return [line for line in report.lines if not line.what.startswith("roster")]


def test_every_task_and_every_answer_is_a_line_that_the_other_side_witnessed(server, small, tmp_path, monkeypatch):
    """Digest, size and purpose of what was sent and came; no head of either side is missing from its own log."""
    monkeypatch.setenv("FEDMERGE_BUNDLE", agents.BUNDLE)
    results, homes = deployed(server, small, tmp_path)
    found = lines(server)
    assert {line.campaign for line in found} == {"small"}
    contributions = {line.peer: line.digest for line in found if (line.way, line.what) == ("in", "contribution")}
    assert contributions == results["rows"][-1]["contributions"]
    for site, home in homes.items():
        theirs = audit.read(home.audit)
        assert any(line.way == "out" and line.peer == site for line in found)
        assert audit.witnessed(server.audit, home.audit, audit.SERVER).missing == ()
        seen = audit.witnessed(home.audit, server.audit, site)
        assert (seen.missing, seen.heads > 0) == ((), True)
        left = {line.digest for line in theirs if (line.way, line.what) == ("out", "contribution")}
        assert left == ({contributions[site]} if site in contributions else set())


def test_a_refused_contribution_is_a_line_with_site_and_reason_and_so_is_its_leaving_out(
    server, small, tmp_path, monkeypatch
):
    """Refused twice, then left out: three lines; the campaign goes on with its other source."""
    monkeypatch.setenv("FEDMERGE_BUNDLE", agents.BUNDLE)
    app = hostile.app("south", lambda data: data[:-3])
    results, _ = deployed(server, small, tmp_path, app=app, head='absent = "without"')
    assert [one["site"] for one in results["left_out"]] == ["south"]
    told = [(line.way, line.what, line.peer) for line in lines(server) if line.way in ("refused", "note")]
    assert told == [("refused", "contribution", "south")] * 2 + [("note", "left out", "south")]
    reasons = {line.reason for line in lines(server) if line.way == "refused"}
    assert all(reason.startswith("south: the header describes") for reason in reasons)


def test_a_source_that_never_comes_is_left_out_with_its_reason_and_the_chain_begins_with_the_next(
    server, small, tmp_path, monkeypatch
):
    """North is not there at all: south starts from the ancestor, north's transfer fails, and the log has the note."""
    monkeypatch.setenv("FEDMERGE_BUNDLE", agents.BUNDLE)
    monkeypatch.setattr(presence, "NAMED_AFTER_S", 0.0)
    monkeypatch.setattr(presence, "LOOK_S", 0.0)
    path, data = agents.plan(small, tmp_path / "plan", head='absent = "without"\nwait_s = 0.05')
    homes = {site: home for site, home in agents.homes(tmp_path / "homes", small, data).items() if site != "north"}
    with contextlib.ExitStack() as stack:
        for home in homes.values():
            stack.enter_context(agents.in_thread(home))
        configs = [{"agent": str(home.socket)} for home in homes.values()]
        out = server.runs / "first/out"
        results = run(path, out, "mean,transfer", nodes=2, node_configs=configs, names=tuple(homes))
    (left,) = results["left_out"]
    assert (left["site"], left["chain"]) == ("north", None)
    assert "has not been there" in left["reason"]
    (south,) = (wire.read(path) for path in (out / "server/contributions").iterdir())
    assert (south.site, south.parent) == ("south", south.ancestor)
    failed = next(row for row in results["rows"] if row["method"] == "transfer:north")
    assert failed["error"] == f"north was left out: {left['reason']}"
    assert [(line.what, line.peer) for line in lines(server) if line.way == "note"] == [("left out", "north")]


def held(server, *sites):
    """A run of the server that has stopped because the weights of these sites are held."""
    path = server.folder / "plan.toml"
    path.write_text(PLAN)
    runs.submit(server, path, "first")
    runs.keep(server, runs.move(runs.read(server, "first"), "stopped", 0.0, words="held"))
    table = [
        {"site": site, "chain": 0, "name": f"sha256:{site}", "verdict": "held" if site in sites else "within"}
        for site in ("north", "south", "west")
    ]
    whole.write(runs.out(server, "first") / "server/changes.json", json.dumps(table).encode())


PLAN = trainings() + MEMBERS


def test_a_run_is_queued_again_when_the_last_word_on_held_weights_is_said(server, capsys):
    """Of two sites that are held the first word keeps it waiting; both words are notes in the log."""
    held(server, "north", "west")
    assert command("server", "release", "first", "north", "--server", server.folder) == 0
    assert "The run first waits for a word on west." in capsys.readouterr().out
    assert runs.read(server, "first").state == "stopped"
    assert command("server", "leave-out", "first", "west", "--server", server.folder) == 0
    assert "The run first is queued again." in capsys.readouterr().out
    assert runs.read(server, "first").state == "queued"
    assert [(line.way, line.what, line.peer, line.digest) for line in lines(server)] == [
        ("note", "weights released", "north", "sha256:north"),
        ("note", "left out", "west", ""),
    ]


def test_a_run_by_its_folder_is_resumed_by_hand(tmp_path, capsys, monkeypatch):
    """A simulation has no server that could queue it, and no log."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDMERGE_SERVER", raising=False)
    table = [{"site": site, "chain": 0, "name": site, "verdict": "held"} for site in ("north", "south")]
    whole.write(tmp_path / "out/server/changes.json", json.dumps(table).encode())
    assert command("server", "leave-out", "out", "north") == 0
    assert command("server", "release", "out", "south") == 0
    assert "Resume the run out." in capsys.readouterr().out
