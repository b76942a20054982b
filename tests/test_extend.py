"""A campaign that grows: what is there already is not trained again, as far as its owners let it be used."""

import json
import logging

import pytest
from small import campaign
from test_campaign import run

from fedmerge import acceptance, wire
from sites import outbound

WEST = '[[site]]\nname = "west"\nrole = "source"\n[site.data]\nfolder = "harbour"\nlabels = { ball = [1] }\n' \
    'background = [2]\ntest = 2\n'  # fmt: skip
PORT = '[[site]]\nname = "port"\nrole = "target"\n[site.data]\nfolder = "south"\nlabels = { cube = [2] }\n' \
    'background = [1]\ntrain = 2\nvalidate = 2\ntest = 3\n'  # fmt: skip
OPEN = "".join(f'{key} = ["*"]\n' for key in ("roles", "campaigns", "nets", "labels")) + (
    'min_cases = 1\nmax_bytes = "*"\nmax_contributions = "*"\nfisher = "full"\nweights = true\n'
    'trust = ["server"]\nmetrics = true\n'
)


@pytest.fixture(scope="module")
def first(small, tmp_path_factory):
    """Folder and results of the first campaign: north, then south, for harbour."""
    out = tmp_path_factory.mktemp("first")
    return out, run(campaign(small), out, "mean")


@pytest.fixture
def trained(monkeypatch):
    """The sites that sent a contribution, in their order."""
    sent = []
    door = outbound.contribution
    monkeypatch.setattr(outbound, "contribution", lambda site, *rest: (sent.append(site.name), door(site, *rest))[1])
    return sent


def written(small, name, text):
    """A campaign file of this text."""
    path = small / f"{name}.toml"
    path.write_text(text)
    return path


def digests(results):
    """Site -> digest, of the merge."""
    return next(row["contributions"] for row in results["rows"] if row["method"] == "mean")


def test_a_source_that_joins_at_the_end_of_the_chain_is_all_that_trains(small, first, tmp_path, trained):
    """North's and south's contributions are the same bytes; west starts where south ended."""
    text = campaign(small).read_text().replace('[[site]]\nname = "harbour"\n', f'{WEST}[[site]]\nname = "harbour"\n')
    results = run(written(small, "more", text), tmp_path, "mean", reuse=str(first[0]))
    assert trained == ["west"]
    now, before = digests(results), digests(first[1])
    assert {site: now[site] for site in before} == before
    assert list(now) == ["north", "south", "west"]
    (west,) = (tmp_path / "server/contributions").iterdir()
    assert wire.read(west).site == "west"


def test_a_campaign_that_grew_has_the_numbers_of_one_that_had_all_its_sites_at_once(small, first, tmp_path):
    """Whether a site was there from the beginning or joined later makes no difference to any digit."""
    text = campaign(small).read_text().replace('[[site]]\nname = "harbour"\n', f'{WEST}[[site]]\nname = "harbour"\n')
    path = written(small, "all", text)
    grown, whole = run(path, tmp_path / "a", "mean", reuse=str(first[0])), run(path, tmp_path / "b", "mean")
    for one, other in zip(grown["rows"], whole["rows"], strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_another_target_uses_the_same_contributions(small, first, tmp_path, trained):
    """With other labels of its own, and without harbour: nothing is trained at any source."""
    text = campaign(small).read_text()
    text = text[: text.index('[[site]]\nname = "harbour"')] + PORT
    results = run(written(small, "port", text), tmp_path, "mean,t-imm", reuse=str(first[0]))
    assert trained == []
    assert digests(results) == digests(first[1])
    assert {row["target"] for row in results["rows"]} == {"port"}
    assert {row["status"] for row in results["rows"]} == {"ok"}


def test_a_third_campaign_finds_what_the_second_one_reused(small, first, tmp_path, trained):
    """The chain of campaigns may be long: each holds all that it used."""
    run(written(small, "second", campaign(small).read_text()), tmp_path / "second", "mean", reuse=str(first[0]))
    results = run(written(small, "third", campaign(small).read_text()), tmp_path / "third", "mean",
                  reuse=str(tmp_path / "second"))  # fmt: skip
    assert trained == []
    assert digests(results) == digests(first[1])


@pytest.mark.parametrize(("reuse", "asked"), [("never", ["south"]), ("campaign", ["south"]), ("consortium", [])])
def test_the_owners_policy_decides_and_is_asked_at_each_campaign(small, first, tmp_path, trained, reuse, asked, caplog):
    """Only `consortium` lets another campaign use what an earlier one has got; else the site is asked anew."""
    caplog.set_level(logging.INFO, "fedmerge")
    policy = f'{OPEN}reuse = "{reuse}"\n'
    text = campaign(small).read_text()
    own = "background = [1]\npooled_labels = { ball = [1], cube = [2] }\ntest = 2\n"
    assert text.count(own) == 1
    path = written(small, f"policy-{reuse}", text.replace(own, f"{own}[site.policy]\n{policy}"))
    results = run(path, tmp_path, "mean", reuse=str(first[0]))
    assert trained == asked
    assert digests(results) == digests(first[1])  # trained again, it is the same to the last bit


def test_a_policy_that_closes_later_takes_the_reused_file_out_of_use(small, first, tmp_path, trained):
    """A second start of the extended run asks the policy of today, not that of yesterday."""
    text = campaign(small).read_text()
    own = "background = [1]\npooled_labels = { ball = [1], cube = [2] }\ntest = 2\n"
    path = written(small, "closing", text)
    run(path, tmp_path, "mean", reuse=str(first[0]))
    assert trained == []
    path.write_text(text.replace(own, f'{own}[site.policy]\n{OPEN}reuse = "campaign"\n'))
    run(path, tmp_path, "mean", reuse=str(first[0]))
    assert trained == ["south"]
    run(path, tmp_path, "mean", reuse=str(first[0]))
    assert trained == ["south"]  # now it is this campaign's own


def test_models_and_rows_name_the_contributions_that_they_were_made_of(small, first, tmp_path):
    """The digests of the stored bytes, in the results and in both files of the model."""
    out, results = first
    stored = {wire.read(p).site: p for p in (out / "server/contributions").iterdir()}
    expected = {site: acceptance.name_of(stored[site]) for site in ("north", "south")}
    assert digests(results) == expected
    for kind in ("fused", "fine-tuned"):
        _, info = wire.read_model(out / f"models/harbour/mean-seed0-chain0-n2.{kind}.safetensors")
        assert info["contributions"] == list(expected.values())
    assert json.loads((out / "results.json").read_text())["rows"][0]["contributions"] == expected
