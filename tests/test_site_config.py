"""A site's own file and its table of a campaign."""

import math
import re
from pathlib import Path

import pytest

from fedmerge.errors import ConfigError
from sites import config
from sites.config import Policy

CAMPAIGN = """
[campaign]
name = "two"
[[site]]
name = "north"
role = "source"
[site.data]
folder = "patients"
labels = { anterior = [1] }
background = [2]
pooled_labels = { posterior = [2], anterior = [1] }
cases = { shuffle = 3, slice = "0:40" }
modalities = ["T1"]
spacing_mm = [2, 2, 2.5]
[site.scanner]
gamma = 1.3
[[site]]
name = "harbour"
role = "target"
[site.data]
folder = "/far/away"
labels = { anterior = 1, posterior = [2] }
cases = "40:60"
train = 4
validate = 2
test = 8
[site.policy]
roles = ["target"]
campaigns = ["*"]
weights = true
"""

HOSPITAL = """
[site]
name = "north"
role = "source"
[data]
folder = "patients"
labels = { lesion = [1, 4] }
[policy]
weights = true
"""


@pytest.fixture
def campaign(tmp_path):
    """The file CAMPAIGN."""
    path = tmp_path / "campaign.toml"
    path.write_text(CAMPAIGN)
    return path


def changed(path, old, new):
    """The same file with one passage changed."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


def site(path, name="north", **how):
    """One site of the file."""
    return config.from_campaign(path, name, work=Path("work"), **how)


def test_a_campaign_table_becomes_a_site(campaign):
    """Numbers, slices and folders arrive as they were written; lengths of 2 are floats."""
    north = site(campaign)
    assert north.simulation
    assert north.role == "source"
    assert north.data.folder == campaign.parent / "patients"
    assert north.data.labels == {"anterior": (1,)}
    assert north.data.cases == config.Selection(0, 40, shuffle=3)
    changed(campaign, '"0:40"', '["0:40", "44:"]')
    assert site(campaign).data.cases == config.Selection(0, 40, shuffle=3, more=((44, None),))
    assert north.data.spacing_mm == (2.0, 2.0, 2.5)
    assert north.scanner == config.Scanner(gamma=1.3)
    harbour = site(campaign, "harbour")
    assert harbour.data.folder == Path("/far/away")
    assert harbour.data.labels == {"anterior": (1,), "posterior": (2,)}
    assert (harbour.data.train, harbour.data.validate, harbour.data.test) == (4, 2, 8)
    assert harbour.scanner is None


def test_sites_are_named_in_the_order_of_the_file(campaign):
    """`names` needs nothing but the campaign file."""
    assert config.names(campaign) == ["north", "harbour"]


def test_another_folder_replaces_that_of_every_site(campaign):
    """`--data` wins over the file, and `base` over the file's own place."""
    assert site(campaign, data=Path("/elsewhere")).data.folder == Path("/elsewhere")
    assert site(campaign, base=Path("/run")).data.folder == Path("/run/patients")


def test_phantoms_get_a_folder_each_below_another_folder(campaign):
    """Hospitals that are made on first use must not be made on top of each other."""
    changed(campaign, 'folder = "patients"', 'folder = "p"\nlayout = "phantom"\nphantom = {profile="north", cases=2}')
    assert site(campaign, data=Path("/elsewhere")).data.folder == Path("/elsewhere/north")


def test_silence_in_a_simulation_allows_and_in_a_policy_forbids(campaign, tmp_path):
    """Without a policy table a simulation is open; a table, and a hospital's own file, are strict."""
    assert site(campaign).policy == config.OPEN
    partly = site(campaign, "harbour").policy
    assert partly == Policy(roles=("target",), campaigns=None, weights=True)
    own = tmp_path / "site.toml"
    own.write_text(HOSPITAL)
    assert config.from_file(own).policy == Policy(weights=True)


def test_the_strict_policy_lets_nothing_out():
    """No role, no campaign, no bytes, no privacy loss, and no permission at all."""
    strict = Policy()
    assert (strict.roles, strict.campaigns, strict.nets, strict.labels) == ((), (), (), ())
    assert not any((strict.weights, strict.metrics, strict.per_case_metrics, strict.receive_fused))
    assert not any((strict.release_finetuned, strict.max_contributions, strict.max_bytes))
    assert strict.reuse == "never"
    assert (strict.fisher, strict.epsilon, strict.delta) == ("none", 0.0, 0.0)


