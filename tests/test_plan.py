"""The campaign as data: what a file says, what its defaults are, and the sentence for each thing that cannot be."""

from pathlib import Path

import pytest

from fedmerge import fusion
from fedmerge.errors import ConfigError
from server import plan

GOOD = """
[campaign]
name = "two"
[net]
name = "isensee2017"
base_filters = 2
depth = 2
patch = [8, 8, 8]
[train]
steps = 4
[adapt]
epochs = 3
batch_size = 2
[finetune]
steps = 5
[[site]]
name = "north"
role = "source"
data = { folder = "n" }
[[site]]
name = "south"
role = "source"
contribution = "south.safetensors"
[[site]]
name = "harbour"
role = "target"
data = { folder = "h" }
"""


@pytest.fixture
def write(tmp_path):
    """A function that writes a campaign file and gives its path."""

    def write(text: str) -> Path:
        path = tmp_path / "two.toml"
        path.write_text(text)
        return path

    return write


def test_a_plan_holds_what_the_file_says(write, tmp_path):
    """Roles, residents, relative files and defaults of a small campaign."""
    p = plan.read(write(GOOD))
    assert (p.sources, p.targets, p.residents) == (("north", "south"), ("harbour",), ("north", "harbour"))
    assert p.members[1].contribution == tmp_path / "south.safetensors"
    assert (p.method, p.fit, p.schedule, p.trust, p.threads) == ("t-imm", "near", "chain", "server", 1)
    assert p.patch == (8, 8, 8)


def test_epochs_become_steps_on_the_cases_that_are_there():
    """Three epochs of five cases at batch size 2 are nine steps; steps stay what they are."""
    assert plan.Stage(lr=1.0, epochs=3, batch_size=2).length(5) == 9
    assert plan.Stage(lr=1.0, steps=7).length(5) == 7


def test_rows_are_those_asked_for_then_the_campaigns_then_its_method(write):
    """The command's list wins over `methods`, `methods` over `method`; `transfer` means each source."""
    p = plan.read(write(GOOD.replace('name = "two"', 'name = "two"\nmethods = ["none", "mean"]')))
    assert [m.name for m in p.rows()] == ["none", "mean"]
    assert [m.name for m in p.rows("t-imm, transfer")] == ["t-imm", "transfer:north", "transfer:south"]
    assert [m.name for m in plan.read(write(GOOD)).rows()] == ["t-imm"]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('name = "two"', 'nmae = "two"', r"\[campaign\] has no key 'nmae'"),
        ("[train]", "[training]", "the file has no key 'training'"),
        ("steps = 4", "steps = 4\nlrr = 1", r"\[train\] has no key 'lrr'"),
        ("steps = 4", "lr = 0.1", r"\[train\] expected either steps or epochs"),
        ("steps = 4", "steps = 4\nepochs = 2", r"\[train\] expected either steps or epochs"),
        ("steps = 4", "steps = -4", r"\[train\] steps expected a number of at least 0, got -4"),
        ("steps = 4", 'steps = 4\nschedule = "wavy"', r"\[train\] schedule expected one of"),
        ("steps = 4", 'steps = 4\nfisher = "exact"', r"\[train\] fisher expected sampled or observed, got 'exact'"),
        ('name = "two"', 'fit = "afar"', r"\[campaign\] fit expected one of near, far, got 'afar'"),
        ('name = "two"', 'trust = "group"', r"\[campaign\] trust expected one of server, got 'group'"),
        ('name = "two"', "threads = 0", r"\[campaign\] threads expected a whole number of at least 1, got 0"),
        ('name = "two"', 'method = "tim"', "tim"),
        ("patch = [8, 8, 8]", "", r"\[net\] patch is missing"),
        ("patch = [8, 8, 8]", "patch = [8, 8]", "patch"),
        ("depth = 2", "deptth = 2", "deptth"),
        ("depth = 2", "depth = 2\ndims = 2", r"\[net\] dims expected 3"),
        ('role = "target"', 'role = "goal"', "site 'harbour': role expected source or target, got 'goal'"),
        ('role = "target"', 'role = "source"', "expected at least one site with role"),
        ('name = "south"', 'name = "north"', "two sites are called 'north'"),
        ('name = "south"', 'name = "so uth"', "a site's name is letters, digits"),
        ('contribution = "south.safetensors"', "", "site 'south': expected .* neither"),
        ('data = { folder = "h" }', 'contribution = "h"', "a contribution stands for a source, not for a target"),
        ('data = { folder = "h" }', "folder = 'h'", "site 'harbour' has no key 'folder'"),
    ],
)
def test_what_cannot_be_is_told_with_its_table_and_key(write, old, new, sentence):
    """Each defect of a campaign file has a sentence that names where it is, what was expected and what came."""
    assert old in GOOD
    with pytest.raises(ConfigError, match=sentence):
        plan.read(write(GOOD.replace(old, new, 1)))


def test_a_deployed_plan_holds_no_hospitals_tables(write):
    """A coordinator's file with a hospital's paths is refused by that hospital's name."""
    with pytest.raises(ConfigError, match=r"site 'north': \[site\.data\] belongs into that hospital's own"):
        plan.read(write(GOOD), deployed=True)


def test_far_shows_no_single_hospitals_model(write):
    """With fit = "far" the row `transfer:north` is refused."""
    p = plan.read(write(GOOD.replace('name = "two"', 'fit = "far"')))
    with pytest.raises(ConfigError, match="transfer:north shows the target one hospital's own model"):
        plan.check_method(p, fusion.method("transfer:north", p.sources))


def test_a_missing_or_broken_file_is_a_sentence(tmp_path):
    """No traceback for a path that is not there or a file that is no TOML."""
    with pytest.raises(ConfigError, match="there is no such campaign file"):
        plan.read(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[campaign")
    with pytest.raises(ConfigError, match="not a TOML file"):
        plan.read(tmp_path / "bad.toml")
