"""Nets and methods of other packages, which are real ones: their metadata lies on `sys.path` as pip writes it."""

import json
import re
import sys

import pytest
import torch
from made_plugins import ENTRIES, install, of_the_page
from small import campaign, hospitals

from fedmerge import answers, fusion, nets, params, partition, plugins, results, training, wire
from fedmerge.cli import predict
from fedmerge.errors import ConfigError, NetError
from fedmerge.fusion import foreign, recipe, rules
from fedmerge.records import Settings
from server import inprocess
from server.app import app as server_app
from sites import config, inbound
from sites.app import app as client_app

DEMO = {"name": "demo-net", "width": 3}
CHANNELS = {"in_channels": 1, "out_channels": 3}


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A folder on `sys.path`; modules that a test imports from it are forgotten afterwards."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
            del sys.modules[name]
    plugins._digest.cache_clear()
    plugins._declared.cache_clear()


@pytest.fixture
def demo(path):
    """The package of the page on extending."""
    return install(path)


def test_a_net_of_another_package_is_built_from_its_settings(demo):
    """Its function gets channels and settings, defaults are filled in, and the package stands in the settings."""
    settings = nets.canonical({"name": "demo-net"}, **CHANNELS)
    assert re.fullmatch(r"demo-nets 1\.0 sha256:[0-9a-f]{16}", settings.pop("package"))
    assert settings == {"name": "demo-net", **CHANNELS, "width": 4}
    net = nets.build(DEMO, **CHANNELS, seed=0)
    assert net(torch.zeros(2, 1, 4, 4, 4)).shape == (2, 3, 4, 4, 4)
    assert "demo-net" in nets.names()


def test_its_weights_are_a_function_of_the_seed_and_leave_the_global_generator_alone(demo):
    """The net's own modules draw them: PReLU begins where the package wants it."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (params.of(nets.build(DEMO, **CHANNELS, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert params.digest(first) == params.digest(again) != params.digest(other)
    assert first["act.weight"].item() == pytest.approx(0.1)


COARSE = """
from torch import nn


class Net(nn.Module):
    def __init__(self, inside, outside):
        super().__init__()
        self.body = nn.Conv3d(inside, 4, 3, padding=1)
        self.fine, self.coarse = nn.Conv3d(4, outside, 1), nn.Conv3d(4, outside, 1)

    def forward(self, x):
        return self.fine(self.body(x))

    def levels(self, x):
        body = self.body(x)
        return [self.fine(body), self.coarse(nn.functional.avg_pool3d(body, 2))]


def build(in_channels, out_channels):
    return Net(in_channels, out_channels)
"""


def test_a_net_of_another_package_may_have_coarser_levels(path):
    """Deep supervision trains its coarser head, which is a head; what it answers is the finest level."""
    install(path, modules={"coarse": COARSE}, entries={"fedmerge.nets": {"coarse": "coarse:build"}})
    net = nets.build({"name": "coarse"}, **CHANNELS, seed=0)
    assert {name.partition(".")[0] for name in nets.heads({"name": "coarse"}, **CHANNELS)} == {"fine", "coarse"}
    before = net.coarse.weight.detach().clone()
    x, y = torch.randn(1, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0)), torch.ones(1, 1, 4, 4, 4).long()
    training.Run(net, lambda _: (x, y), Settings(steps=1, lr=0.1, deep=True), seed=0, device="cpu").advance(1)
    assert not torch.equal(net.coarse.weight, before)
    assert torch.equal(net(x), net.levels(x)[0])


def test_what_the_net_declares_is_what_is_fused(demo):
    """`project` keeps its shape whatever the labels are, and is a head all the same; PReLU is nobody else's."""
    net = nets.on_meta(DEMO, **CHANNELS)
    assert next(net.parameters()).device.type == "meta"
    parts = partition.of(net, nets.heads(DEMO, **CHANNELS))
    assert parts.fusable == ("stem.weight", "stem.bias", "body.weight", "body.bias")
    assert parts.norms == ("norm.weight", "norm.bias")
    assert parts.heads == ("project.weight", "project.bias", "answer.weight", "answer.bias")
    assert parts.other == ("act.weight",)


