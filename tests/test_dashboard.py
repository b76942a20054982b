"""What a dashboard says of the files of a run: half-written, begun anew, over, thousands of lines long, and hostile."""

import json
import threading
import time

import dashboards
import made_run

from fedmerge.dashboard import curves, messages, telling
from fedmerge.dashboard.board import EVERY_S, MOST_MESSAGES, Board
from fedmerge.dashboard.files import Lines, Table
from fedmerge.dashboard.messages import Message
from fedmerge.records import Record
from server import presence, verdict
from server.progress import Progress
from sites import curves as site_curves
from sites import doing
from sites.progress import report

ODD = "<img src=x onerror=alert(1)>&\"'"


class Here:
    """A site, as far as its curves go."""

    def __init__(self, work, name="north"):
        self.work, self.name = work, name


def begun(out, now, sites=("north", "harbour"), asked=None, told=None, **facts):
    """`progress.json` as the server's app writes it."""
    progress = Progress(
        out / "server/progress.json", lambda: now,
        facts={"campaign": "small", "trust": "server", "measure": "Dice", "rows": 4,
               "roles": dict.fromkeys(sites[:-1], "source") | {sites[-1]: "target"}, **facts},
    )  # fmt: skip
    for site, said in (told or {}).items():
        progress.tell(site, said)
    there = presence.Presence(None, True)
    there.troubled("south", "its node is not connected", now - 400)
    traffic = [{"from": "server", "to": sites[0], "what": "contribution", "bytes": 1500, "messages": 2}]
    under = [{"site": s, "what": "contribution", "about": "", "begin": now - 60, "down": 9} for s in asked or {}]
    progress.write(sites, there, asked or {}, traffic, at_last=True, under=lambda: under)


# files


def test_a_table_that_is_half_written_counts_as_it_was(tmp_path):
    """It is empty before it is there, and after it is gone."""
    path = tmp_path / "a.json"
    table = Table(path)
    assert table.now() == {}
    path.write_text('{"a": 1}')
    assert table.now() == {"a": 1}
    path.write_text('{"a": 2, "b"')
    assert table.now() == {"a": 1}
    path.write_text('{"a": 2}')
    assert table.now() == {"a": 2}
    path.unlink()
    assert table.now() == {}


def test_a_table_that_has_not_changed_is_not_read(tmp_path, monkeypatch):
    """A look at it is a look at its date."""
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}')
    table = Table(path)
    first = table.now()
    path.chmod(0o000)
    monkeypatch.setattr(type(path), "read_text", None)
    assert table.now() is first


def test_lines_come_once_and_whole(tmp_path):
    """A line that is being written waits for its end; a log that was begun anew is read from its beginning."""
    path = tmp_path / "log"
    lines = Lines(path)
    assert lines.more() == ([], True)
    path.write_text("one\ntw")
    assert lines.more() == (["one"], False)
    with path.open("a") as file:
        file.write("o\nthree\n")
    assert lines.more() == (["two", "three"], True)
    assert lines.more() == ([], True)
    path.write_text("new\n")
    assert lines.more() == (["new"], False)
    other = tmp_path / "other"
    other.write_text("another file of its name\n")
    other.replace(path)
    assert lines.more() == (["another file of its name"], False)


def test_of_a_long_log_the_end_is_read(tmp_path):
    """From the first whole line on; what a machine wrote when it stopped is no reason to stop."""
    path = tmp_path / "log"
    path.write_bytes(b"".join(b"line %05d\n" % i for i in range(20_000)) + b"\xff\xfe\n")
    found, _ = Lines(path, first=110).more()
    assert found == [*(f"line {i:05d}" for i in range(19_991, 20_000)), "\ufffd\ufffd"]


# messages


