"""The campaign as data: what a file says, what its defaults are, and the sentence for each thing that cannot be."""

import re
from pathlib import Path

import pytest
from made_plans import trainings

from fedmerge import fusion
from fedmerge.errors import ConfigError
from server import feasible, plan

GOOD = f"""
[campaign]
name = "two"
{trainings(train="steps = 4", adapt="epochs = 3", finetune="steps = 5")}
[[site]]
name = "north"
role = "source"
data = {{ folder = "n" }}
[[site]]
name = "south"
role = "source"
contribution = "south.safetensors"
[[site]]
name = "harbour"
role = "target"
data = {{ folder = "h" }}
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
    assert (p.method, p.fit, p.schedule, p.trust, p.threads) == ("auto", "near", "chain", "server", 1)
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
    assert [m.name for m in plan.read(write(GOOD)).rows()] == ["auto"]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('name = "two"', 'nmae = "two"', r"\[campaign\] has no key 'nmae'"),
        ("[train]", "[training]", "the file has no key 'training'"),
        ("steps = 4", "steps = 4\nlrr = 1", r"\[train\] has no key 'lrr'"),
        ("steps = 4", "lr = 0.1", r"\[train\] expected either steps or epochs"),
        ("steps = 4", "steps = 4\nepochs = 2", r"\[train\] expected either steps or epochs"),
        ("steps = 4", "steps = -4", r"\[train\] steps expected a whole number of at least 0, got -4"),
        ("steps = 4", 'steps = 4\nschedule = "wavy"', r"\[train\] schedule expected one of"),
        (
            "steps = 4",
            'steps = 4\nfisher = "exact"',
            r"\[train\] fisher expected one of sampled, observed, target, got 'exact'",
        ),
        ('name = "two"', 'fit = "afar"', r"\[campaign\] fit expected one of near, far, got 'afar'"),
        ('name = "two"', 'trust = "nobody"', r"\[campaign\] trust expected one of server, .*, got 'nobody'"),
        ('name = "two"', "threads = 0", r"\[campaign\] threads expected a whole number of at least 1, got 0"),
        ('name = "two"', 'method = "tim"', "tim"),
        ("patch = [8, 8, 8]", "", r"\[net\] patch is missing"),
        ("patch = [8, 8, 8]", "patch = [8, 8]", "patch"),
        ("depth = 2", "deptth = 2", "deptth"),
        ("depth = 2", "depth = 2\ndims = 2", r"\[net\] dims expected 3"),
        ('role = "target"', 'role = "goal"', "site 'harbour': role expected one of source, target, got 'goal'"),
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
        feasible.check_method(p, fusion.method("transfer:north", p.sources))


def test_a_missing_or_broken_file_is_a_sentence(tmp_path):
    """No traceback for a path that is not there or a file that is no TOML."""
    with pytest.raises(ConfigError, match="there is no such campaign file"):
        plan.read(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[campaign")
    with pytest.raises(ConfigError, match="not a TOML file"):
        plan.read(tmp_path / "bad.toml")
    (tmp_path / "bad.d").mkdir()
    with pytest.raises(ConfigError, match=r"bad\.d: Is a directory"):
        plan.read(tmp_path / "bad.d")


KINDS = [
    *((f"[{table}]", key, value, f"{key} expected a whole number of at least {least}, got {told}")
      for table in ("train", "adapt", "finetune")
      for key, least in (("batch_size", 1), ("cycles", 1), ("validate_every", 0), ("patience", 0))
      for value, told in (("2.0", r"2\.0"), ("true", "True"), ('"2"', "'2'"), ("[2]", r"\[2\]"), ("-1", "-1"))),
    ("[train]", "fisher_cases", "2.5", r"fisher_cases expected a whole number of at least 0, got 2\.5"),
    ("[train]", "batch_size", "0", "batch_size expected a whole number of at least 1, got 0"),
    ("[adapt]", "cycles", "0", "cycles expected a whole number of at least 1, got 0"),
    ("[train]", "patience", "1_000_000_000_000", "patience expected a whole number of at most 2147483647"),
    *(("[train]", key, value, f"{key} expected a finite number of at least 0, got")
      for key in ("weight_decay", "clip_norm", "specific_lr")
      for value in ("nan", "inf", "-0.1", "true", '"0.1"', "{ a = 1 }")),
    *(("[finetune]", "lr", value, "lr expected a finite number above 0, got")
      for value in ("0", "0.0", "nan", "-1", "inf", '"1e-3"', "false", "1979-05-27")),
    ("[adapt]", "logits_lr", "[0.1]", "logits_lr expected a finite number of at least 0, got"),
    *(("[train]", "final", value, r"final expected a number from 0 to 1, got") for value in ("1.5", "-0.5", "nan")),
    *(("[train]", "schedule", value, "schedule expected one of constant, .*, got") for value in ("[]", "3", '"x"')),
    ("[train]", "fisher", "1", "fisher expected one of sampled, observed, target, got 1"),
    *(("[campaign]", "method", value, "method") for value in ('""', "3", "[]", '"transfer:west"', '"magic"')),
    *(("[campaign]", "methods", value, "methods expected a list of texts, got") for value in ('"mean"', "[1]", '[""]')),
    ("[campaign]", "methods", '["magic"]', "method 'magic' is unknown"),
    ("[campaign]", "methods", '["none"]\nmethod = "magic"', "method 'magic' is unknown"),
    *(("[campaign]", "timeout_s", value, "timeout_s expected a finite number above 0")
      for value in ("0", "inf", "'1'")),
    *(("[campaign]", key, value, f"{key} expected a whole number")
      for key in ("seed", "threads") for value in ("true", "1.0", '"1"', "-1", "1_000_000_000_000")),
    ("[campaign]", "buffers", "[]", r"buffers expected one of refuse, re-estimate, got \[\]"),
    ("[campaign]", "fit", "1", "fit expected one of near, far, got 1"),
    *(("[net]", key, value, f"{key} expected a list of texts, got")
      for key in ("specific", "fusable") for value in ('"stem"', "[1]", "3")),
    *(("[net]", key, '["nowhere"]', "the net has no parameter or layer 'nowhere'") for key in ("specific", "fusable")),
    ("[net]", "fusable", '["heads"]', "belongs to a head, and heads are never fused"),
    *(("[net]", "weights", value, "weights expected a text that is not empty, got") for value in ('""', "3", "[]")),
    ("[net]", "dropout", "nan", r"net isensee2017: dropout expected in \[0, 1\), got nan"),
    ("[net]", "dropout", '"no"', "dropout expected float, got 'no'"),
]  # fmt: skip


@pytest.mark.parametrize(("table", "key", "value", "sentence"), KINDS)
def test_a_value_of_another_kind_is_told_with_file_table_and_key(write, table, key, value, sentence):
    """Text for a number, truth for a count, a list for a word: never anything but a sentence."""
    text = GOOD.replace('name = "two"', "") if key == "name" else GOOD
    with pytest.raises(ConfigError, match=rf"two\.toml: {re.escape(table)}.*{sentence}"):
        plan.read(write(text.replace(f"{table}\n", f"{table}\n{key} = {value}\n", 1)))


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        *(('name = "two"', f"name = {v}", r"\[campaign\] name expected a text that is not empty") for v in ('""', "3")),
        *(("steps = 4", f"steps = {v}", r"\[train\] steps expected a whole number") for v in ("true", "4.0", '"4"')),
        *(("epochs = 3", f"epochs = {v}", r"\[adapt\] epochs expected a whole number") for v in ("true", "nan")),
        *(("name = \"isensee2017\"", f"name = {v}", r"\[net\] name expected one of isensee2017, .*, got")
          for v in ("3", "[]", "{}", '"vgg"')),
        *(("patch = [8, 8, 8]", f"patch = {v}", r"\[net\] patch expected a list of whole numbers from 1 to 4096, got")
          for v in ("8", '"888"', "[8, 8, 8.0]", "[8, 8, true]", "[8, 8, 0]", "[8, 8, -8]", "[8, 8, 10_000_000]")),
        ("base_filters = 2", "base_filters = 1_000_000_000_000", "base_filters expected at most 1024, got 10{12}"),
        ("base_filters = 2", "base_filters = 2.0", "base_filters expected int, got 2.0"),
        ("base_filters = 2", "base_filters = -1", "base_filters expected at least 1, got -1"),
        ("depth = 2", "depth = 1_000_000_000_000", "depth expected 2 to 5, got 10{12}"),
        ("depth = 2", "depth = -5", "depth expected 2 to 5, got -5"),
        ("depth = 2", "depth = true", "depth expected int, got True"),
        ('name = "isensee2017"\nbase_filters = 2\ndepth = 2', 'name = "unet"\nresidual_units = 1_000_000_000_000',
         "residual_units expected at most 16, got 10{12}"),
        ("steps = 4", f"steps = 1{'0' * 30}", "train: steps expected a whole number of at most 64 bits"),
        ("steps = 4", f"steps = 1{'0' * 5000}", "not a TOML file"),
        ('role = "target"', "role = [1]", r"role expected one of source, target, got \[1\]"),
        ('contribution = "south.safetensors"', "contribution = 3", "contribution expected a text .*, got 3"),
        ('contribution = "south.safetensors"', 'contribution = ""', "contribution expected a text .*, got ''"),
        ('data = { folder = "h" }', "data = 3", r"site 'harbour': \[site\.data\] expected a table, got 3"),
        ('data = { folder = "h" }', 'data = {}\npolicy = "open"', r"\[site\.policy\] expected a table, got 'open'"),
        *((f"[{name}]\n", f"[other.{name}]\n", "the file has no key 'other'") for name in ("train", "campaign")),
    ],
)  # fmt: skip
def test_another_value_in_its_place_is_told(write, old, new, sentence):
    """Sizes that no machine has, texts that are none, numbers that are no numbers: at once, before a net is built."""
    assert old in GOOD
    with pytest.raises(ConfigError, match=rf"two\.toml: .*{sentence}|two\.toml: {sentence}"):
        plan.read(write(GOOD.replace(old, new, 1)))


@pytest.mark.parametrize("name", ["campaign", "net", "train", "adapt", "finetune"])
@pytest.mark.parametrize("value", ["3", '"x"', "[1]", "[{}]"])
def test_what_should_be_a_table_and_is_none_is_told(write, name, value):
    """The table's name and what stood in its place are in the sentence."""
    rest = [part for part in GOOD.split("\n[") if not part.startswith(f"{name}]")]
    with pytest.raises(ConfigError, match=rf"two\.toml: \[{name}\] expected a table, got"):
        plan.read(write(f"{name} = {value}\n" + "\n[".join(rest)))