def test_a_stem_of_other_channels_is_kept_apart_though_it_is_declared_fusable(demo):
    """A declaration says what may be fused, shapes say what can be."""
    other = params.shapes(nets.on_meta(DEMO, in_channels=2, out_channels=3))
    parts = partition.of(nets.on_meta(DEMO, **CHANNELS), nets.heads(DEMO, **CHANNELS), others=[other])
    assert parts.other == ("stem.weight", "act.weight")


def test_the_campaign_goes_before_the_declaration(demo):
    """What it lists as specific or fusable is so; heads stay heads."""
    net, heads = nets.on_meta(DEMO, **CHANNELS), nets.heads(DEMO, **CHANNELS)
    parts = partition.of(net, heads, specific=["body"], fusable=["norm", "act"])
    assert parts.fusable == ("stem.weight", "stem.bias", "norm.weight", "norm.bias", "act.weight")
    assert parts.other == ("body.weight", "body.bias")
    with pytest.raises(NetError, match=r"'project\.\w+' belongs to a head"):
        partition.of(net, heads, fusable=["project"])


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('"other": ["act"],', "", r"does not say what 'act\.weight' is, and 0 more"),
        ('["stem", "body"]', '["stem", "body", "act"]', r"has 'act\.weight' under fusable and under other"),
        (
            '"heads": ["project", "answer"]',
            '"heads": ["project"], "fusable2": ["answer"]',
            "expected the words fusable",
        ),
        ('["stem", "body"]', '["stem", "body", "tail"]', "no parameter or layer 'tail'"),
        (
            '["project", "answer"],',
            '["project"],\n "norms": ["norm", "answer"],',
            r"'answer\.weight' under norms.*head",
        ),
        ('["stem", "body"]', '"stem"', "expected lists of names"),
    ],
)
def test_a_declaration_that_does_not_fit_the_net_is_refused(path, old, new, sentence):
    """Every parameter once, and what depends on the labels is a head."""
    text = of_the_page()["demo_nets"]
    if '"norms"' in new:
        text = text.replace('        "norms": ["norm"],\n', "")
    assert old in text
    install(path, modules={"demo_nets": text.replace(old, new)}, entries={"fedmerge.nets": ENTRIES["fedmerge.nets"]})
    with pytest.raises(NetError, match=sentence):
        nets.heads(DEMO, **CHANNELS)


def edited(path, old, new, **more):
    """The package of the page with a change in the module of its net."""
    text = of_the_page()["demo_nets"]
    assert old in text
    install(path, modules={"demo_nets": text.replace(old, new)}, **more)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("from torch import nn", "import nothing_like_this", r"net 'demo-net' of the package demo-nets 1\.0 "
         r"\(demo_nets:build\) cannot be imported: ModuleNotFoundError"),
        ("def build(", "def make(", "cannot be imported: AttributeError"),
        ("def build(in_channels, out_channels, *, width=4):", "def build(channels, out_channels, *, width=4):",
         "expected the arguments in_channels, out_channels, got channels"),
        ("*, width=4", "*, width=None", "the setting 'width' expected a default that a campaign file can hold"),
        ("*, width=4", "*, width=4, patch=3", "the setting 'patch' has the name of a key"),
    ],
)  # fmt: skip
def test_a_package_that_breaks_the_contract_is_an_error_that_names_it(path, old, new, sentence):
    """Package, version and entry stand in the sentence."""
    edited(path, old, new)
    with pytest.raises(ConfigError, match=sentence):
        nets.canonical(DEMO, **CHANNELS)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("return Net(in_channels, out_channels, width)", "return 3", "expected a torch.nn.Module with parameters, got"),
        ("return Net(in_channels, out_channels, width)", "return Net(in_channels, out_channels, width).double()",
         r"'stem\.weight' expected torch\.float32, got torch\.float64"),
    ],
)  # fmt: skip
def test_a_function_that_builds_no_net_is_refused(path, old, new, sentence):
    """With what came in place of it."""
    edited(path, old, new)
    with pytest.raises(NetError, match=sentence):
        nets.build(DEMO, **CHANNELS, seed=0)


