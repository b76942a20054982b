"""A target that asks its validation cases which sources to merge, and what a merge would be without each of them."""

import shutil

import pytest
from small import campaign, hospitals

from fedmerge import nets, params, results, tasks, transport, wire
from fedmerge.errors import CampaignStopped, ConfigError
from fedmerge.fusion import leaving
from server import inprocess
from server import plan as plans
from server.app import app as server_app
from sites import admission, config, source, trainer
from sites.app import app as client_app

BAD = "t-imm+admit,t-imm:north,mean+stitch+admit,mean:north+stitch"
CLEAN = "t-imm,t-imm+admit,mean+stitch,mean"


def written(folder, name, control="", head="", policy="", validate=2):
    """The campaign's file: two sources of balls, a target of balls; `control` makes south a bad one."""
    path = campaign(folder, name=f"{name}.toml", head=f"max_change = 1e12\n{head}")
    own = f'control = "{control}"' if control else ""
    for old, new in (
        ("labels = { cube = [2] }\nbackground = [1]", f"labels = {{ ball = [1] }}\nbackground = [2]\n{own}"),
        ("labels = { ball = [1], cube = [2] }\ntrain", "labels = { ball = [1] }\nbackground = [2]\ntrain"),
        ("steps = 6", "steps = 40"),
        ("steps = 4\n", "steps = 20\n"),
        ("validate = 2\ntest = 3", f"validate = {validate}\ntest = 3\n{policy}"),
    ):
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    return path


def run(path, out, methods, app=client_app, reuse=""):
    """Its results; the contributions of the run `reuse` are taken again."""
    options = {"campaign": str(path), "out": str(out), "methods": methods, "workers": 1, "resume": True}
    options |= {"reuse": str(reuse)} if reuse else {}
    inprocess.run(server_app, app, options, 3, 1)
    return results.read(out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The hospitals' files."""
    return hospitals(tmp_path_factory.mktemp("admission"))


@pytest.fixture(scope="module")
def bad(folder):
    """With random weights and a giant Fisher from south."""
    return run(written(folder, "bad", "random-giant"), folder / "bad", BAD)


@pytest.fixture(scope="module")
def clean(folder):
    """With two good sources."""
    return run(written(folder, "clean"), folder / "clean", CLEAN)


def stages(found, method):
    """A method's rows by stage, without what a trial of other merges adds to them."""
    rows = {row["stage"]: row for row in found["rows"] if row["method"] == method}
    assert {row["status"] for row in rows.values()} == {"ok"}, [row["error"] for row in rows.values()]
    return {name: (row["dice"], row["cases"], row["curve"], row["contributions"]) for name, row in rows.items()}


def line(found, key, method):
    """A method's line of a list of results.json."""
    (one,) = [one for one in found[key] if one["method"] == method]
    return one


def steps(found, method):
    """The target's steps at the end of a row."""
    return max(row["target_steps"] for row in found["rows"] if row["method"] == method)


@pytest.mark.parametrize(
    ("method", "alone", "warmed"),
    [
        ("t-imm+admit", "t-imm:north", 3 * 20),
        ("mean+stitch+admit", "mean:north+stitch", 0),
    ],
)
def test_a_source_of_random_weights_is_not_admitted_and_the_row_is_that_of_the_others(bad, method, alone, warmed):
    """To the last digit, at every stage; what the trials took is counted."""
    told = line(bad, "admissions", method)
    assert told["admitted"] == ["north"]
    assert list(told["scores"]) == ["north/south", "north", "south"]
    assert told["scores"]["north"] > told["scores"]["north/south"] + leaving.margin(0.06, 2)
    assert told["sentence"].startswith(
        f"{method} admitted north, not south: validation Dice {told['scores']['north']:.3f}"
    )
    assert stages(bad, method) == stages(bad, alone)
    assert set(stages(bad, method)["start"][-1]) == {"north"}
    assert line(bad, "ratios", method)["sites"] == ["north"]
    assert steps(bad, method) == steps(bad, alone) + warmed


def test_two_good_sources_are_both_admitted_and_the_row_is_the_plain_one(clean):
    """Although one of them alone is a little better after the warm-up: that is less than chance may do."""
    told = line(clean, "admissions", "t-imm+admit")
    assert told["admitted"] == ["north", "south"]
    assert max(told["scores"].values()) > told["scores"]["north/south"]
    assert stages(clean, "t-imm+admit") == stages(clean, "t-imm")
    assert steps(clean, "t-imm+admit") == steps(clean, "t-imm") + 3 * 20
    left = [{**line(clean, "leave_one_out", name), "method": ""} for name in ("t-imm", "t-imm+admit")]
    assert left[0] == left[1]


def test_without_a_source_of_two_the_adapted_net_has_the_others_filters(folder, clean):
    """Heads and norms as they were adapted, P of south in the place of the merge: scored again here."""
    told = line(clean, "leave_one_out", "t-imm")
    curve = stages(clean, "t-imm")["adapted"][2]
    assert (told["stage"], [20, told["score"]]) == ("adapted", curve[-1])
    (path,) = (folder / "clean/models/harbour").glob("t-imm-seed*.fused.safetensors")
    merged = wire.read_model(path)[0]
    adapted = [
        wire.params_from_bytes(p.read_bytes())
        for p in (folder / "clean/sites/harbour/rows").glob("*/adapted.safetensors")
    ]
    own = next(
        one for one in adapted if all(params.digest({n: one[n]}) == params.digest({n: v}) for n, v in merged.items())
    )
    plan, site = plans.read(folder / "clean.toml"), config.from_campaign(folder / "clean.toml", "harbour", work=folder)
    held = source.parts(site, plan.patch, seed=0, target_cases=2)["validate"]
    like = tasks.Net(plan.net, 1, tuple(site.data.labels), plan.patch)
    score = trainer.validator(site, held, like, plan.precision)
    net = nets.build(plan.net, in_channels=1, out_channels=2, seed=0)
    for gone, other in (("north", "south"), ("south", "north")):
        (left,) = [c for p in (folder / "clean/server/contributions").iterdir() if (c := wire.read(p)).site == other]
        params.load(net, own | {name: left.weights[name] for name in merged})
        assert score(net) == told["without"][gone]


def test_a_fresh_head_says_nothing_and_is_not_measured(clean):
    """Of rows without an adaptation only those with stitched heads are."""
    assert {(one["method"], one["stage"]) for one in clean["leave_one_out"]} == {
        ("t-imm", "adapted"), ("t-imm+admit", "adapted"), ("mean+stitch", "start"),
    }  # fmt: skip


@pytest.mark.parametrize("forgotten", ["clean/server/phases", "clean/sites/harbour/rows"])
def test_a_resumed_campaign_tells_the_same(folder, clean, tmp_path, forgotten):
    """What the server has lost the site gives again, and the other way round."""
    shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / forgotten)
    again = run(folder / "clean.toml", tmp_path / "copy/clean", CLEAN)
    for key in ("leave_one_out", "ratios"):
        assert again[key] == clean[key]
    assert [one["scores"] for one in again["admissions"]] == [one["scores"] for one in clean["admissions"]]
    assert all(stages(again, name) == stages(clean, name) for name in CLEAN.split(","))


