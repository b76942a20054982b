"""Campaigns with `trust = "target"`: the numbers of one with a trusted server, and a server with nothing to read."""

import json

import pytest
from small import campaign, hospitals
from test_campaign import bare, run

METHODS = "mean,imm-mode,t-imm,transfer:north,lwf+stitch"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The tiny hospitals' folder, with room for campaign files."""
    return hospitals(tmp_path_factory.mktemp("hospitals"))


@pytest.fixture(scope="module")
def both(small, tmp_path_factory):
    """Folder and results of one campaign with a trusted server, and of the same one sealed to the target."""
    found = {}
    for trust in ("server", "target"):
        out = tmp_path_factory.mktemp(trust)
        path = campaign(small, name=f"{trust}.toml", head=f'trust = "{trust}"')
        found[trust] = out, run(path, out, METHODS)
    return found


def phases(out, kind):
    """What the target answered of its rows, by the key of the row."""
    return {
        path.name.removesuffix(f"-{kind}.json"): json.loads(path.read_text())
        for path in (out / "server/phases").glob(f"*-{kind}.json")
    }


def test_the_same_chain_gives_the_same_weights_and_scores(both):
    """Rows bear the same keys, what is merged has the same digest in each, and every score is the same number."""
    for kind in ("adapted", "finetuned"):
        open_, sealed = (phases(both[trust][0], kind) for trust in ("server", "target"))
        assert open_
        assert {k: v["fused"] for k, v in open_.items()} == {k: v["fused"] for k, v in sealed.items()}
    assert bare(both["target"][1])["rows"] == bare(both["server"][1])["rows"]


def test_the_server_has_no_weights_and_no_ratios(both):
    """Sealed files and digests are all that lies at the server of the sources' models."""
    out, results = both["target"]
    assert not (out / "server/contributions").exists()
    assert not list(out.rglob("*.fused.safetensors"))
    assert results["ratios"] == results["forgetting"] == []
    sealed = sorted(path.name for path in (out / "server/sealed").rglob("*.sealed"))
    assert set(sealed) == {"contribution-harbour.sealed", "body-south.sealed", "contribution-south.sealed"}
    assert not list((out / "server").rglob("*-logits.safetensors"))