def test_messages_have_a_level_and_their_traceback():
    """Progress is told from words; colours and dates that there are not do no harm."""
    found = messages.read(
        [
            "of a message before",
            "2026-01-01 10:00:00,000 INFO north: trained 6 steps",
            "2026-01-01 10:00:01,000 INFO north: training 3/6",
            "2026-01-01 10:00:02,000 ERROR the campaign ended unexpectedly",
            "Traceback (most recent call last):",
            "\x1b[31mKeyError: 'x'\x1b[0m",
            "2026-02-31 10:00:03,000 WARNING south is not there",
        ],
        "server",
    )
    assert [message.level for message in found] == ["info", "info", "progress", "error", "warning"]
    assert found[3].text.splitlines()[-1] == "KeyError: 'x'"
    assert found[1].at == time.mktime((2026, 1, 1, 10, 0, 0, 0, 0, -1))
    assert found[4].at == 0.0
    assert {message.source for message in found} == {"server"}


def test_messages_of_several_programs_come_by_time():
    """Those of one stay in their order, also where a clock was set back."""
    a = [Message(10, "info", "a", "1"), Message(30, "info", "a", "2"), Message(0, "info", "a", "3")]
    b = [Message(20, "info", "b", "4")]
    assert [message.text for message in messages.in_order([a, b])] == ["1", "4", "2", "3"]


# curves


def test_curves_grow_and_the_last_record_of_a_step_counts(tmp_path):
    """As a site writes them; half a line waits, a line that is none is left out."""
    watched = curves.Curves(tmp_path, "*/curves/*.jsonl")
    site = Here(tmp_path / "north")
    assert watched.now() == {}
    for step, loss in ((10, 1.0), (20, 0.5), (20, 0.4)):
        site_curves.keep(site, "k", "training/small", Record(step, loss, 1e-3, None, 0.0))
    with (site.work / "curves/k.jsonl").open("a") as file:
        file.write("no record\n{}\nnull\n" + '{"step": 30, "lo')
    ((name, curve),) = watched.now().items()
    assert name == "curve/north/curves/k.jsonl"
    assert (curve["site"], curve["run"]) == ("north", "training/small")
    assert curve["points"] == {"loss": [[10, 1.0], [20, 0.4]], "lr": [[10, 1e-3], [20, 1e-3]], "validation": []}
    with (site.work / "curves/k.jsonl").open("a") as file:
        file.write(json.dumps({"x": 1})[1:] + "\n")
    site_curves.keep(site, "k", "training/small", Record(40, float("nan"), 1e-3, 0.7, 0.0))
    (curve,) = watched.now().values()
    assert [step for step, _ in curve["points"]["loss"]] == [10, 20]
    assert curve["points"]["validation"] == [[40, 0.7]]


def test_a_long_curve_keeps_its_peaks_in_few_points():
    """The highest and the lowest value of 100 000 steps are among them, and the last one."""
    points = [[step, 1.0] for step in range(100_000)]
    points[77_777][1], points[33_333][1], points[-1][1] = 9.0, -9.0, 2.0
    found = curves.thin(points)
    assert len(found) <= curves.MOST_POINTS + 1
    assert {9.0, -9.0} <= {value for _, value in found}
    assert found[-1] == [99_999, 2.0]
    assert found == sorted(found)


# what is told


def test_the_time_left_follows_the_pace_so_far():
    """100 of 400 steps since a minute ago: three minutes more, less what passed since; no guess at first."""
    progress = {"what": "training", "done": 150, "total": 450, "began": 1000.0, "from": 50}
    assert telling.bar(progress, 1060.0)["left_s"] == 180
    assert telling.bar(progress, 1002.0)["left_s"] is None
    assert telling.bar({**progress, "at": 1060.0}, 1070.0)["left_s"] == 170
    assert telling.bar({**progress, "total": 0}, 1060.0) is None


def test_for_whom_a_campaign_waits_is_a_sentence_of_bearable_length():
    """What each of a few does, the names of many; whoever is away is always told, with the reason."""

    def site(name, state="working", words="fine-tunes", done=5):
        return telling.card(
            name, "source", state, words, progress={"what": "x", "done": done, "total": 9, "left_s": 75}
        )

    away = site("south", "away", "is not there: its node is not connected")
    assert telling.waits([site("a", "idle")]) == ""
    assert telling.waits([site("a"), site("b", "idle"), away]) == (
        "Waits for a, which fine-tunes (x 5 of 9, about 1 min 15 s left); "
        "south, which is not there: its node is not connected."
    )
    assert telling.waits([*map(site, "abcd"), away]) == (
        "Waits for 4 sites at work: a, b, c, d; south, which is not there: its node is not connected."
    )