def test_an_admission_goes_on_where_it_was_interrupted(folder, clean, tmp_path, monkeypatch):
    """It dies in the second of three trials: then the second and the third are made."""
    whole, tried = admission._score, []

    def score(site, row, sources):
        tried.append(sources)
        if len(tried) == 2:
            raise OSError("the power is off")
        return whole(site, row, sources)

    monkeypatch.setattr(admission, "_score", score)
    shutil.copytree(folder, tmp_path / "copy")
    for part in ("clean/server/phases", "clean/sites/harbour/rows"):
        shutil.rmtree(tmp_path / "copy" / part)
    with pytest.raises(CampaignStopped, match="harbour"):
        run(folder / "clean.toml", tmp_path / "copy/clean", "t-imm+admit")
    again = run(folder / "clean.toml", tmp_path / "copy/clean", "t-imm+admit")
    assert tried == [("north", "south"), ("south",), ("south",), ("north",)]
    assert line(again, "admissions", "t-imm+admit")["scores"] == line(clean, "admissions", "t-imm+admit")["scores"]


def test_a_target_that_withholds_scores_tells_whom_it_admits_and_nothing_else(folder, clean, tmp_path):
    """The names, without which there is no row."""
    closed = '[site.policy]\nroles = ["target"]\ncampaigns = ["*"]\nnets = ["*"]\nlabels = ["*"]\nmetrics = false\n'
    found = run(written(folder, "closed", policy=closed), tmp_path, "t-imm+admit", reuse=folder / "clean")
    (told,) = found["admissions"]
    assert (told["admitted"], told["scores"]) == (["north", "south"], {})
    assert told["sentence"] == "t-imm+admit admitted north and south"
    assert found["leave_one_out"] == []


def test_without_validation_cases_nobody_can_be_admitted(folder, clean, tmp_path):
    """The row fails with a sentence; a row that admits nobody goes on, and nothing is measured."""
    found = run(written(folder, "blind", validate=0), tmp_path, "t-imm,t-imm+admit", reuse=folder / "clean")
    (failed,) = [row for row in found["rows"] if row["status"] == "failed"]
    assert failed["method"] == "t-imm+admit"
    assert "admits sources by validation cases, and there are none" in failed["error"]
    assert (found["admissions"], found["leave_one_out"]) == ([], [])
    assert stages(found, "t-imm")


def test_a_target_that_admits_whom_nobody_knows_loses_its_row(folder, clean, tmp_path):
    """A name that is not the row's, in the answer or among the scores."""

    def lying(**told):
        def answer(message, context):
            reply = client_app(message, context)
            if message.metadata.message_type == "train.admit" and not reply.has_error():
                task, _ = transport.unpack(reply.content, "harbour")
                reply.content = transport.pack({**task, **told})
            return reply

        return answer

    for number, told in enumerate(({"admitted": ["east"]}, {"admitted": []}, {"scores": {"north/east": 0.5}})):
        found = run(folder / "clean.toml", tmp_path / str(number), "t-imm+admit", lying(**told), folder / "clean")
        assert "harbour: expected to admit some of north, south" in found["rows"][-1]["error"]


def test_admission_needs_a_near_fit(folder):
    """The target would be shown merges of a few sources, from which single ones can be told."""
    with pytest.raises(ConfigError, match=r"t-imm\+admit tries merges of some sources at the target"):
        plans.read(written(folder, "far", head='fit = "far"\nmethod = "t-imm+admit"'))
