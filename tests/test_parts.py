"""Large payloads in parts: the shelf where they grow, both ways between server and site, and going on after a break."""

import hashlib
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.app import Error, Message
from flwr.clientapp import ClientApp
from small import campaign
from test_campaign import bare, run

from fedmerge import parts, transport
from fedmerge.errors import CampaignStopped, Refused
from fedmerge.parts import Shelf
from server import parts as ways
from server.asks import Ask
from server.parts import Way
from sites import config
from sites import parts as files
from sites.app import app as client_app
from sites.inbound import Declined

DATA = bytes(range(256)) * 40
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def north(small, tmp_path):
    """A source's site."""
    return config.from_campaign(campaign(small), "north", work=tmp_path / "work")


def test_a_file_grows_by_parts_and_is_there_when_its_digest_is_right(tmp_path):
    """Parts in order make the file, whatever their sizes; before the last one there is no file of that name."""
    shelf = Shelf(tmp_path / "shelf")
    offset = 0
    for size in (1, 4000, 17, 5000, 10_000):
        assert shelf.whole(SHA) is None
        offset = shelf.add(SHA, len(DATA), offset, DATA[offset : offset + size])
        assert offset == shelf.there(SHA)
    assert shelf.whole(SHA).read_bytes() == DATA


def test_a_part_that_does_not_follow_is_passed_over(tmp_path):
    """A part that came twice, or too early, changes nothing; the count says where to go on."""
    shelf = Shelf(tmp_path)
    assert shelf.add(SHA, len(DATA), 0, DATA[:100]) == 100
    assert shelf.add(SHA, len(DATA), 0, DATA[:100]) == 100
    assert shelf.add(SHA, len(DATA), 500, DATA[500:]) == 100
    assert shelf.add(SHA, len(DATA), 100, DATA[100:]) == len(DATA)
    assert shelf.add(SHA, len(DATA), 0, DATA[:100]) == len(DATA)
    assert [path.name for path in tmp_path.iterdir()] == [SHA]


@pytest.mark.parametrize("last", [DATA[100:-1] + b"\0", DATA[100:] + b"\0"])
def test_bytes_that_are_not_what_the_digest_names_are_thrown_away(tmp_path, last):
    """Other bytes, or more of them, leave nothing behind: the next part is the first one again."""
    shelf = Shelf(tmp_path)
    shelf.add(SHA, len(DATA), 0, DATA[:100])
    with pytest.raises(Refused, match=f"expected {len(DATA)} bytes of SHA-256 {SHA[:12]}, got"):
        shelf.add(SHA, len(DATA), 100, last)
    assert shelf.there(SHA) == 0
    assert not list(tmp_path.iterdir())


