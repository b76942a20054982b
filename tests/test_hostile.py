"""Hostile contributions through a whole campaign: refused with site and reason, nothing kept, and it goes on."""

import hashlib
import logging
import re

import hostile
import pytest
import torch
from flwr.app import Array, ArrayRecord, Error, Message
from small import campaign
from test_campaign import run

from fedmerge import params, transport, wire
from fedmerge.errors import Refused
from sites.app import app as client_app

METHODS = "mean,transfer"


@pytest.fixture(scope="module")
def honest(small, tmp_path_factory):
    """The folder and results of a run of two chains in which nobody is hostile."""
    out = tmp_path_factory.mktemp("honest")
    return out, run(campaign(small), out, METHODS, chains="0,1")


@pytest.fixture(scope="module")
def sent(honest):
    """(site, chain) -> the bytes of an honest contribution; chain 0 is the one of the first training."""
    out, results = honest
    found = {}
    for row in results["rows"]:
        for site, name in row["contributions"].items():
            found[site, row["chain"]] = name
    by_name = {_name(path): path.read_bytes() for path in (out / "server/contributions").iterdir()}
    return {place: by_name[name] for place, name in found.items()}


def _name(path):
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


@pytest.fixture(scope="module")
def earlier(honest, tmp_path_factory):
    """The folder of a run that holds north's contributions only: north need not train again."""
    folder = tmp_path_factory.mktemp("earlier")
    (folder / "server/contributions").mkdir(parents=True)
    for path in (honest[0] / "server/contributions").iterdir():
        if wire.read(path).site == "north":
            (folder / "server/contributions" / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def going_on(small):
    """The campaign that goes on without a source whose contribution is refused."""
    return campaign(small, name="without.toml", head='absent = "without"')


# What south sends in the place of its contribution, and what is said of it.
ATTACKS = {
    "truncated": (lambda data: data[:-3], "the header describes .* bytes, got"),
    "cut within the header": (lambda data: data[:50], "the header announces .* bytes, got"),
    "empty": (lambda data: b"", "expected a safetensors file, got 0 bytes"),
    "a pickle": (hostile.as_pickle, "the header expected at most .* bytes, got"),
    "npz": (hostile.as_npz, "the header expected at most .* bytes, got"),
    "a header that declares more bytes": (hostile.with_header(hostile.declares_more), "the header describes"),
    "a header of more bytes than a net needs": (
        lambda data: hostile.document(b" " * 80_000, b""), "the header expected at most .* bytes, got 80000",
    ),
    "a compressed bomb": (hostile.as_zip_bomb, "the header expected at most .* bytes, got"),
    "a compressed document": (hostile.as_deflated, "the header expected at most .* bytes, got"),
    "a wrong shape": (hostile.with_header(hostile.another_shape), r"weights\['.*'\] expected shape"),
    "a wrong dtype": (hostile.with_header(hostile.another_type), "expected shape|expected dtype F32, got F64"),
    "a wrong byte order": (hostile.big_endian, "expected (finite values|numbers up to|no negative)"),
    "NaN": (hostile.with_tensors("weights/", hostile.first(float("nan"))), "expected finite values"),
    "infinity": (hostile.with_tensors("weights/", hostile.first(float("inf"))), "expected finite values"),
    "a Fisher that is NaN": (hostile.with_tensors("fisher/", hostile.first(float("nan"))), "expected finite values"),
    "a negative Fisher": (hostile.with_tensors("fisher/", hostile.first(-1e-3)), "expected no negative value, got -0"),
    "a Fisher that is zero everywhere": (hostile.with_tensors("fisher/", torch.zeros_like), "whole Fisher is zero"),
    "a Fisher of 1e38": (
        hostile.with_tensors("fisher/", lambda value: torch.full_like(value, 1e38)), "expected numbers up to 1e.30",
    ),
    "a Fisher with another word": (hostile.with_facts(fisher_labels="observed"), "fisher_labels expected sampled or"),
    "another site's name": (hostile.with_facts(site="north"), "site expected 'south', got 'north'"),
    "another net": (hostile.with_facts(net={"name": "unet"}), r"net\.\w+ expected"),
    "other labels": (hostile.with_facts(labels=["ball"]), r"labels expected \['cube'\], got \['ball'\]"),
    "100 MB where less than one is expected": (lambda data: bytes(100_000_000), "expected at most .* bytes, got 1000"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_contribution_is_refused_and_the_campaign_goes_on_without(
    small, going_on, earlier, honest, tmp_path, attack
):
    """One hostile site of three: site and reason are in the results, nothing of it is on disk, north's row is made."""
    alter, sentence = ATTACKS[attack]
    asked = []
    results = run(going_on, tmp_path, METHODS, hostile.app("south", alter, asked), reuse=str(earlier))
    assert_left_out(results, tmp_path, sentence)
    assert asked == ["south", "south"]
    assert_north_alone(results, honest[1])


def assert_left_out(results, out, sentence):
    """South is named with its reason in the results, on the page and in the log; nothing that it sent is kept."""
    (left,) = results["left_out"]
    assert (left["site"], left["chain"]) == ("south", 0)
    assert re.match(f"(?s:.*)(?:{sentence})", left["reason"]), left["reason"]
    assert f"south was left out of chain 0: {left['reason']}" in (out / "results.md").read_text()
    assert left["reason"] in (out / "log.txt").read_text()
    assert not (out / "server/contributions").exists()
    assert list((out / "server/incoming").glob("*")) == []


def assert_north_alone(results, honest):
    """The transfer from north is that of an honest run, the mean is north's own body, south's transfer says why."""
    rows = {row["method"]: row for row in results["rows"] if row["stage"] == "fine-tuned"}
    expected = [r for r in honest["rows"] if (r["chain"], r["method"]) == (0, "transfer:north")]
    got = [r for r in results["rows"] if r["method"] == "transfer:north"]
    assert [r["dice"] for r in got] == [r["dice"] for r in expected]
    assert (rows["mean"]["status"], list(rows["mean"]["contributions"])) == ("ok", ["north"])
    assert rows["transfer:south"]["status"] == "failed"
    assert rows["transfer:south"]["error"].startswith("south was left out: ")


def test_a_stale_round_and_a_replay_are_refused(small, going_on, earlier, honest, sent, tmp_path):
    """A site's own contribution to another chain, and one of an earlier campaign, trained from the same ancestor."""
    results = run(
        going_on, tmp_path / "stale", METHODS, hostile.app("south", lambda _: sent["south", 1]), reuse=str(earlier)
    )
    assert_left_out(results, tmp_path / "stale", "ancestor expected sha256:.*, got sha256:")
    before = campaign(small, name="before.toml")
    before.write_text(before.read_text().replace("steps = 6", "steps = 5"))
    run(before, tmp_path / "before", "mean")
    replayed = next(
        path.read_bytes() for path in (tmp_path / "before/server/contributions").iterdir()
        if wire.read(path).site == "south"
    )  # fmt: skip
    results = run(going_on, tmp_path / "replay", METHODS, hostile.app("south", lambda _: replayed), reuse=str(earlier))
    assert_left_out(results, tmp_path / "replay", "parent expected .* trained from other weights")
    side = campaign(small, name="side.toml", head='absent = "without"\nschedule = "parallel"')
    both = side.read_text()
    side.write_text(both.replace("steps = 6", "steps = 5"))
    run(side, tmp_path / "side", "mean")
    replayed = next(
        path.read_bytes() for path in (tmp_path / "side/server/contributions").iterdir()
        if wire.read(path).site == "south"
    )  # fmt: skip
    side.write_text(both)
    results = run(side, tmp_path / "parallel", METHODS, hostile.app("south", lambda _: replayed))
    (left,) = results["left_out"]
    assert "settings expected" in left["reason"]
    assert "made for another task" in left["reason"]


def test_another_sites_contribution_is_refused(going_on, earlier, sent, tmp_path):
    """What north made does not count as south's, although all its numbers are in order."""
    app = hostile.app("south", lambda _: sent["north", 0])
    results = run(going_on, tmp_path, METHODS, app, reuse=str(earlier))
    assert_left_out(results, tmp_path, r"weights\['.*'\] expected shape|site expected 'south', got 'north'")


def test_pickled_and_numpy_payloads_are_refused(going_on, earlier, tmp_path):
    """Flower's own serialisation of arrays is not looked into."""

    def answer(message, context):
        reply = client_app(message, context)
        if (transport.addressee(message.content), message.metadata.message_type) == ("south", "train.contribute"):
            reply.content["payload"] = ArrayRecord({"contribution": Array(torch.ones(3).numpy())})
        return reply

    (left,) = run(going_on, tmp_path, METHODS, answer, reuse=str(earlier))["left_out"]
    assert left["site"] == "south"
    assert left["reason"].startswith("payload 'contribution' expected plain bytes, got numpy")


@pytest.mark.parametrize("kind", ["query.describe", "train.contribute"])
def test_a_source_that_fails_is_left_out_too(going_on, earlier, honest, tmp_path, kind):
    """Whether its site answers the roll call with an error or its training: the reason is the one that it sent."""

    def answer(message, context):
        if (transport.addressee(message.content), message.metadata.message_type) == ("south", kind):
            return Message(Error(code=2, reason="the log of south has the reason [0123abcd]"), reply_to=message)
        return client_app(message, context)

    results = run(going_on, tmp_path, METHODS, answer, reuse=str(earlier))
    (left,) = results["left_out"]
    assert left["reason"] == f"south failed in {kind}: the log of south has the reason [0123abcd]"
    assert left["chain"] == (None if kind == "query.describe" else 0)
    assert_north_alone(results, honest[1])


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"site": "north"}, "expected a description with this name, got 'north'"),
        ({"labels": [1]}, "Description.labels expected a list of printable texts"),
        ({"train": -1}, "Description.train expected a whole number of at least 0, got -1"),
    ],
)
def test_a_source_that_says_impossible_things_of_itself_is_left_out(
    going_on, earlier, honest, tmp_path, told, sentence
):
    """At the roll call, before anything is trained."""

    def answer(message, context):
        reply = client_app(message, context)
        if (transport.addressee(message.content), message.metadata.message_type) == ("south", "query.describe"):
            task, _ = transport.unpack(reply.content, "south")
            reply.content = transport.pack({**task, **told})
        return reply

    results = run(going_on, tmp_path, METHODS, answer, reuse=str(earlier))
    (left,) = results["left_out"]
    assert (left["site"], left["chain"]) == ("south", None)
    assert sentence in left["reason"]
    assert_north_alone(results, honest[1])