@pytest.mark.parametrize(
    ("sites", "sentence"),
    [
        ("3", r"expected one \[\[site\]\] table for each site, got 3"),
        ('"north"', r"expected one \[\[site\]\] table for each site, got 'north'"),
        ("[]", r"expected one \[\[site\]\] table for each site, got none"),
        ("{ name = 'north' }", r"expected one \[\[site\]\] table for each site, got {"),
        ("[{ name = 'north' }, 3]", r"\[\[site\]\] expected a list of tables, got 3 in it"),
        ("[{ name = ['north'] }]", "a site's name is letters, digits"),
        ("[{}]", "a site's name is letters, digits.*, got None"),
    ],
)
def test_sites_are_a_list_of_tables(write, sites, sentence):
    """Whatever else stands under `site` is told, one entry of the list included."""
    with pytest.raises(ConfigError, match=rf"two\.toml: {sentence}"):
        plan.read(write(f"site = {sites}\n" + GOOD.partition("[[site]]")[0]))


def test_a_transfer_without_sources_is_told(write):
    """`transfer` means one row a source; without sources it would be no row at all."""
    head, _, rest = GOOD.partition("[[site]]")
    target = "[[site]]" + rest.split("[[site]]")[-1]
    with pytest.raises(ConfigError, match='transfer needs at least one site with role = "source", got none'):
        plan.read(write(head.replace('name = "two"', 'methods = ["transfer"]') + target))
