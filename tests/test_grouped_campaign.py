"""Campaigns with `trust = "group"`: the numbers of the plain sum, a server with noise, and the same bytes again."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from made_groups import (
    SIX,
    TARGET,
    THREE,
    ancestor,
    close,
    consortium,
    contributions,
    model,
    on_the_way,
    plain,
    plan,
    received,
)
from small import campaign
from test_campaign import bare, run
from test_masking_noise import chi_square, correlation

from fedmerge import params, wire
from fedmerge.errors import CampaignStopped
from fedmerge.fusion import mixing
from fedmerge.privacy import fixed, message
from fedmerge.privacy.hello import UNIT
from server import withdrawal
from server.record import Witness
from sites import outbound

GROUPS = [list(SIX[:3]), list(SIX[3:])]
NAMES = ("group-1", "group-2")
METHODS, SMALL = "imm-mode,t-imm", "imm-mode,pooled"
COARSE = {"south": "none", "west": "channel"}  # how much of its Fisher a member lets go


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory):
    """The images of six sources and a target, with room for campaign files."""
    return consortium(tmp_path_factory.mktemp("hospitals"))


@pytest.fixture(scope="module")
def six(hospitals, tmp_path_factory):
    """Folder and results of a campaign of two groups."""
    out = tmp_path_factory.mktemp("six")
    return out, run(plan(hospitals, GROUPS), out, METHODS, nodes=7)


@pytest.fixture(scope="module")
def three(hospitals, tmp_path_factory):
    """Folder and results of a campaign of one group, two of whose members let little of their Fishers go."""
    out = tmp_path_factory.mktemp("three")
    return out, run(small(hospitals), out, SMALL, nodes=4)


def small(hospitals, name="three.toml", head=""):
    """The campaign file of one group."""
    path = plan(hospitals, [list(THREE)], name=name, head=head)
    text = path.read_text()
    for site, allowed in COARSE.items():
        mark = f'name = "{site}"\nrole = "source"\n'
        reuse = "never" if site == "south" else "campaign"
        text = text.replace(mark, f'{mark}policy = {{ fisher = "{allowed}", reuse = "{reuse}", {OPEN} }}\n')
    path.write_text(text)
    return path


OPEN = (
    'roles = ["*"], campaigns = ["*"], nets = ["*"], labels = ["*"], min_cases = 1, weights = true, '
    f'trust = ["group"], receivers = ["{TARGET}"], metrics = true, max_contributions = 1, max_bytes = 1_000_000'
)


def test_a_groups_model_is_the_plain_one(six):
    """Each group's weights are those of the members' own contributions, put together in the open and in binary64."""
    out, _ = six
    began, every = ancestor(out), contributions(out, SIX)
    for name, members in zip(NAMES, GROUPS):
        weights, precision = plain([every[site] for site in members], began)
        found = model(out, name)
        close(found.weights, weights, began)
        close(found.fisher, precision, began)
        assert (found.site, found.cases, found.parent) == (name, 15, params.digest(began))


def test_a_member_lets_no_more_of_its_fisher_into_a_sum_than_its_policy_says(three):
    """Means over output channels, or ones, as they would leave in the clear."""
    out, _ = three
    began, every = ancestor(out), contributions(out, THREE)
    for site, allowed in COARSE.items():
        every[site] = replace(every[site], fisher=outbound.coarse(allowed, every[site].fisher))
    weights, precision = plain(list(every.values()), began)
    close(model(out, "group-1").weights, weights, began)
    close(model(out, "group-1").fisher, precision, began)


def test_what_the_target_fuses_is_the_plain_fusion(six):
    """`imm-mode` over the groups' models is what the row has mixed, and what mixes in the open, to 1e-6."""
    out, _ = six
    began, every = ancestor(out), contributions(out, SIX)
    names = [name for name in began if ".norm." not in name]
    found = [model(out, name) for name in NAMES]
    fused = fuse([c.weights for c in found], [c.fisher for c in found], names)
    weights, precisions = zip(*(plain([every[site] for site in members], began) for members in GROUPS))
    close(fused, fuse(weights, precisions, names), names)
    rows = (json.loads(path.read_text()) for path in (out / "sites/harbour/rows").glob("*/fine-tuned.json"))
    assert params.digest(fused) in {row["fused"] for row in rows}


def fuse(models, fishers, names):
    """Equal ratios for whole models."""
    mix = mixing.prepare(models, fishers, names, grain="model")
    return mixing.fuse(mix, mixing.uniform(mix))