def test_a_target_that_sends_impossible_scores_loses_its_row_and_nobody_elses(going_on, earlier, tmp_path):
    """A Dice of seven: that row fails with its sender's name, the campaign ends with its results."""

    def answer(message, context):
        reply = client_app(message, context)
        if message.metadata.message_type == "train.finetune" and not reply.has_error():
            task, payload = transport.unpack(reply.content, "harbour")
            if "mean-seed0" in str(message.content.config_records["task"]["json"]):
                task["finetuned"][0]["dice"] = {"ball": 7.0}
            reply.content = transport.pack(task, payload)
        return reply

    results = run(going_on, tmp_path, METHODS, answer, reuse=str(earlier))
    rows = {row["method"]: row for row in results["rows"] if row["stage"] == "fine-tuned"}
    assert rows["mean"]["status"] == "failed"
    assert rows["mean"]["error"].startswith("harbour: Finetuned.finetuned expected cases with a score")
    assert (rows["transfer:north"]["status"], rows["transfer:south"]["status"]) == ("ok", "ok")


@pytest.mark.parametrize("absent", ["wait", "stop"])
def test_a_refusal_stops_a_campaign_that_does_not_go_on_without(small, earlier, tmp_path, absent, caplog):
    """It is asked for once more, then the campaign stops with site and reason; an honest answer goes on from there."""
    caplog.set_level(logging.INFO, "fedmerge")
    path = campaign(small, name=f"{absent}.toml", head=f'absent = "{absent}"')
    asked = []
    with pytest.raises(Refused, match="south: the header describes"):
        run(path, tmp_path, "mean", hostile.app("south", lambda data: data[:-3], asked), reuse=str(earlier))
    assert len(asked) == 2
    assert "asked once more" in caplog.text
    results = run(path, tmp_path, "mean", reuse=str(earlier))
    assert results["left_out"] == []
    assert {row["status"] for row in results["rows"]} == {"ok"}