def test_impossible_settings_are_told_before_anything_is_built(demo):
    """A key that the function does not know, another type, and what the function itself refuses."""
    with pytest.raises(ConfigError, match="unknown setting 'depth', expected one of width"):
        nets.canonical({"name": "demo-net", "depth": 3}, **CHANNELS)
    with pytest.raises(ConfigError, match="width expected int, got 'wide'"):
        nets.canonical({"name": "demo-net", "width": "wide"}, **CHANNELS)
    with pytest.raises(NetError, match="cannot be built: ValueError: width expected 1 to 256, got 257"):
        nets.on_meta({"name": "demo-net", "width": 257}, **CHANNELS)


@pytest.mark.parametrize(
    ("old", "new", "patch", "sentence"),
    [
        ("self.stem = nn.Conv3d(in_channels, width, 3, padding=1)", "self.stem = nn.Conv3d(in_channels, width, 3)",
         (8, 8, 8), r"expected the shape \(2, 2, 8, 8, 8\), got \(2, 2, 6, 6, 6\)"),
        ("return self.answer(self.project(self.act(self.body(x))))", "return [self.answer(x)]",
         (8, 8, 8), "got a list"),
        ("width=4", "width=4", (8, 8), "does not take the patch 8x8"),
    ],
)  # fmt: skip
def test_a_patch_that_the_net_does_not_answer_is_told_before_training(path, old, new, patch, sentence):
    """By a pass without numbers."""
    edited(path, old, new)
    with pytest.raises(ConfigError, match=sentence):
        nets.check_patch({"name": "demo-net"}, patch)


def test_a_pass_that_needs_numbers_is_left_to_the_training(path):
    """It cannot be tried without."""
    edited(path, "        x = self.act(", "        float(x.sum())\n        x = self.act(")
    nets.check_patch({"name": "demo-net"}, (8, 8, 8))


def test_a_function_says_that_its_net_classifies(path):
    """By an attribute; without it a net is for segmentation."""
    edited(path, "def build(", "def other(in_channels, out_channels):\n    ...\n\n\ndef build(")
    assert answers.of({"name": "demo-net"}).name == "segmentation"
    text = of_the_page()["demo_nets"] + '\nbuild.fedmerge_task = "classification"\n'
    install(path, name="again", modules={"again": text}, entries={"fedmerge.nets": {"again": "again:build"}})
    plugins._declared.cache_clear()
    assert answers.of({"name": "again"}).name == "classification"


def test_activations_in_place_are_told_not_to_be(path):
    """As for what is built in."""
    edited(path, "self.act = nn.PReLU(init=0.1)", "self.act = nn.PReLU()\n        self.late = nn.ReLU(inplace=True)")
    assert not any(getattr(m, "inplace", False) for m in nets.build(DEMO, **CHANNELS, seed=0).modules())


@pytest.mark.parametrize(("group", "name"), [("fedmerge.nets", "unet"), ("fedmerge.methods", "mean")])
def test_a_name_that_is_built_in_is_refused(path, group, name):
    """Nobody gets another net, or another mean, than they think; other names go on working."""
    install(path, name="sly", entries={group: {name: "demo_nets:build"}})
    ask = (lambda: nets.canonical({"name": name}, **CHANNELS)) if "nets" in group else lambda: fusion.method(name, [])
    with pytest.raises(ConfigError, match=rf"'{name}' of the package sly 1\.0 .* has the name of one that is built in"):
        ask()
    assert nets.canonical({"name": "segresnet"}, **CHANNELS)
    assert fusion.method("t-imm", ["north"])


def test_two_packages_of_one_name_are_refused(demo):
    """Both are named."""
    install(demo, name="rival", version="2.1", modules={})
    with pytest.raises(ConfigError, match=r"of the package (demo-nets 1\.0|rival 2\.1) .* the same name as the net"):
        nets.canonical(DEMO, **CHANNELS)


def test_what_nobody_installed_is_unknown():
    """The sentence lists what there is."""
    with pytest.raises(ConfigError, match=r"name expected one of isensee2017, .*resnet.*, got 'demo-net'"):
        nets.canonical(DEMO, **CHANNELS)
    with pytest.raises(ConfigError, match="'steady' is unknown; the known ones are none, transfer"):
        fusion.method("steady", ["north"])