def test_two_who_bring_the_same_file_at_once_make_one(tmp_path):
    """Eight threads that send the parts of one file in their own order end with the file, unharmed."""
    shelf = Shelf(tmp_path)

    def bring():
        while (there := shelf.there(SHA)) < len(DATA):
            shelf.add(SHA, len(DATA), there, DATA[there : there + 700])

    threads = [threading.Thread(target=bring) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shelf.whole(SHA).read_bytes() == DATA


def test_what_travels_whole_is_bounded_together():
    """Small payloads go first and whole; what does not fit any more goes in parts."""
    payload = {"a": b"x" * 60, "b": b"y" * 10, "c": b"z" * 50}
    small, large = ways.divide(payload, 64)
    assert (list(small), list(large)) == (["b", "c"], ["a"])
    assert ways.divide(payload, 120) == (payload, {})


@pytest.mark.parametrize("table", [[], {"a": 1}, {"a": ["0" * 63, 5]}, {"a": ["0" * 64, 0]}, {"a": ["0" * 64, True]},
                                   {str(i): ["0" * 64, 1] for i in range(17)}])  # fmt: skip
def test_a_list_of_parts_of_another_form_is_refused(table):
    """Whatever the other side writes there, it is one sentence that names it."""
    with pytest.raises(Refused, match="south: the list of parts expected"):
        parts.manifest(table, "south")


def flow_with(answers, tmp_path, payload=None, most=10**6):
    """Run an ask against `answers(send) -> Letter`; gives the answer and the messages."""
    flow = ways.ask(Ask("north", "train.contribute", {}, payload or {}, most=most), Way(tmp_path, "small", 1000, 5.0))
    out = next(flow)
    sends = list(out)
    while True:
        send = out.pop(0)
        try:
            more = flow.send((send, answers(send)))
        except StopIteration as end:
            return end.value, sends
        out += more
        sends += more


def test_a_payload_that_is_too_large_is_refused_before_a_part_of_it_is_fetched(tmp_path):
    """The list says how large it is; nothing more is asked."""
    asked = []

    def answers(send):
        asked.append(send.kind)
        return transport.Letter({}, note={"parts": {"contribution": [SHA, 1001]}})

    with pytest.raises(Refused, match="north: a contribution expected at most 1000 bytes, got 1001"):
        flow_with(answers, tmp_path, most=1000)
    assert asked == ["train.contribute"]


def test_a_site_that_sends_parts_of_another_length_or_content_is_refused(tmp_path):
    """An empty part, a longer one, or three times the wrong bytes end the ask with a sentence; nothing stays."""
    for data, words in ((b"", "expected 1000 bytes, got 0"), (b"x" * 1001, "got 1001"), (b"x" * 1000, "got others")):

        def answers(send, data=data):
            if send.kind == "query.part":
                return transport.Letter({}, {"part": data})
            return transport.Letter({}, note={"parts": {"contribution": [SHA, 2000]}})

        with pytest.raises(Refused, match=f"north: .*contribution.*{words}"):
            flow_with(answers, tmp_path)
        assert not list(tmp_path.rglob("*.part"))


class Far:
    """A site in a few lines: takes files in, gives one out, and counts how many messages are under way."""

    def __init__(self, tmp_path, gives=b"", lose=()):
        self.shelf, self.gives, self.lose = Shelf(tmp_path / "far"), gives, set(lose)
        self.most, self.seen = 0, []

    def __call__(self, send):
        """What it answers."""
        self.seen.append((send.kind, send.task.get("offset")))
        if send.kind == "query.have":
            return transport.Letter({"there": {sha: self.shelf.there(sha) for sha in send.task["blobs"]}})
        if send.kind == "query.put":
            data = send.payload["part"]
            if send.task["offset"] in self.lose:
                self.lose.remove(send.task["offset"])
                return transport.Letter({"there": self.shelf.there(SHA)})
            return transport.Letter({"there": self.shelf.add(SHA, len(DATA), send.task["offset"], data)})
        if send.kind == "query.part":
            offset = send.task["offset"]
            return transport.Letter({}, {"part": self.gives[offset : offset + send.task["length"]]})
        listed = {"model": [parts.digest(self.gives), len(self.gives)]} if self.gives else {}
        return transport.Letter({"good": True}, note={"parts": listed})


def drive(flow, answers, choose):
    """Run an ask whose messages are answered in the order that `choose(out)` gives; the most that were out."""
    out, most = next(flow), 0
    while True:
        most = max(most, len(out))
        send = out.pop(choose(out))
        try:
            out = out + flow.send((send, answers(send)))
        except StopIteration as end:
            assert out == []
            return end.value, most


@pytest.mark.parametrize("choose", [lambda out: 0, lambda out: -1], ids=["in order", "the last one first"])
def test_two_parts_are_under_way_at_a_time_and_may_come_in_any_order(tmp_path, choose):
    """The file is whole whatever comes first; the next part waits at the node while one travels."""
    far = Far(tmp_path, gives=DATA)
    asked = Ask("north", "train.finetune", {}, most=10**6)
    answer, most = drive(ways.ask(asked, Way(tmp_path / "here", "small", 1000, 5.0)), far, choose)
    assert answer.need("model", "north") == DATA
    assert most == ways.AHEAD == 2
    assert sorted(offset for kind, offset in far.seen if kind == "query.part") == list(range(0, len(DATA), 1000))


@pytest.mark.parametrize("lose", [(), (0,), (3000,), (len(DATA) // 1000 * 1000,), (2000, 7000)])
def test_a_part_that_a_site_passed_over_is_sent_again(tmp_path, lose):
    """The site says how far the file has come, and that is where it goes on."""
    far = Far(tmp_path, lose=lose)
    asked = Ask("north", "train.contribute", {}, {"start": DATA})
    answer, most = drive(ways.ask(asked, Way(tmp_path / "here", "small", 1000, 5.0)), far, lambda out: 0)
    assert answer.task == {"good": True}
    assert far.shelf.whole(SHA).read_bytes() == DATA
    assert most == 2
    assert far.seen[-1] == ("train.contribute", None)


def test_what_a_site_has_does_not_travel_again(tmp_path):
    """A file that is there is not sent at all; of one that is half there, the other half."""
    far = Far(tmp_path)
    far.shelf.add(SHA, len(DATA), 0, DATA[:5000])
    for expected in ([5000, 6000, 7000, 8000, 9000, 10_000], []):
        far.seen.clear()
        asked = Ask("north", "train.contribute", {}, {"start": DATA})
        drive(ways.ask(asked, Way(tmp_path / "here", "small", 1000, 5.0)), far, lambda out: 0)
        assert [offset for kind, offset in far.seen if kind == "query.put"] == expected


def test_a_site_that_forgets_each_time_is_not_asked_for_ever(tmp_path):
    """An ask that begins again from the top does so a bounded number of times."""
    with pytest.raises(CampaignStopped, match=r"north lost train\.contribute 100 times"):
        flow_with(lambda send: transport.Letter({}, note={"unknown": "parts"}), tmp_path)


def test_a_site_takes_parts_in_and_gives_them_out(north):
    """What the server puts is found under its digest; what is offered is given part by part, and then it is gone."""
    assert files.have(north, {"blobs": {SHA: len(DATA)}}) == {"there": {SHA: 0}}
    assert files.find(north, {"start": (SHA, len(DATA))}) is None
    for offset in range(0, len(DATA), 999):
        task = {"sha256": SHA, "size": len(DATA), "offset": offset}
        told = files.put(north, task, DATA[offset : offset + 999])
    assert told == {"there": len(DATA)}
    (path,) = files.find(north, {"start": (SHA, len(DATA))}).values()
    assert files.offer(north, path) == (SHA, len(DATA))
    got = b"".join(files.part(north, {"sha256": SHA, "offset": i, "length": 999}) for i in range(0, len(DATA), 999))
    assert got == DATA
    assert files.part(north, {"sha256": SHA, "offset": 0, "length": 999}) is None
    assert not list((north.work / "outgoing").iterdir())


def test_what_was_offered_under_another_policy_is_offered_no_more(north):
    """A policy that was tightened between two parts keeps the rest at home."""
    files.offer(north, DATA)
    task = {"sha256": SHA, "offset": 0, "length": 10}
    assert files.part(north, task) == DATA[:10]
    assert files.part(replace(north, policy=replace(north.policy, weights=False)), task) is None


@pytest.mark.parametrize("task", [{}, {"sha256": "../x"}, {"sha256": SHA, "size": 2**60, "offset": 0},
                                  {"sha256": SHA, "size": 5, "offset": "0"}])  # fmt: skip
def test_a_site_declines_parts_of_another_form(north, task):
    """A digest that is none, a size beyond all bounds, an offset that is no number."""
    with pytest.raises(Declined, match=r"north: a (part|file) expected"):
        files.put(north, task, b"x")


def test_a_campaign_in_small_parts_has_the_numbers_of_one_in_large_ones(small, tmp_path, monkeypatch):
    """Contributions, ancestors, merged weights and models in parts of 5000 bytes: the same rows, and nothing left."""
    far = campaign(small, name="far.toml", head='fit = "far"')
    for path, methods in ((campaign(small), "none,t-imm"), (far, "t-imm,mean")):
        monkeypatch.setattr(parts, "PART_BYTES", 64 * 2**20)
        whole = run(path, tmp_path / path.stem / "whole", methods)
        monkeypatch.setattr(parts, "PART_BYTES", 5000)
        out = tmp_path / path.stem / "parts"
        assert bare(run(path, out, methods)) == bare(whole)
        left = [p for shelf in ("incoming", "outgoing") for p in out.rglob(f"{shelf}/*") if p.is_file()]
        assert left == []
        contributions = [sum(1 for _ in (o / "server/contributions").iterdir()) for o in (out, out.parent / "whole")]
        assert contributions == [2, 2]


def test_a_transfer_that_broke_goes_on_where_it_stopped(small, tmp_path, monkeypatch):
    """The server dies in the middle of a contribution: the next one asks for the rest, and nothing is trained again."""
    monkeypatch.setattr(parts, "PART_BYTES", 5000)
    asked = []

    def answer(message, context):
        kind = message.metadata.message_type
        if kind == "query.part":
            asked.append((transport.addressee(message.content), task_of(message)["offset"]))
            if len(asked) == 4:
                return Message(Error(code=2, reason="the link is down"), reply_to=message)
        return client_app(message, context)

    with pytest.raises(CampaignStopped, match=r"north failed in train\.contribute: the link is down"):
        run(campaign(small), tmp_path, "mean", answer)
    trained = file_times(tmp_path / "sites/north/contributions")
    assert asked[:4] == [("north", 0), ("north", 5000), ("north", 10_000), ("north", 15_000)]
    asked.clear()
    asked += [("north", None)] * 4  # past the break
    run(campaign(small), tmp_path, "mean", answer)
    assert [offset for site, offset in asked[4:] if site == "north"] == [15_000, 20_000]
    assert file_times(tmp_path / "sites/north/contributions") == trained


def task_of(message) -> dict:
    """The task of a message."""
    return json.loads(str(message.content.config_records["task"]["json"]))


def file_times(folder: Path) -> dict[str, int]:
    """When each file of a folder was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_the_sites_app_knows_every_kind_of_message():
    """What the protocol lists is what the ClientApp answers: nothing more, nothing less."""
    assert isinstance(client_app, ClientApp)
    for kind in transport.KINDS:
        category, action = kind.split(".")
        with pytest.raises(ValueError, match=action):
            getattr(client_app, category)(action)(lambda message, context: message)