def test_the_timeline_is_drawn_anew_where_there_is_something_to_see():
    """An ask under way moves it by a pixel, and of a campaign of hours not once a second."""
    drawing, now = telling.Drawing(), 2_000_000.0
    line = made_run.line("north", "contribution", "chain 0", now - 36_000, now - 1000, 10, 20)
    under = [{"site": "south", "what": "contribution", "about": ODD, "begin": now - 900, "down": 5}]
    roles = {"north": "source", "south": "source"}
    first = drawing.now([line], under, now, roles)
    assert drawing.now([line], under, now + 2, roles) is first
    later = drawing.now([line], under, now + 60, roles)
    assert later["drawing"] != first["drawing"]
    assert 'class="open"' in first["drawing"]
    assert "not over yet" in first["drawing"]
    assert "<img" not in first["drawing"] + first["table"]
    assert drawing.now([], [], now, roles)["drawing"] == ""


def test_scores_so_far_are_means_over_the_rows_that_are_over():
    """Failed rows are counted; scores that a policy keeps at home are said to be."""

    def row(method, seed, stage, score, status="ok"):
        return {"method": method, "target": "harbour", "seed": seed, "chain": 0, "target_cases": 4, "stage": stage,
                "status": status, "score": score}  # fmt: skip

    html = telling.scores(
        [row("t-imm", 0, "start", 0.2), row("t-imm", 0, "fine-tuned", 0.6), row("t-imm", 1, "fine-tuned", 0.8),
         row(ODD, 0, "fine-tuned", None), row("none", 0, "fine-tuned", None, "failed")], "Dice", 9,
    )  # fmt: skip
    assert "<td>0.200</td><td>–</td><td>0.700</td><td>2</td>" in html
    assert "<td>withheld</td>" in html
    assert "1, 1 failed" in html
    assert "4 of 9 rows are over" in html
    assert "<img" not in html


# the board


class Watched:
    """Pieces and messages that a test sets."""

    def __init__(self):
        self.pieces, self.new, self.looks = {}, [], 0

    def look(self, now):
        """The pieces."""
        self.looks += 1
        return dict(self.pieces)

    def said(self):
        """The new messages."""
        new, self.new = self.new, []
        return new


def test_only_what_has_changed_is_sent():
    """To each page what is new for it; a piece that is gone is null; the disk is looked at twice a second at most."""
    now, watched = [1000.0], Watched()
    board = Board(watched, lambda: now[0])
    watched.pieces, watched.new = {"a": 1, "b": 1}, [Message(0, "info", "", "one")]
    first = board.since(0)
    assert (first["pieces"], [m["text"] for m in first["messages"]]) == ({"a": 1, "b": 1}, ["one"])
    for _ in range(5):
        board.since(0)
    assert watched.looks == 1
    now[0] += EVERY_S
    watched.pieces, watched.new = {"a": 2}, [Message(0, "info", "", "two")]
    second = board.since(first["version"])
    assert (second["pieces"], [m["text"] for m in second["messages"]]) == ({"a": 2, "b": None}, ["two"])
    now[0] += EVERY_S
    assert board.since(second["version"])["pieces"] == {}
    assert [m["text"] for m in board.since(0)["messages"]] == ["one", "two"]


def test_thousands_of_messages_are_bounded():
    """The last ones are kept, and how many there were is told."""
    watched = Watched()
    watched.new = [Message(0, "info", "", str(i)) for i in range(5000)]
    told = Board(watched).since(0)
    assert [m["text"] for m in told["messages"]] == [str(i) for i in range(5000 - MOST_MESSAGES, 5000)]
    assert told["said"] == 5000


# a run's folder