def test_a_contribution_that_was_broken_on_its_way_comes_whole_the_second_time(going_on, earlier, honest, tmp_path):
    """One damaged answer costs nothing but the second sending."""
    broken = []

    def once(data):
        broken.append(data)
        return data if len(broken) > 1 else data[:-3]

    results = run(going_on, tmp_path, METHODS, hostile.app("south", once), reuse=str(earlier))
    assert results["left_out"] == []
    assert [r["dice"] for r in results["rows"]] == [r["dice"] for r in honest[1]["rows"] if r["chain"] == 0]


def test_a_campaign_that_has_lost_every_source_stops(small, tmp_path):
    """Without any contribution nothing is merged; the sentence has each source's reason."""

    def answer(message, context):
        return hostile.app(transport.addressee(message.content), lambda data: b"")(message, context)

    path = campaign(small, name="lost.toml", head='absent = "without"\nschedule = "parallel"')
    with pytest.raises(Exception, match=r"chain 0 has no source left: north: .* got 0 bytes; south: .* got 0 bytes"):
        run(path, tmp_path, "mean", answer)


def test_subnormal_numbers_are_set_to_zero(going_on, earlier, tmp_path):
    """They are accepted, and nobody calculates with them: what is merged has zeros in their place."""
    small_ones = hostile.with_tensors("weights/", lambda value: torch.full_like(value, 1e-40))
    results = run(going_on, tmp_path, "transfer:south,mean", hostile.app("south", small_ones), reuse=str(earlier))
    assert results["left_out"] == []
    (path,) = (tmp_path / "server/contributions").iterdir()
    assert not any(value.any() for value in wire.read(path).weights.values())
    (north,) = [p for p in (earlier / "server/contributions").iterdir() if _chain_of(p, results)]
    fused, info = wire.read_model(tmp_path / "models/harbour/mean-seed0-chain0-n2.fused.safetensors")
    body = params.split(wire.read(north).weights, fused)[0]
    assert all(torch.equal(value, body[name] / 2) for name, value in fused.items())
    assert info["contributions"] == list(results["rows"][-1]["contributions"].values())


def _chain_of(path, results):
    return _name(path) == results["rows"][-1]["contributions"]["north"]
