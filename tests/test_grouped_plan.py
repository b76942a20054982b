"""What the plan of a campaign of masked sums holds, and the sentence for each thing that cannot be."""

import json

import pytest
from made_plans import trainings

from fedmerge import fusion
from fedmerge.errors import ConfigError
from server import choosing, plan
from server.ground import Ground
from server.store import Store

NAMES = ("north", "south", "west", "east", "inland", "island")
GOOD = f"""
[campaign]
trust = "group"
schedule = "parallel"
groups = {json.dumps([NAMES[:3], NAMES[3:]])}
{trainings(train="steps = 4", adapt="epochs = 3", finetune="steps = 5")}
validate_every = 1
"""
SITE = """[[site]]
name = "{}"
role = "{}"
data = {{ folder = "n", pooled_labels = {{}} }}
"""
GOOD += "".join(SITE.format(name, "source") for name in NAMES) + SITE.format("harbour", "target")


@pytest.fixture
def read(tmp_path):
    """A function that reads a campaign of these words."""

    def read(text):
        path = tmp_path / "groups.toml"
        path.write_text(text)
        return plan.read(path)

    return read


def test_groups_have_names_in_their_order(read):
    """Methods take groups where they take sources; the default has an answer."""
    p = read(GOOD)
    assert p.grouped == {"group-1": NAMES[:3], "group-2": NAMES[3:]}
    assert (p.mixed, p.sources) == (("group-1", "group-2"), NAMES)
    assert [m.name for m in p.rows()] == ["auto"]
    assert p.rows("t-imm:group-2")[0].only == ("group-2",)


FITTING = (
    "none", "pooled", "mean", "imm-mode", "imm-mode+warm-up", "random-ratios", "t-imm", "t-imm-kernel", "greedy-soup",
    "task-arithmetic", "ties", "auto", "imm-mode+merge-norm", "t-imm+wise-ft+ema",
)  # fmt: skip


@pytest.mark.parametrize("name", sorted({*fusion.METHODS, *FITTING, "t-imm+stitch", "mean+keep-norm", "lwf+stitch"}))
def test_methods_of_shared_layers_alone_go_with_sums(read, name):
    """Those that fit are read; each of the others is refused by its name."""
    text = GOOD.replace("[campaign]", f'[campaign]\nmethods = ["{name}"]')
    if name in (*FITTING, "gou", "gog"):
        assert [method.name for method in read(text.replace("steps = 5", "steps = 50")).rows()] == [name]
        return
    with pytest.raises(ConfigError, match=rf"\[campaign\] {name.split('+')[0]}.*(trust = 'group'|schedule = 'chain')"):
        read(text)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('"west"]', '"west", "north"]', "groups expected each source in one of them, got north in 2"),
        ('"south", "west"]', '"south"]', r"groups: group-1 expected 3 to 64 sources, got 2"),
        ('["north", "south", "west"], ', "", "each source in one of them, got north in none"),
        ('"west"]', '"harbour"]', "groups: group-1 expected sources of north, .*, got 'harbour'"),
        (GOOD[GOOD.index("groups") : GOOD.index("[net]")], "", r"trust = \"group\" needs groups, such as"),
        ("groups = [[", 'groups = ["x"] # [[', "groups expected a list of lists of texts, got"),
        ('schedule = "parallel"\n', "", "schedule = 'chain' shows each source .* needs schedule = 'parallel'"),
        ("[net]", 'absent = "without"\n[net]', "absent = 'without': .* as a whole or not at all"),
        ("[net]", 'fit = "far"\n[net]', "fit = 'far' merges at the server"),
        ("steps = 4", 'steps = 4\nfisher = "target"', r"\[train\] fisher = 'target': a sum has no heads"),
        ('trust = "group"', 'trust = "target"', "groups are for trust = 'group', got them with trust = 'target'"),
        ('trust = "group"\n', "", "groups are for trust = 'group', got them with trust = 'server'"),
        ('name = "island"\nrole = "source"', 'name = "island"\nrole = "target"', "expected one target, .* got 2"),
        (
            'name = "island"\nrole = "source"\n',
            'name = "island"\nrole = "source"\ncontribution = "x"\n',
            "site 'island': contribution = FILE lies open at the server",
        ),
    ],
)
def test_what_cannot_be_is_told_with_its_key(read, old, new, sentence):
    """One sentence, with file, table and key."""
    assert old in GOOD
    with pytest.raises(ConfigError, match=rf"groups\.toml: \[(campaign|train)\].*{sentence}|groups\.toml: {sentence}"):
        read(GOOD.replace(old, new, 1))


def test_a_site_is_not_called_as_a_group_is(read):
    """Rows and results would not tell one from the other."""
    with pytest.raises(ConfigError, match="a site is called 'group-2', as a group is"):
        read(GOOD.replace('"island"', '"group-2"'))


def test_auto_chooses_among_merges_of_groups(read, tmp_path):
    """All groups and each alone; of three, the best two as well. One group is one candidate."""
    three = GOOD.replace('"island"]]', '"island"], ["a", "b", "c"]]') + "".join(SITE.format(n, "source") for n in "abc")
    all_ = "imm-mode+warm-up"
    ground = Ground(read(three), Store(tmp_path), {}, {}, {})
    found = [method.name for method in choosing.candidates(ground, "harbour")]
    assert found == [all_, f"{all_}:group-1", f"{all_}:group-2", f"{all_}:group-3"]
    scores = dict(zip(found, (0.5, 0.6, 0.1, 0.4)))
    assert [m.name for m in choosing.further(ground, "harbour", scores)] == [f"{all_}:group-1/group-3"]
    one = GOOD.replace('], ["east"', ', "east"')
    ground = Ground(read(one), Store(tmp_path), {}, {}, {})
    assert [method.name for method in choosing.candidates(ground, "harbour")] == [all_]
    assert list(choosing.further(ground, "harbour", {all_: 0.5})) == []
