"""Suites as data: what is read, what is refused, and that those of the package are sound."""

from pathlib import Path

import pytest
import tomli_w

from fedmerge import campaign, fusion
from fedmerge.bench import runs, suite
from fedmerge.errors import ConfigError
from server import plan
from sites import cases, config
from sites.draws import stable_seed
from sites.folders import Found

HIPPOCAMPUS = Path(__file__).parent.parent.parent / "shared" / "hippocampus"
SUITE = """
title = "Small"
stage = "development"
campaign = "small.toml"
methods = ["none", "t-imm"]
target_cases = [2]
seeds = [0]
chains = [0]
reference = "none"
"""


def written(tmp_path, text=SUITE):
    """A suite's file."""
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


def evidence():
    """The test cases that the suites of evidence name."""
    named = set()
    for name in suite.names():
        read = suite.read(name)
        for arm in read.arms if read.stage == "evidence" else ():
            for site in runs.tables(arm, data=None, hospitals=Path("h"))["site"]:
                test = site["data"].get("test", 0)
                named |= set(test) if isinstance(test, list) and site["role"] == "target" else set()
    return named


def test_a_suite_is_read_as_it_is_written(tmp_path):
    """Numbers and names arrive; the campaign lies beside the file."""
    got = suite.read(written(tmp_path, SUITE + "reach = 0.5\n"))
    assert (got.name, got.title, got.stage, got.reach) == ("mine", "Small", "development", 0.5)
    assert got.methods == ("none", "t-imm")
    assert got.arms == (suite.Arm("", tmp_path / "small.toml"),)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('reference = "none"', "", "'reference' is missing"),
        ("seeds = [0]", "seeds = [0, 0]", "'seeds' expected at least one, each once"),
        ("chains = [0]", "chains = []", "'chains' expected at least one, each once"),
        ("chains = [0]", 'chains = ["a"]', "'chains' expected a list, each a whole number"),
        ('"development"', '"final"', "'stage' expected one of development, evidence, got 'final'"),
        ("title", "nonsense = 1\ntitle", "unknown key 'nonsense'; known keys are title"),
        ('reference = "none"', 'reference = "none"\n[[hypothesis]]\ntext = "x"\nn = [2]', "expected one of better"),
        (
            'reference = "none"',
            'reference = "none"\n[[hypothesis]]\ntext = "x"\nn = [2]\nbetter = "t-imm"',
            "'better' needs 'than'",
        ),
        ('reference = "none"', 'reference = "none"\n[[arm]]\nname = "a b"', "a name is letters, digits"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, old, new, told):
    """Key by key."""
    with pytest.raises(ConfigError, match=told):
        suite.read(written(tmp_path, SUITE.replace(old, new, 1)))


def test_an_unknown_suite_names_those_that_are_there():
    """So that any word lists them."""
    with pytest.raises(ConfigError, match="hippocampus, hippocampus-bad"):
        suite.read("list")


def test_names_of_methods_over_arms():
    """`transfer` is one for each source of its arm; a name without an arm stands for all."""
    sources = {"with": ["a", "b"], "without": ["a"]}
    assert suite.expand(["none", "transfer"], sources) == [
        "none@with", "none@without", "transfer:a@with", "transfer:b@with", "transfer:a@without",
    ]  # fmt: skip
    assert suite.expand(["t-imm@without"], sources) == ["t-imm@without"]
    assert suite.expand(["t-imm"], {"": ["a"]}) == ["t-imm"]
    with pytest.raises(ConfigError, match="expected one of the arms with, without, got 'nowhere'"):
        suite.expand(["t-imm@nowhere"], sources)
    with pytest.raises(ConfigError, match="'magic' is unknown; the known ones are none"):
        suite.expand(["magic"], sources)