def test_the_stamp_follows_the_code_and_imports_nothing(path):
    """A digit of the source makes another one; a package's files count together."""
    install(path)
    before = nets.stamp("demo-net")
    assert "demo_nets" not in sys.modules
    plugins._digest.cache_clear()
    (path / "demo_nets.py").write_text(of_the_page()["demo_nets"].replace("width=4", "width=5"))
    assert nets.stamp("demo-net") != before
    folder = path / "several"
    (folder / "inner").mkdir(parents=True)
    for file in (folder / "__init__.py", folder / "inner/__init__.py"):
        file.write_text("raise RuntimeError('imported')\n")
    first = plugins.Plugin("net", "x", "several 1", "several.inner:build").stamp
    plugins._digest.cache_clear()
    (folder / "inner/__init__.py").write_text("")
    assert plugins.Plugin("net", "x", "several 1", "several.inner:build").stamp != first


def hospital(folder, nets_line):
    """A hospital's own site with a line of its policy on nets."""
    (folder / "data").mkdir()
    (folder / "site.toml").write_text(
        f"""
[site]
name = "north"
role = "source"
[data]
folder = "data"
modalities = ["T1"]
labels = {{ ball = [1] }}
[policy]
roles = ["source"]
campaigns = ["*"]
labels = ["*"]
nets = {nets_line}
"""
    )
    return config.from_file(folder / "site.toml")


def asked(settings):
    """A task that names a net, and another one as deep as a sealed file has it."""
    net = {"settings": settings, "in_channels": 1}
    return {
        "campaign": "first",
        "net": {"settings": {"name": "unet"}, "in_channels": 1},
        "sealed": {"start": {"net": net}},
    }


def test_a_policy_that_does_not_list_a_net_declines_it_before_it_is_imported(demo, tmp_path):
    """Also where it is the net of another site's file."""
    site = hospital(tmp_path, '["unet"]')
    with pytest.raises(inbound.Declined, match="policy line 'nets' does not list 'demo-net'"):
        inbound.check(site, "contribute", asked({"name": "demo-net"}))
    assert "demo_nets" not in sys.modules


def test_another_version_of_the_package_is_noticed_at_the_door(demo, tmp_path):
    """The sentence has both, and nothing is imported; the same one passes."""
    site = hospital(tmp_path, '["unet", "demo-net"]')
    here = nets.stamp("demo-net")
    inbound.check(site, "contribute", asked({"name": "demo-net", "package": here}))
    for other in (here.replace("1.0", "1.1"), here[:-1] + "g", ""):
        with pytest.raises(inbound.Declined, match=rf"'demo-net' expected .*, and the one here is of {here}"):
            inbound.check(site, "contribute", asked({"name": "demo-net", "package": other}))
    with pytest.raises(
        inbound.Declined, match=r"'unet' expected of demo 1\.0, and the one here is of no other package"
    ):
        inbound.check(site, "contribute", asked({"name": "unet", "package": "demo 1.0"}))
    assert "demo_nets" not in sys.modules
    with pytest.raises(ConfigError, match=rf"package expected {here}, got demo-nets 0.9"):
        nets.canonical({**DEMO, "package": "demo-nets 0.9"}, **CHANNELS)


def test_what_is_built_in_is_the_table_of_rules():
    """A plug-in's row may use each of them."""
    assert set(foreign.BUILT_IN) == {*rules.RULES, *recipe.COMBINED}


def rows(path, **parts):
    """The page's method `steady` with other parts, installed; asks for it."""
    names = ["name", "sources", "training", "rule", "grain", "chooser", "heads", "norms", "warm_up", "paper"]
    made = dict(
        zip(names, ["steady", "all", "plain", "mean", "layer", "fitted", "fresh", "kept", True, "x"], strict=True)
    )
    text = f"from fedmerge.fusion import Method\nSTEADY = Method(**{ {**made, **parts}!r})\n"
    install(path, modules={"demo_methods": text}, entries={"fedmerge.methods": {"steady": "demo_methods:STEADY"}})
    return fusion.method("steady+wise-ft", ["north", "south"])


