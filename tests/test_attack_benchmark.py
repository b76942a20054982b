"""The attack benchmark's own decisions: its rows, its verdicts, and what it finds when it goes on."""

import argparse
import importlib.util
import json

import pytest
from pages import ROOT

from fedmerge.privacy import lower_bound


@pytest.fixture(scope="module")
def benchmark():
    """The module, not run."""
    spec = importlib.util.spec_from_file_location("attack_benchmark", ROOT / "benchmarks/attacks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def asked(benchmark, **changes):
    """The rows of the command without options, or with some."""
    told = {"seed": 0, "patients": [32, 60, 120], "settings": benchmark.SETTINGS, "runs": (140, 140),
            "short": (1000, 17000), "references": 0, "scored": 20, **changes}  # fmt: skip
    return benchmark.rows(argparse.Namespace(**told), "sha256:0", 240)


def line(setting, accounted, canary, most=4.0, **pairs):
    """A finished row: bounds of the canary and, by attack, of pairs."""
    tried = {name: {"epsilon": value} for name, value in pairs.items()}
    return {"asked": {"setting": setting}, "accounted": accounted, "attacks": tried,
            "canary": {"epsilon": canary, "most": most}}  # fmt: skip


def test_a_sound_training_has_to_hold_and_a_broken_one_has_to_be_caught(benchmark):
    """By canary or by pairs; but with noise no Fisher leaves, so what it tells is not the training's fault."""
    verdict = benchmark.verdict
    assert verdict(line("epsilon 1", 1.0, 0.9, loss=0.95)) == "held"
    assert verdict(line("epsilon 1", 1.0, 1.1)) == "EXCEEDED"
    assert verdict(line("epsilon 1", 1.0, 0.0, loss=1.1)) == "EXCEEDED"
    assert verdict(line("epsilon 1", 1.0, 0.0, **{"Fisher domination": 1.1})) == "held"
    assert verdict(line("no noise", 3.0, 3.1)) == "caught"
    assert verdict(line("no clipping", 3.0, 2.9)) == "MISSED"
    assert verdict(line("no noise", 3.0, 2.0, most=2.0)) == "TOO FEW RUNS"
    assert verdict({"asked": {"setting": "none"}, "accounted": None, "canary": None}) == "no promise"


def test_the_runs_of_each_row_are_enough_to_fail_what_is_claimed(benchmark):
    """Three quarters of them are counted; of a broken row the claim is below the most that they can show."""
    for one in asked(benchmark):
        if one["setting"] not in ("none", "epsilon 8") or one["n"] == 0:
            members, others = (count - count // 4 for count in one["runs"])
            claim = float(one["setting"].split()[1]) if one["setting"].startswith("epsilon") else one["claim"]
            found = round(0.93 * members) if one["n"] == 0 else members  # of four draws one in sixteen has no canary
            assert lower_bound.epsilon_lower_bound(found, members - found, 0, others, benchmark.DELTA) > claim, one


def test_a_line_that_was_torn_is_made_again_and_whole_ones_are_kept(benchmark, tmp_path):
    """A crash in the middle of writing leaves half a line."""
    file = tmp_path / "attacks.jsonl"
    assert benchmark.stored(file) == []
    whole = [{"asked": one} for one in asked(benchmark)[:2]]
    file.write_text("".join(json.dumps(one) + "\n" for one in whole) + '{"asked": {"n"')
    assert benchmark.stored(file) == whole == benchmark.stored(file)
    assert file.read_text().endswith("}\n")


def test_a_row_stands_for_what_was_asked_and_nothing_else(benchmark):
    """Other numbers of steps, runs or references, another seed: other rows."""
    plain = asked(benchmark)
    assert len(plain) == 3 * 6 + 5
    assert [one["n"] for one in plain[:6]] == [32] * 6
    for changes in ({"seed": 1}, {"references": 4}, {"runs": (40, 40)}, {"scored": 4}):
        assert not any(one in plain for one in asked(benchmark, **changes) if one["n"])
    assert asked(benchmark, short=(0, 0)) == plain[:18]
