"""A site's own hardware: what the table says, that trainings follow it, and that a missing device is told early."""

import json
import re
from dataclasses import replace

import psutil
import pytest
import test_campaign as campaigns
import torch
from made_cases import decathlon, site_of
from small import campaign, hospitals
from test_site_config import HOSPITAL
from test_training import net, run, told

from fedmerge import cli, devices, params
from fedmerge.devices import Hardware
from fedmerge.errors import ConfigError, FedmergeError
from sites import config, findings, hardware, preflight


def test_a_hospital_says_how_its_machine_is_used(tmp_path):
    """What is not said is left to the program."""
    own = tmp_path / "site.toml"
    own.write_text(HOSPITAL + '\n[hardware]\ndevice = "cuda:1"\nrecompute = "always"\n')
    assert config.from_file(own).hardware == Hardware("cuda:1", compile=False, recompute="always")
    own.write_text(HOSPITAL)
    assert config.from_file(own).hardware == Hardware()


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"recompute": "sometimes"}, "'recompute' expected auto or always or never, got 'sometimes'"),
        ({"compile": "yes"}, "'compile' expected true or false, got 'yes'"),
        ({"gpus": 2}, "unknown key 'gpus'; known keys are device, compile, recompute"),
    ],
)
def test_what_cannot_be_is_named(table, sentence):
    """With the site, the table, and what is known."""
    with pytest.raises(ConfigError, match=rf"^north, \[hardware\]: {sentence}"):
        hardware.read(table, "north, [hardware]")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_told_before_training(tmp_path):
    """By the check of a simulation, and by that of a hospital."""
    site = replace(site_of(decathlon(tmp_path, ["a", "b"])), hardware=Hardware("cuda:1"))
    wanted = "device cuda:1 was asked for, but torch .* sees no CUDA here"
    (error,) = [f for f in preflight.check(site) if f.severity == "error"]
    (line,) = findings.hardware(site)
    assert line.result == "error"
    for sentence in (error.sentence, line.found):
        assert re.search(wanted, sentence)


def test_auto_is_what_the_owner_says():
    """Within the block; an explicit device is still that device, and afterwards all is as before."""
    with devices.using(Hardware("meta")):
        assert devices.resolve() == torch.device("meta")
        assert devices.resolve("cpu") == torch.device("cpu")
    assert devices.here() == Hardware()


def test_a_compiled_training_comes_to_the_same_model(one_thread):
    """Up to rounding: fused kernels add up in another order. The description says that it was compiled."""
    plain = run(net(dropout=0.0))
    with devices.using(Hardware(compile=True)):
        assert devices.describe("cpu", "float32") == "cpu, 1 thread, float32, compiled"
        fast = run(net(dropout=0.0))
        fast.advance(4)
    plain.advance(4)
    torch.testing.assert_close(params.of(fast.net), params.of(plain.net), rtol=1e-3, atol=1e-4)
    assert [r.step for r in told(fast.finish())[0]] == [r.step for r in told(plain.finish())[0]]


def test_a_campaign_follows_each_site_s_own_table(tmp_path):
    """Sparing sites come to the numbers of plain ones; one whose device is missing stops before any training.

    Its log has the reason, and the server is told its name only.
    """
    path = campaign(hospitals(tmp_path / "hospitals"))
    plain = campaigns.run(path, tmp_path / "plain")
    text = path.read_text()
    path.write_text(text.replace("[[site]]", '[[site]]\nhardware = { recompute = "always" }'))
    assert campaigns.bare(campaigns.run(path, tmp_path / "sparing")) == campaigns.bare(plain)
    path.write_text(text.replace("[[site]]", '[[site]]\nhardware = { device = "cuda:99" }', 1))
    with pytest.raises(FedmergeError, match=r"^north failed in query\.describe"):
        campaigns.run(path, tmp_path / "missing")
    assert "device cuda:99 was asked for, but" in (tmp_path / "missing/sites/north/site.log").read_text()
    assert not list((tmp_path / "missing").rglob("*.safetensors"))


@pytest.mark.slow
def test_a_campaign_whose_sites_have_two_devices_comes_to_the_same_scores(tmp_path):
    """All three sites, by the command: Dice and ratios to rounding, other contributions, and no process left."""
    path = campaign(hospitals(tmp_path / "hospitals"))
    found = []
    for table in ("", '\nhardware = { device = "cpu", devices = 2 }'):
        path.write_text(path.read_text().replace("[[site]]", f"[[site]]{table}"))
        out = tmp_path / f"out{len(found)}"
        with pytest.raises(SystemExit) as ended:
            cli.main(["simulate", str(path), "--methods", "t-imm", "--out", str(out)])
        assert not ended.value.code
        found.append(json.loads((out / "results.json").read_text()))
    one, two = found
    for before, after in zip(one["rows"], two["rows"], strict=True):
        for old, new in zip(before["cases"], after["cases"], strict=True):
            assert new["dice"] == pytest.approx(old["dice"], abs=5e-3)
        assert set(before["contributions"].values()).isdisjoint(after["contributions"].values())
    for group, ratios in one["ratios"][0]["groups"].items():
        assert two["ratios"][0]["groups"][group] == pytest.approx(ratios, abs=1e-3)
    assert not [p for p in psutil.Process().children(recursive=True) if "fedmerge.worker" in p.cmdline()]