def test_a_row_of_another_package_takes_options_and_sources(demo):
    """As rows of the table do."""
    row = fusion.method("steady:south+wise-ft", ["north", "south"])
    assert (row.name, row.rule, row.only, row.wise_ft) == ("steady:south+wise-ft", "mean", ("south",), True)
    assert not recipe.combines(row)
    assert recipe.combines(fusion.method("median", ["north"]))


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"name": "other"}, "its row is called 'other', expected the entry point's own name"),
        ({"training": "backwards"}, "training expected one of plain, .*, got 'backwards'"),
        ({"grain": "voxel"}, "grain expected one of model, layer, kernel, got 'voxel'"),
        ({"rule": "median"}, "rule expected one of mean, mode, .* or a function, got 'median'"),
        ({"sources": "one"}, "sources is 'one', expected 'all'"),
        ({"rule": "ties"}, "'ties' has no ratios"),
    ],
)
def test_a_row_that_could_not_be_in_the_table_is_refused(path, parts, sentence):
    """Word by word."""
    with pytest.raises(ConfigError, match=sentence):
        rows(path, **parts)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("{}", "fails: KeyError"),
        ("{n: models[0][n].double() for n in names}", r"expected torch\.float32 \(2,\), got torch\.float64"),
        ("{n: models[0][n][:1] for n in names}", r"expected torch\.float32 \(2,\), got torch\.float32 \(1,\)"),
        ("{n: models[0][n] / 0 for n in names}", "expected finite values"),
    ],
)
def test_what_a_rule_makes_is_looked_at(path, body, sentence):
    """Names, shapes, types, finite numbers; and its inputs are its own to spoil."""
    text = of_the_page()["demo_methods"]
    text = re.sub(r"    return \{name: .*", f"    models[0]['w'] += 1\n    return {body}", text)
    install(path, modules={"demo_methods": text})
    models = [{"w": torch.ones(2)}, {"w": torch.zeros(2)}]
    with pytest.raises(NetError, match=sentence):
        recipe.combine(fusion.method("median", ["a", "b"]), models[0], models, ["w"], scale=1.0, density=1.0)
    assert models[0]["w"].tolist() == [1.0, 1.0]


def test_a_model_of_other_code_is_told_and_read_all_the_same(demo, tmp_path):
    """Where all parameters fit."""
    settings = {**nets.canonical({"name": "demo-net"}, **CHANNELS), "package": "demo-nets 0.9 sha256:0"}
    weights = params.of(nets.build({"name": "demo-net"}, **CHANNELS, seed=3))
    info = {"net": settings, "in_channels": 1, "labels": ["ball", "cube"], "channels": ["T1"], "patch": [8, 8, 8]}
    wire.write_model(weights, info, tmp_path / "model.safetensors")
    with pytest.warns(UserWarning, match=r"made with demo-nets 0\.9 sha256:0, and demo-nets 1\.0 sha256:\w+ is here"):
        net, told = predict.load(tmp_path / "model.safetensors")
    assert params.digest(params.of(net)) == params.digest(weights)
    assert told["net"]["package"] == nets.stamp("demo-net")


def test_a_campaign_runs_with_the_net_and_the_methods_of_a_package(demo, tmp_path):
    """From training to a scored model: the median of two is their mean, and every file names the package."""
    plan = campaign(hospitals(tmp_path / "data", cases=7))
    text = plan.read_text().replace('name = "isensee2017"\nbase_filters = 2\ndepth = 2', 'name = "demo-net"\nwidth = 2')
    plan.write_text(text)
    out = tmp_path / "out"
    run = {"campaign": str(plan), "out": str(out), "methods": "median,steady", "workers": 2}
    inprocess.run(server_app, client_app, run, 3, 2)
    found = results.read(out)
    assert [row["status"] for row in found["rows"]] == ["ok"] * 6, [row["error"] for row in found["rows"]]
    assert found["campaign"]["net"]["package"] == nets.stamp("demo-net")
    stored = [wire.read(file) for file in (out / "server/contributions").iterdir()]
    assert {c.net["package"] for c in stored} == {nets.stamp("demo-net")}
    (merged,) = (out / "models/harbour").glob("median*.fused.safetensors")
    for name, value in wire.read_model(merged)[0].items():
        torch.testing.assert_close(value, (stored[0].weights[name] + stored[1].weights[name]) / 2)
    (fitted,) = found["ratios"]
    assert fitted["method"] == "steady"
    assert fitted["groups"].keys() == {"stem", "body"}
    assert json.loads(json.dumps(found["campaign"]["net"]))["width"] == 2
