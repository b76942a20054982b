"""Several targets, unlike channels, and what a run leaves for the next one."""

import json
import shutil

import nibabel
import pytest
from small import campaign, hospitals
from test_campaign import run

from fedmerge.errors import ConfigError
from server import plan


@pytest.fixture(scope="module")
def coast(tmp_path_factory):
    """The tiny hospitals and a fourth one, whose images have two channels."""
    folder = hospitals(tmp_path_factory.mktemp("coast"))
    shutil.copytree(folder / "harbour", folder / "bay")
    for path in sorted((folder / "bay/imagesTr").iterdir()):
        image = nibabel.load(path)
        name = path.name.removesuffix(".nii.gz").replace("harbour", "bay")
        for channel, scale in enumerate((1.0, -2.0)):
            changed = nibabel.Nifti1Image(image.get_fdata() * scale, image.affine)
            nibabel.save(changed, path.with_name(f"{name}_{channel:04d}.nii.gz"))
        path.unlink()
        label = folder / "bay/labelsTr" / path.name
        label.rename(label.with_name(f"{name}.nii.gz"))
    told = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0}}
    (folder / "bay/dataset.json").write_text(json.dumps(told))
    path = campaign(folder)
    path.write_text(
        path.read_text()
        + """
[[site]]
name = "bay"
role = "target"
[site.data]
folder = "bay"
labels = { cube = [2], ball = [1] }
train = 3
validate = 1
test = 2
"""
    )
    return path


def test_every_target_gets_its_rows_its_ratios_and_its_model(coast, tmp_path):
    """Two targets of one campaign: own rows, own merged and fine-tuned files, the sources trained once."""
    results = run(coast, tmp_path, "none,transfer:north,t-imm", nodes=4)
    assert {(r["target"], r["method"]) for r in results["rows"]} == {
        (t, m) for t in ("harbour", "bay") for m in ("none", "transfer:north", "t-imm")
    }
    assert {r["target"]: r["target_cases"] for r in results["rows"]} == {"harbour": 2, "bay": 3}
    assert [r["target"] for r in results["ratios"]] == ["harbour", "bay"]
    for target in ("harbour", "bay"):
        names = {p.name.split("-seed")[0] for p in (tmp_path / "models" / target).glob("*.fine-tuned.safetensors")}
        assert names == {"none", "transfer-north", "t-imm"}
    assert {r["status"] for r in results["rows"]} == {"ok"}
    labels = [list(r["cases"][0]["dice"]) for r in results["rows"] if r["target"] == "bay"]
    assert labels[0] == ["cube", "ball"]


def test_pooled_is_refused_where_the_sources_images_have_other_channels(coast, tmp_path):
    """One net cannot read one channel and two: a sentence before anything is trained."""
    with pytest.raises(ConfigError, match="'pooled' for bay: expected 2 image channels at north, got 1"):
        run(coast, tmp_path, "pooled", nodes=4)
    assert not (tmp_path / "server/contributions").exists()


def test_a_stem_with_other_channels_is_the_tasks_own(coast, tmp_path):
    """With one and two channels in a campaign the stem is not merged, and everything behind it is."""
    results = run(coast, tmp_path, "t-imm", nodes=4)
    groups = set(results["ratios"][0]["groups"])
    assert groups
    assert not any("stem" in group for group in groups)
    alone = run(campaign(coast.parent, name="alone.toml"), tmp_path / "alone", "t-imm")
    assert set(alone["ratios"][0]["groups"]) - groups == {"stem"}


def test_the_resolved_campaign_is_the_same_plan_from_anywhere(coast, tmp_path):
    """campaign.toml of a run, read in another folder, runs to the same numbers."""
    first = run(coast, tmp_path / "first", "imm-mode", nodes=4)
    again = run(tmp_path / "first/campaign.toml", tmp_path / "again", "imm-mode", nodes=4)
    assert [r["dice"] for r in again["rows"]] == [r["dice"] for r in first["rows"]]
    assert plan.read(tmp_path / "first/campaign.toml").residents == ("north", "south", "harbour", "bay")
    assert again["campaign"] == {**first["campaign"], "site": again["campaign"]["site"]}


def test_a_chain_of_another_number_is_another_training(coast, tmp_path):
    """Chains 0 and 1 share neither ancestor nor contributions; their rows stand side by side."""
    results = run(coast, tmp_path, "imm-mode", nodes=4, chains="0,1")
    assert len(list((tmp_path / "server/contributions").iterdir())) == 4
    assert [(r["chain"], r["target"]) for r in results["rows"] if r["stage"] == "start"] == [
        (0, "harbour"), (1, "harbour"), (0, "bay"), (1, "bay"),
    ]  # fmt: skip
    dice = {r["chain"]: [c["dice"] for c in r["cases"]] for r in results["rows"] if r["stage"] == "fine-tuned"}
    assert dice[0] != dice[1]