def test_a_run_is_seen_from_before_it_begins_to_its_end(tmp_path):
    """Waiting, running with a site at work and one away, interrupted, stopped with its sentence, done."""
    out = tmp_path / "run"
    with dashboards.serve(out) as there:

        def pieces():
            time.sleep(EVERY_S)
            return dashboards.state(there)["pieces"]

        assert pieces()["head"]["state"] == "waiting"
        now = time.time()
        with verdict.running(out):
            told = {"north": {"what": "training", "done": 40, "total": 200}}
            begun(out, now, ("north", "south", "harbour"), {"north": "train.contribute"}, told)
            found = pieces()
            assert found["head"]["state"] == "running"
            cards = {card["name"]: card for card in found["sites"]}
            assert [(c["role"], c["state"]) for c in cards.values()] == [
                ("source", "working"), ("source", "away"), ("target", "idle"),
            ]  # fmt: skip
            assert cards["north"]["progress"] | {"left_s": None} == told["north"] | {"left_s": None}
            assert cards["south"]["words"] == "is not there: its node is not connected"
            assert "north, which trains for the consortium (training 40 of 200)" in found["head"]["words"]
            assert "1 kB" in found["traffic"] or "2 kB" in found["traffic"]
        assert pieces()["head"]["state"] == "interrupted"
        assert "when it ended: trains for the consortium" in {c["words"] for c in pieces()["sites"]}
        verdict.tell(out, "north: no cases")
        assert pieces()["head"]["words"] == "It stopped: north: no cases"
        verdict.tell(out, verdict.DONE)
        assert pieces()["head"]["state"] == "done"


def test_results_alone_are_a_run_too(tmp_path):
    """A folder that an older version left, or that was copied without the server's part; its names are markup."""
    out = made_run.write(tmp_path / "run", cases=1, methods=("none", "t-imm"), odd=ODD)
    with dashboards.serve(out) as there:
        found = dashboards.state(there)["pieces"]
    assert found["head"]["state"] == "done"
    assert found["head"]["title"] == f"Campaign made{ODD}"
    assert "t-imm" in found["scores"]
    assert "contribution" in found["traffic"]
    assert "<svg" in found["timeline"]["drawing"]
    assert "<img" not in found["scores"] + found["traffic"] + found["timeline"]["drawing"]


def test_a_real_runs_folder_shows_nothing_of_a_hospital(tmp_path):
    """Below a server's home a folder `sites` is not looked at, whoever put it there."""
    out = tmp_path / "server/runs/first/out"
    site_curves.keep(Here(out / "sites/north"), "k", "training/small", Record(10, 1.0, 1e-3, None, 0.0))
    (out / "sites/north/site.log").write_text("2026-01-01 10:00:00,000 INFO case_7.nii.gz\n")
    with dashboards.serve(out) as there:
        told = dashboards.state(there)
        assert "curve/north/curves/k.jsonl" in told["pieces"]  # as of a simulation
    (tmp_path / "server/consortium.toml").touch()
    with dashboards.serve(out) as there:
        told = dashboards.state(there)
    assert not any(name.startswith("curve/") for name in told["pieces"])
    assert told["messages"] == []


# what a site is at


def test_a_site_says_at_home_what_it_is_at(tmp_path):
    """The task, its progress with its beginning, and nothing when it is over; another thread's is not its own."""
    wall = iter(range(1000, 2000))
    with doing.told(tmp_path, "train.contribute", "small", lambda: float(next(wall))):
        began = json.loads(doing.path(tmp_path).read_text())
        report("north", "training", 1, 9)
        report("north", "training", 5, 9)
        other = threading.Thread(target=report, args=("south", "training", 8, 9))
        other.start()
        other.join()
        found = json.loads(doing.path(tmp_path).read_text())
    assert (began["kind"], began["campaign"], began["progress"]) == ("train.contribute", "small", None)
    assert found["progress"] | {"began": 0} == {"what": "training", "done": 5, "total": 9, "began": 0, "from": 1,
                                                "at": found["progress"]["at"]}  # fmt: skip
    assert found["progress"]["began"] < found["progress"]["at"] < found["time"]
    assert json.loads(doing.path(tmp_path).read_text())["kind"] == ""


def test_a_disk_that_takes_nothing_stops_no_task(tmp_path):
    """What is told is lost, and the work goes on."""
    (tmp_path / "file").touch()
    with doing.told(tmp_path / "file/work", "train.contribute", "small"):
        report("north", "training", 1, 9)
    assert (tmp_path / "file").read_bytes() == b""