def test_the_rows_are_those_of_the_plain_sums(six, hospitals, tmp_path):
    """With the plain sums given to a trusted server as two sources' files, `imm-mode` and `t-imm` score the same."""
    out, results = six
    began, every = ancestor(out), contributions(out, SIX)
    tables = []
    for name, members in zip(NAMES, GROUPS):
        weights, precision = plain([every[site] for site in members], began)
        first = every[members[0]]
        given = replace(
            first,
            site=name,
            weights={**first.weights, **{key: value.float() for key, value in weights.items()}},
            fisher={key: value.float() for key, value in precision.items()},
        )
        wire.write(given, hospitals / f"{name}.safetensors")
        tables.append(f'[[site]]\nname = "{name}"\nrole = "source"\ncontribution = "{name}.safetensors"\n')
    text = campaign(hospitals, name="open.toml", head='schedule = "parallel"').read_text()
    start, harbour = text.partition("[[site]]")[0], "[[site]]" + text.rpartition("[[site]]")[2]
    (hospitals / "open.toml").write_text(start + "".join(tables) + harbour)
    plainly = run(hospitals / "open.toml", tmp_path, METHODS, nodes=1)
    for found, expected in zip(results["rows"], plainly["rows"], strict=True):
        assert (found["method"], found["stage"]) == (expected["method"], expected["stage"])
        assert found["dice"] == pytest.approx(expected["dice"], abs=1e-4)
        assert [v for _, v in found["curve"]] == pytest.approx([v for _, v in expected["curve"]], abs=1e-4)


def test_the_results_speak_of_groups(six):
    """Rows are made of groups; nobody's ratios, changes or forgetting are known here; all sites are named."""
    _, results = six
    last = [row for row in results["rows"] if row["stage"] == "fine-tuned"]
    assert [(row["method"], row["status"]) for row in last] == [("imm-mode", "ok"), ("t-imm", "ok")]
    assert all(tuple(row["contributions"]) == NAMES for row in last)
    assert results["ratios"] == results["changes"] == results["forgetting"] == results["left_out"] == []
    assert {site["name"] for site in results["sites"]} == {*SIX, TARGET}
    assert results["campaign"]["campaign"]["groups"] == GROUPS


def test_all_that_the_server_has_is_noise(six):
    """Messages and sums are uniform and do not know the members' numbers; no tensor of a member is in any file."""
    out, _ = six
    began, every = ancestor(out), contributions(out, SIX)
    clear = {
        site: np.concatenate(list(fixed.encode(
            {name: every[site].weights[name] for name in began}, every[site].fisher, began,
            weight=UNIT, members=3, who=site,
        )))
        for site in SIX
    }  # fmt: skip
    documents = sorted((out / "server/summed").glob("*/*.masked")) + sorted((out / "server/summed").glob("*/*.sum"))
    assert len(documents) == 8
    for path in documents:
        found = message.read(path)
        words, bare = np.array(found.words), sum(clear[site] for site in found.members)
        assert chi_square(words) < NOISE
        assert correlation(words, bare) < 8
        assert chi_square(bare) > NOISE
    files = [path.read_bytes() for path in (out / "server").rglob("*") if path.is_file()]
    for c in every.values():
        for value in (*c.weights.values(), *c.fisher.values()):
            if value.numel() >= 8 and (value != value.reshape(-1)[0]).any():
                assert not any(value.numpy().tobytes()[:32] in data for data in files)


NOISE = 255 + 8 * 23  # eight standard deviations of uniform bytes


def test_members_have_forgotten_the_keys_and_kept_the_ledger(six):
    """The private keys are gone from the members once all is over; each ledger has one line."""
    out, _ = six
    for site in SIX:
        home = out / "sites" / site / "masked"
        assert not [*home.glob("*.key"), *home.glob("*.masked")]
        (entry,) = json.loads((home / "masked.json").read_text())["entries"]
        assert entry["target"] == TARGET
        assert site in entry["members"]


def test_trainings_with_noise_are_summed_with_ones_for_fishers_chain_by_chain(hospitals, tmp_path):
    """No Fisher is left to weigh with; each chain has a sum of its own, and each source its line."""
    path = plan(hospitals, [list(THREE)], name="noise.toml")
    text = path.read_text().replace("fisher_cases = 3", "dp_noise = 1.0")
    path.write_text(text.replace("test = 2\n", 'test = 2\npatient = "(.*)"\n'))
    results = run(path, tmp_path, "imm-mode", nodes=4, chains="0,1")
    assert {row["status"] for row in results["rows"]} == {"ok"}
    assert [line["site"] for line in results["privacy"]] == list(THREE)
    groups = [wire.read(path) for path, facts in received(tmp_path).items() if facts.get("site") == "group-1"]
    assert len({c.ancestor for c in groups}) == 2
    for c in groups:
        assert c.fisher_labels == "flat"
        assert all((value == 3).all() for value in c.fisher.values())