def test_a_policy_without_privacy_says_so(campaign):
    """`epsilon = inf` is how a hospital says that it asks for no differential privacy."""
    changed(campaign, "weights = true", 'weights = true\nepsilon = inf\nfisher = "channel"\nmax_bytes = 100')
    policy = site(campaign, "harbour").policy
    assert (policy.epsilon, policy.fisher, policy.max_bytes) == (math.inf, "channel", 100)


def test_a_hospital_reads_its_own_file(tmp_path):
    """Folders are relative to the file; a hospital is no simulation and has no simulated scanner."""
    own = tmp_path / "site.toml"
    own.write_text(HOSPITAL)
    north = config.from_file(own)
    assert (north.name, north.simulation, north.scanner) == ("north", False, None)
    assert north.data.folder == tmp_path / "patients"
    assert north.data.labels == {"lesion": (1, 4)}
    assert north.work == tmp_path / "north-work"


def test_a_label_table_is_known_by_name(campaign):
    """`TABLE:NAME` stands for the values that the table gives to the name."""
    changed(campaign, "{ anterior = [1] }\nbackground = [2]", '{ thalamus = "freesurfer:thalamus" }')
    assert site(campaign).data.labels == {"thalamus": (10, 49)}


def declared(campaign, text):
    """The data of north with other labels."""
    return site(changed(campaign, "labels = { anterior = [1] }\nbackground = [2]", text)).data


@pytest.mark.parametrize("text", ['labels = "brats"', 'labels = { from = "brats" }'])
def test_a_whole_table_brings_its_regions(campaign, text):
    """Labels in the table's order, and the unions that the challenge scores, unless the site has regions of its own."""
    data = declared(campaign, text)
    assert data.labels == {"necrosis": (1,), "oedema": (2,), "enhancing": (3, 4)}
    assert data.regions == {
        "WT": ("necrosis", "oedema", "enhancing"),
        "TC": ("necrosis", "enhancing"),
        "ET": ("enhancing",),
    }
    changed(campaign, text, text + '\nregions = { all = ["oedema", "necrosis"] }')
    assert site(campaign).data.regions == {"all": ("oedema", "necrosis")}


def test_some_of_a_table_leaves_the_rest_as_background(campaign):
    """By numbers or names, in the order asked for; regions that lack a part are left out."""
    data = declared(campaign, 'labels = { from = "brats", classes = ["enhancing", 1] }\nbackground = [9]')
    assert list(data.labels.items()) == [("enhancing", (3, 4)), ("necrosis", (1,))]
    assert data.background == (9, 2)
    assert data.regions == {"TC": ("necrosis", "enhancing"), "ET": ("enhancing",)}


def test_the_papers_classes_are_a_table(campaign):
    """Geyer et al. (2019): 14 in the paper's order; a task's other classes, and all of FreeSurfer's, are background."""
    first = declared(campaign, 'labels = { from = "freesurfer-14", classes = [1, 2, 3, 4, 5, 6, 7] }')
    assert list(first.labels) == ["cerebellum-cortex", "cortex", "thalamus", "amygdala", "caudate", "pallidum", "csf"]
    assert {3, 42, 26, 58, 1001, 2035, 12175} <= set(first.labels["cortex"])
    assert {16, 17, 53, 85, 3001, 251} <= set(first.background)
    assert not {0, 3, 24, 1001, 23, 500} & set(first.background)
    assert first.regions is None