def test_changes_lie_over_the_campaign(tmp_path):
    """Tables are merged key by key, sites by name; labels are replaced whole, other sites stay."""
    (tmp_path / "small.toml").write_bytes(campaign.built_in().read_bytes())
    text = """
[changes.train]
steps = 7
[[arm]]
name = "bad"
[arm.changes.site.south.data]
labels = { caudate = [5] }
meaningless = 1
[arm.changes.site.south.scanner]
invert = true
[[arm]]
name = "left-out"
drop = ["south"]
"""
    bad, out = suite.read(written(tmp_path, SUITE + text)).arms
    table = runs.tables(bad, data=None, hospitals=tmp_path / "made")
    south = table["site"][1]
    assert (table["train"]["steps"], table["train"]["lr"]) == (7, 5e-3)
    assert south["data"]["labels"] == {"caudate": [5]}
    assert (south["data"]["meaningless"], south["data"]["test"], south["scanner"]) == (1, 6, {"invert": True})
    assert south["data"]["folder"] == str(tmp_path / "made" / "south")
    assert [site["name"] for site in runs.tables(out, data=None, hospitals=tmp_path)["site"]] == ["north", "harbour"]
    wrong = suite.Arm("", tmp_path / "small.toml", drop=("nobody",))
    with pytest.raises(ConfigError, match="'drop' expected a site of the campaign, got 'nobody'"):
        runs.tables(wrong, data=None, hospitals=tmp_path)
    wrong = suite.Arm("", tmp_path / "small.toml", changes=({"site": {"nobody": {}}},))
    with pytest.raises(ConfigError, match="expected one of the sites north, south, harbour, got 'nobody'"):
        runs.tables(wrong, data=None, hospitals=tmp_path)


def test_an_inline_campaign_is_a_campaign(tmp_path):
    """A suite may hold its campaign itself."""
    table = campaign.read(campaign.built_in())
    text = SUITE.replace('campaign = "small.toml"\n', "") + tomli_w.dumps({"campaign": table})
    (arm,) = suite.read(written(tmp_path, text)).arms
    assert runs.tables(arm, data=None, hospitals=tmp_path)["net"] == table["net"]


@pytest.mark.parametrize("name", suite.names())
def test_the_suites_of_the_package_hold_together(name, tmp_path):
    """Every arm is a campaign that server and sites read; hypotheses speak of methods and sizes that run."""
    read = suite.read(name)
    assert read.name.endswith("quick") or len(read.chains) >= 3
    known = {method.partition("+")[0].partition(":")[0] for method in read.methods}
    for arm in read.arms:
        table = runs.tables(arm, data=tmp_path, hospitals=tmp_path)
        path = tmp_path / f"{arm.name or 'all'}.toml"
        path.write_text(tomli_w.dumps(table))
        for site in plan.read(path).residents:
            config.from_campaign(path, site, work=tmp_path)
    for one in read.hypotheses:
        assert set(one.n) <= set(read.target_cases)
        for method in (one.method, *one.than):
            assert method.partition("@")[0].partition("+")[0].partition(":")[0] in known
            assert not method.partition("@")[2] or method.partition("@")[2] in {arm.name for arm in read.arms}


@pytest.mark.parametrize("name", [n for n in suite.names() if suite.read(n).stage == "development"])
def test_the_suites_of_development_name_methods_that_exist(name):
    """So that each can be run now."""
    read = suite.read(name)
    for arm in read.arms:
        fusion.expand(read.methods, runs.sources(runs.tables(arm, data=None, hospitals=Path("h"))))


@pytest.mark.skipif(not HIPPOCAMPUS.is_dir(), reason="../shared/hippocampus is not there")
def test_evidence_is_what_development_never_sees():
    """50 cases of the shuffled list that no site of development holds; no chain or seed of development either."""
    ids = [path.name.removesuffix(".nii.gz") for path in (HIPPOCAMPUS / "labelsTr").glob("[!.]*")]
    order = sorted(ids, key=lambda case: stable_seed("select", 2026, case))
    assert evidence() == {*order[46:50], *order[96:100], *order[154:196]}
    found = [Found(case, None, (Path(case),), Path(case)) for case in sorted(ids)]
    seeds = set()
    for name in suite.names():
        read = suite.read(name)
        if read.stage == "evidence":
            continue
        seeds |= {*read.seeds, *read.chains}
        for arm in read.arms:
            for site in runs.tables(arm, data=HIPPOCAMPUS, hospitals=Path("h"))["site"]:
                if "phantom" not in site["data"]:
                    chosen = config.tables.data(site["data"], "here", Path()).cases
                    assert not {case.id for case in cases.select(found, chosen)} & evidence()
    for read in map(suite.read, suite.names()):
        assert read.stage != "evidence" or not seeds & {*read.seeds, *read.chains}