def test_a_stopped_campaign_goes_on_with_the_same_bytes(hospitals, three, tmp_path):
    """One member fails once at its message; all that was there stays, also of one whose policy has it asked again."""
    armed = ["west"]

    def fail(kind, site, task, payload):
        if kind == "query.mask" and site in armed:
            armed.clear()
            return "the site's own log has the reason"
        return None

    path = small(hospitals, "stopped.toml", 'absent = "stop"')
    with pytest.raises(CampaignStopped, match=r"west failed in query\.mask"):
        run(path, tmp_path, "imm-mode", on_the_way(fail), nodes=4)
    before = {p: p.read_bytes() for p in (tmp_path / "server/summed").rglob("*") if p.is_file()}
    assert {p.name for p in before} >= {"north.hello", "west.hello", "harbour.hello", "north.masked", "south.masked"}
    found = run(path, tmp_path, SMALL, nodes=4)
    assert bare(found) == bare(three[1])
    assert all(p.read_bytes() == data for p, data in before.items())


def test_a_second_run_with_the_same_models_is_refused_by_the_sites(hospitals, three, tmp_path):
    """What the sites remember is enough, whatever the server forgets; the sentence says what to do."""
    out = tmp_path / "again"
    shutil.copytree(three[0], out)
    shutil.rmtree(out / "server")
    path = small(hospitals, "again.toml")
    with pytest.raises(
        CampaignStopped, match=r"query\.mask: .*: this model has entered group group-1 .* with another seed"
    ):
        run(path, out, "imm-mode", nodes=4)
    text = path.read_text().replace("max_contributions = 1", "max_contributions = 2")
    path.write_text(text.replace('name = "small"', 'name = "small"\nseed = 1'))
    assert {row["status"] for row in run(path, out, "imm-mode", nodes=4)["rows"]} == {"ok"}


def test_a_target_that_lost_a_groups_model_opens_the_sum_again(hospitals, three, tmp_path):
    """The members need not be asked: the server has the sum, and the target its key."""
    out = tmp_path / "lost"
    shutil.copytree(three[0], out)
    shutil.rmtree(out / "sites/harbour/received")
    (out / "server/phases").joinpath("traffic.json").unlink()
    found = run(small(hospitals), out, "imm-mode,mean,auto", nodes=4)
    assert {row["status"] for row in found["rows"]} == {"ok"}
    assert {line["what"] for line in found["traffic"]} >= {"masked sum"}
    assert "masked message" not in {line["what"] for line in found["traffic"]}
    assert model(out, "group-1") == model(three[0], "group-1")
    assert [choice["chosen"] for choice in found["choices"]] == ["imm-mode+warm-up"]


def test_a_withdrawn_member_takes_its_group_along(hospitals, three, tmp_path):
    """Its message and the sum are deleted, what came of the sum is named, and the run does not go on without it."""
    runs, path = tmp_path / "runs", small(hospitals)
    shutil.copytree(three[0], runs / "one/out")
    shutil.copy(path, runs / "one/campaign.toml")
    found = withdrawal.look(runs, "west")
    assert {one.path.name for one in found.taken} == {"west.masked", "all.sum"}
    assert {(heir.kind, heir.what, heir.where) for heir in found.heirs} == {
        ("fine-tuned model", "imm-mode-seed0-chain0-n2", str(runs / FINE_TUNED)),
        ("copy", "of the model of group-1, in which that of west is", TARGET),
    }
    assert {digest for heir in found.heirs for digest in heir.digests} == {digest_of(three)}
    withdrawal.withdraw(found, runs, "2026-01-01", Witness())
    assert not withdrawal.look(runs, "west").taken
    with pytest.raises(CampaignStopped, match="group-1 is summed as a whole or not at all, and west is missing"):
        run(path, runs / "one/out", "imm-mode", nodes=4)


FINE_TUNED = "one/out/models/harbour/imm-mode-seed0-chain0-n2.fine-tuned.safetensors"


def digest_of(campaign_):
    """By which name the rows have the model of the group."""
    return campaign_[1]["rows"][0]["contributions"]["group-1"]