def test_tables_pool_too(campaign):
    """The target's labels in a source's files, by name."""
    changed(campaign, "pooled_labels = { posterior = [2], anterior = [1] }", 'pooled_labels = "hippocampus"')
    (north,) = config.pooled(campaign, work=Path("work"))
    assert list(north.data.labels.items()) == [("anterior", (1,)), ("posterior", (2,))]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            'labels = "bratz"',
            "'labels' expected a table of labels, or one of freesurfer, freesurfer-14, brats, brats-post",
        ),
        ('labels = { from = "brats", class = [1] }', "'labels': unknown key 'class'; known keys are from, classes"),
        (
            'labels = { from = "brats", classes = [4] }',
            "'classes' expected 1 to 3 or necrosis, oedema, enhancing, got 4",
        ),
        ('labels = { from = "brats", classes = [0] }', "'classes' expected 1 to 3 or necrosis"),
        ('labels = { from = "brats", classes = [1, "necrosis"] }', "'classes' names a class twice"),
        ('labels = { from = "brats", classes = [] }', "'classes' expected a list of names or numbers"),
        ('labels = { from = "brats", classes = [true] }', "'classes' expected a list of names or numbers"),
        ('labels = "brats"\nbackground = [2]', "value 2 of 'labels' is both 'background' and 'oedema'"),
        ('labels = "brats"\nfiles = { T1 = "t1" }', "'files' means nothing in the layout 'msd'"),
        ('labels = "brats"\nlayout = "bids"\nfiles = { T2 = "T2w" }', "'files' expected modalities of T1, got 'T2'"),
        (
            'labels = "brats"\nlayout = "folders"\nderivative = "x"',
            "'derivative' means nothing in the layout 'folders'",
        ),
        ('labels = "brats"\nlayout = "brats"\nlabel_file = "x"', "'label_file' means nothing in the layout 'brats'"),
    ],
)
def test_tables_and_files_that_cannot_be_meant(campaign, text, sentence):
    """A name that there is not, a class that the table has not, a key of another layout."""
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        declared(campaign, text)


def test_pooled_sources_take_the_targets_labels_in_its_order(campaign):
    """What a source calls background and the pooled labels use is no longer background."""
    (north,) = config.pooled(campaign, work=Path("work"))
    assert list(north.data.labels.items()) == [("anterior", (1,)), ("posterior", (2,))]
    assert north.data.background == ()
    assert north.work == Path("work/north")


def test_pooling_without_pooled_labels_is_refused_in_a_sentence(campaign):
    """The reference needs annotations that sources usually do not have."""
    changed(campaign, "pooled_labels = { posterior = [2], anterior = [1] }\n", "")
    with pytest.raises(ConfigError, match=r"^north: the method 'pooled' needs 'pooled_labels' in \[site.data\]$"):
        config.pooled(campaign, work=Path("work"))


def test_pooled_labels_are_the_targets(campaign):
    """Another label set cannot train one net for the target."""
    changed(campaign, "pooled_labels = { posterior = [2], anterior = [1] }", "pooled_labels = { anterior = [1] }")
    with pytest.raises(ConfigError, match=r"north: 'pooled_labels' expected the labels of harbour"):
        config.pooled(campaign, work=Path("work"))


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("background", "backgruond", r"north, \[site.data\]: unknown key 'backgruond'; known keys are folder,"),
        ("gamma", "gama", r"north, \[site.scanner\]: unknown key 'gama'; known keys are gain,"),
        ("weights", "wights", r"harbour, \[site.policy\]: unknown key 'wights'"),
        ("[site.scanner]", "[site.skanner]", r"north in campaign.toml: unknown key 'skanner'"),
        (
            "[site.scanner]",
            "[site.hardware]\ngpus = 2\n[site.scanner]",
            r"north, \[site.hardware\]: unknown key 'gp",
        ),
        ('role = "source"', 'role = "sauce"', "'role' expected source or target, got 'sauce'"),
        ('folder = "patients"\n', "", r"north, \[site.data\]: 'folder' is missing"),
        ('folder = "patients"', "folder = 3", "'folder' expected a text, got 3"),
        ("labels = { anterior = [1] }", "labels = {}", "'labels' expected at least one label, got none"),
        ("{ anterior = [1] }", "{ anterior = [2] }", "value 2 of 'labels' is both 'background' and 'anterior'"),
        ("{ anterior = [1] }", "{ anterior = [0] }", "value 0 of 'labels' is both 'background' and 'anterior'"),
        ("{ anterior = [1] }", "{ anterior = [1.5] }", "'labels.anterior' expected whole numbers"),
        ("{ anterior = [1] }", '{ anterior = "brats:heart" }', "expected whole numbers or TABLE:NAME"),
        ('"0:40"', '"40:0"', "the slice '40:0' holds no case"),
        ('"0:40"', '"0-40"', "a slice of cases looks like '0:60', got '0-40'"),
        ("shuffle = 3, ", "", "cases: 'shuffle' is missing$"),
        ("[2, 2, 2.5]", "[2, 2]", "'spacing_mm' expected one or three positive lengths"),
        ("[2, 2, 2.5]", "[2, 2, 0]", "'spacing_mm' expected one or three positive lengths"),
        ("gamma = 1.3", "gamma = 0", "'gamma' expected a positive number, got 0.0"),
        ("gamma = 1.3", "noise = -1", "'noise' expected no negative number, got -1.0"),
        ("train = 4", "train = -4", "'train' expected a number of cases, got -4"),
        ("train = 4", "train = true", "'train' expected a whole number, got True"),
        ("weights = true", "weights = 1", "'weights' expected true or false, got 1"),
        ("weights = true", 'fisher = "some"', "'fisher' expected none or channel or full, got 'some'"),
        ("weights = true", "epsilon = -1.0", "'epsilon' expected no negative number"),
        ('roles = ["target"]', 'roles = ["boss"]', "'roles' expected source or target, got 'boss'"),
        ("train = 4", 'control = "shuffled"', "'control' expected shuffled-labels or .* or change-x30, got 'shuffled'"),
        ("train = 4", "regions = {}", "'regions' expected a table of lists of labels, got {}"),
        (
            "train = 4",
            'regions = { all = ["anterior", "tail"] }',
            "'regions.all' expected labels of anterior, posterior, got 'tail'",
        ),
        ("train = 4", "regions = { all = [] }", "'regions.all' expected at least one label, got none"),
        ("train = 4", 'patient = "no group"', "'patient' expected a pattern with one group"),
        ("train = 4", 'layout = "phantom"', "the table 'phantom' and the layout 'phantom' belong together"),
        ('name = "harbour"', 'name = "../harbour"', "a name is up to 64 letters, digits, dots and dashes"),
        ('name = "harbour"', 'name = "north"', "campaign.toml has two sites of the name 'north'"),
    ],
)
def test_what_is_wrong_in_a_campaign_is_named(campaign, old, new, sentence):
    """Each mistake is told with the site, the table and the key."""
    changed(campaign, old, new)
    with pytest.raises(ConfigError, match=sentence):
        [site(campaign, name) for name in config.names(campaign)]


def test_files_that_are_none_are_named(tmp_path):
    """A missing file, one that is not TOML, one without sites, and a site that is not in it."""
    with pytest.raises(ConfigError, match="there is no file"):
        config.names(tmp_path / "none.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("[[site]")
    with pytest.raises(ConfigError, match=r"bad.toml is not TOML: "):
        config.names(bad)
    bad.write_text("[campaign]")
    with pytest.raises(ConfigError, match=r"bad.toml has no \[\[site\]\]"):
        config.names(bad)
    bad.write_text(CAMPAIGN)
    with pytest.raises(ConfigError, match=r"bad.toml has no site 'east'; its sites are north, harbour"):
        site(bad, "east")


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        ("[scanner]\nnoise = 0.1\n", "site.toml: unknown key 'scanner'"),
        ("[[site2]]\n", "site.toml: unknown key 'site2'"),
    ],
)
def test_simulated_scanners_are_for_simulations(tmp_path, extra, sentence):
    """A hospital's own file has its own tables and no others."""
    own = tmp_path / "site.toml"
    own.write_text(HOSPITAL + extra)
    with pytest.raises(ConfigError, match=sentence):
        config.from_file(own)


def test_controls_are_for_simulations(tmp_path):
    """No hospital trains on shuffled labels."""
    own = tmp_path / "site.toml"
    own.write_text(HOSPITAL.replace("[policy]", 'control = "shuffled-labels"\n[policy]'))
    with pytest.raises(ConfigError, match="'control' is for simulations only"):
        config.from_file(own)


@pytest.mark.parametrize("path", ["examples/hippocampus.toml", "fedmerge/default.toml"])
def test_the_campaigns_that_we_ship_can_be_read(path):
    """Every site of both files, and their pooled reference."""
    file = Path(__file__).parent.parent / path
    for name in config.names(file):
        assert site(file, name).name == name
    assert [s.name for s in config.pooled(file, work=Path("work"))] == ["north", "south"]
