"""`fedmerge simulate`, `check` and `predict` on three small hospitals, from files to table."""

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from commandline import command
from safetensors.torch import save_file

from fedmerge import nets, params, report
from fedmerge.cli import predict, simulate
from fedmerge.errors import ConfigError

CAMPAIGN = """
[campaign]
name = "small"
methods = ["none", "imm-mode", "t-imm"]

[net]
name = "isensee2017"
base_filters = 2
depth = 2
patch = [12, 12, 12]

[train]
steps = 4
lr = 0.005
fisher_cases = 2

[adapt]
steps = 2
lr = 0.01

[finetune]
steps = 4
lr = 0.003
validate_every = 2

[[site]]
name = "north"
role = "source"
[site.data]
folder = "north"
labels = { core = [1] }
background = [2]
test = 1

[[site]]
name = "south"
role = "source"
[site.data]
folder = "south"
labels = { shell = [2] }
background = [1]
test = 1

[[site]]
name = "harbour"
role = "target"
[site.data]
folder = "harbour"
labels = { core = [1], shell = [2] }
train = 2
validate = 1
test = 2
"""
AFFINE = np.diag([-2.0, 2.0, 1.5, 1.0]) + np.array([[0, 0, 0, 9.0], [0] * 4, [0] * 4, [0] * 4])


def hospital(folder, cases):
    """Cases of a bright core in a less bright shell, as NIfTI in the Decathlon's layout."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps({"modality": {"0": "T1"}}))
    grid = np.stack(np.meshgrid(*[np.arange(14)] * 3, indexing="ij"), -1)
    for i in range(cases):
        draw = np.random.default_rng([i, *folder.name.encode()])  # no image is at two hospitals
        far = np.linalg.norm(grid - draw.uniform(5, 8, 3), axis=-1)
        label = np.where(far < 2.5, 1, np.where(far < 4.5, 2, 0)).astype(np.uint8)
        image = (100 * label + draw.normal(50, 10, label.shape)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(image, AFFINE), folder / "imagesTr" / f"case_{i}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(label, AFFINE), folder / "labelsTr" / f"case_{i}.nii.gz")


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """The campaign file, hospitals beside it."""
    folder = tmp_path_factory.mktemp("hospitals")
    for name, cases in (("north", 3), ("south", 3), ("harbour", 5)):
        hospital(folder / name, cases)
    (folder / "small.toml").write_text(CAMPAIGN)
    return folder / "small.toml"


@pytest.fixture(scope="module")
def run(campaign, tmp_path_factory):
    """The folder of a finished run over two seeds."""
    out = tmp_path_factory.mktemp("runs") / "small"
    assert command("simulate", campaign, "--out", out, "--seeds", "0-1") == 0
    return out


def test_a_run_leaves_results_of_the_form(run):
    """Every method has its stages for every seed; ratios, forgetting and traffic are there."""
    results = report.read(run)
    stages = {(r["method"], r["seed"], r["stage"]): r["target_steps"] for r in results["rows"]}
    assert stages == {
        (method, seed, stage): steps
        for seed in (0, 1)
        for method in ("none", "imm-mode", "t-imm")
        for stage, steps in (("start", 0), ("adapted", 2), ("fine-tuned", 6))
        if stage != "adapted" or method == "t-imm"
    }
    assert {fitted["method"] for fitted in results["ratios"]} >= {"t-imm"}
    assert results["forgetting"]
    assert results["traffic"]
    for name in ("results.md", "learning_curves.png", "ratios.png", "paired.png", "campaign.toml", "log.txt"):
        assert (run / name).stat().st_size > 0


def test_the_table_and_the_place_of_the_results_are_printed(campaign, run, capsys):
    """`--resume` of a finished run prints the same table again, quickly; progress stays on stderr."""
    before = (run / "results.json").read_bytes()
    assert command("simulate", campaign, "--out", run, "--seeds", "0-1", "--resume") == 0
    shown = capsys.readouterr()
    for line in report.table(report.read(run)):
        assert line.method in shown.out
    assert f"Results: {run / 'results.md'}" in shown.out
    rows = json.loads(before)["rows"]
    again = report.read(run)["rows"]
    assert [(r["method"], r["stage"], r["dice"]) for r in again] == [(r["method"], r["stage"], r["dice"]) for r in rows]


def test_another_run_is_not_overwritten(campaign, run, capsys):
    """A folder that holds a run is refused in a sentence, and left as it is."""
    before = (run / "results.json").stat().st_mtime_ns
    assert command("simulate", campaign, "--out", run) == 2
    assert "--resume continues the run that it holds" in capsys.readouterr().err
    assert (run / "results.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--methods", "t-imm,magic"], "magic"),
        (["--methods", "transfer:west"], "west"),
        (["--seeds", "first"], "--seeds expected whole numbers"),
        (["--seeds", "5-2"], "--seeds expected a range that begins with its smaller number, got '5-2'"),
        (["--from", "nowhere"], "--from expected a folder"),
        (["--from", "/"], "--from expected the folder of an earlier run, got /, which holds none"),
        (["--data", "nowhere"], "--data expected a folder"),
    ],
)
def test_impossible_options_are_told_before_anything_is_written(campaign, tmp_path, words, sentence, capsys):
    """Code 2, one sentence, no folder."""
    assert command("simulate", campaign, "--out", tmp_path / "run", *words) == 2
    shown = capsys.readouterr().err
    assert sentence in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_campaign_file_that_is_missing_is_a_sentence(tmp_path, capsys):
    """The path stands in it."""
    assert command("simulate", tmp_path / "no.toml", "--out", tmp_path / "run") == 2
    assert f"{tmp_path / 'no.toml'}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("ERROR [0123abcd] case_2.nii.gz holds NaN", "south failed: see its log: case_2.nii.gz holds NaN ({log})"),
        (
            "ERROR [0123abcd] unexpected\nTraceback (most recent call last):\n  File\nKeyError: 'x'",
            "south failed: see its log: KeyError: 'x' ({log})",
        ),
    ],
)
def test_in_a_simulation_the_sites_own_log_is_opened(tmp_path, line, told):
    """The reference that a site sent in place of its reason is looked up and replaced by that reason."""
    log = tmp_path / "sites" / "south" / "site.log"
    log.parent.mkdir(parents=True)
    log.write_text(
        f"2026-01-01 10:00:00,000 INFO ready\n2026-01-01 10:00:01,000 {line}\n2026-01-01 10:00:02,000 INFO on\n"
    )
    assert simulate.explained("south failed: see its log [0123abcd]", tmp_path) == told.format(log=log)
    assert simulate.explained("south failed [deadbeef]", tmp_path) == "south failed [deadbeef]"
    assert simulate.explained("nobody failed", tmp_path) == "nobody failed"


def test_a_refusal_is_not_told_twice(tmp_path):
    """What a site refuses it says itself; its log adds nothing."""
    log = tmp_path / "sites" / "south" / "site.log"
    log.parent.mkdir(parents=True)
    log.write_text("2026-01-01 10:00:01,000 WARNING [0123abcd] refused: south: 'a' expected 1, got 2\n")
    sentence = "south failed: south: 'a' expected 1, got 2 [0123abcd]"
    assert simulate.explained(sentence, tmp_path) == sentence.removesuffix(" [0123abcd]")


def test_pooled_without_its_labels_is_told_before_anything_is_written(campaign, tmp_path, capsys):
    """The upper reference needs labels that only a simulation can have."""
    assert command("simulate", campaign, "--out", tmp_path / "run", "--methods", "pooled") == 2
    assert "north: the method 'pooled' needs pooled_labels" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_check_finds_nothing_in_good_hospitals(campaign, capsys):
    """Warnings are told (cases without patients' names), the code is 0, nothing is written beside the files."""
    before = sorted(campaign.parent.rglob("*"))
    assert command("check", campaign) == 0
    shown = capsys.readouterr().out
    assert f"{campaign}: 3 sites, 0 errors, 3 warnings." in shown
    assert "patients could not be checked" in shown
    assert sorted(campaign.parent.rglob("*")) == before


def test_check_names_every_bad_file_at_once(campaign, tmp_path, capsys):
    """One NaN, one undeclared label value and one other affine: three lines, code 2."""
    for name in ("north", "south", "harbour"):
        shutil.copytree(campaign.parent / name, tmp_path / name)
    (tmp_path / "bad.toml").write_text(CAMPAIGN)
    change(tmp_path / "north" / "imagesTr" / "case_1.nii.gz", lambda a: np.where(a == a.max(), np.nan, a))
    change(tmp_path / "south" / "labelsTr" / "case_0.nii.gz", lambda a: np.where(a == 1, 7, a))
    change(tmp_path / "harbour" / "labelsTr" / "case_2.nii.gz", lambda a: a, affine=np.eye(4))
    assert command("check", tmp_path / "bad.toml") == 2
    lines = [line for line in capsys.readouterr().out.splitlines() if " error " in line]
    assert [line.split()[:2] for line in lines] == [
        ["north", "case_1.nii.gz"],
        ["south", "case_0.nii.gz"],
        ["harbour", "case_2.nii.gz"],
    ]


def test_check_looks_at_what_the_methods_need(campaign, capsys):
    """Labels that `pooled` would need, and names of methods, as `simulate` is asked for them."""
    assert command("check", campaign, "--methods", "none,pooled") == 2
    assert "north: the method 'pooled' needs pooled_labels" in capsys.readouterr().err
    assert command("check", campaign, "--methods", "magic") == 2
    assert "method 'magic' is unknown" in capsys.readouterr().err
    assert command("check", campaign, "--methods", "transfer,t-imm") == 0


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("depth = 2", 'depth = 2\nweights = "no.safetensors"', "no.safetensors: the file cannot be read"),
        ("depth = 2", 'depth = 2\nweights = "north"', "Is a directory"),
        ("depth = 2", 'depth = 2\nweights = "other.safetensors"', "a checkpoint of another net: 'stem.weight'"),
        ("depth = 2", 'depth = 2\nspecific = ["nowhere"]', "[net] the net has no parameter or layer 'nowhere'"),
        ("depth = 2", 'depth = 2\nfusable = ["stem", "no"]', "[net] the net has no parameter or layer 'no'"),
        ("[site.data]\nfolder = \"south\"", 'contribution = "no.safetensors"\n[site.data]\nfolder = "south"',
         "south: there is no contribution"),
        ("[site.data]\nfolder = \"south\"", 'contribution = "other.safetensors"\n[site.data]\nfolder = "south"',
         "south: __metadata__ expected the one key 'fedmerge'"),
    ],
)  # fmt: skip
def test_check_finds_what_the_campaign_stands_on(campaign, old, new, told, capsys):
    """A starting model or a contribution that is missing or another's, and layers that the net does not have."""
    save_file({"stem.weight": torch.zeros(3, 1, 3, 3, 3)}, campaign.parent / "other.safetensors")
    path = campaign.parent / "other.toml"
    assert old in CAMPAIGN
    path.write_text(CAMPAIGN.replace(old, new, 1))
    assert command("check", path) == 2
    shown = capsys.readouterr()
    assert told in shown.out + shown.err
    assert "unexpected" not in shown.err


def test_check_accepts_the_weights_of_the_campaigns_own_net(campaign, capsys):
    """A whole model of the net, heads and all, is a start for every site."""
    settings = {"name": "isensee2017", "base_filters": 2, "depth": 2}
    net = nets.build(settings, in_channels=1, out_channels=3, seed=0)
    save_file(params.of(net), campaign.parent / "start.safetensors")
    path = campaign.parent / "start.toml"
    path.write_text(CAMPAIGN.replace("depth = 2", 'depth = 2\nweights = "start.safetensors"'))
    assert command("check", path) == 0
    assert "3 sites, 0 errors" in capsys.readouterr().out


def change(path, edit, affine=None):
    """Write the volume again, edited."""
    image = nibabel.load(path)
    data = edit(np.asanyarray(image.dataobj)).astype(image.get_data_dtype())
    nibabel.save(nibabel.Nifti1Image(data, image.affine if affine is None else affine), path)


def test_predict_writes_label_maps_on_the_images_own_grid(campaign, run, tmp_path, capsys):
    """Shape and affine are the image's, values are the model's labels; a second call overwrites only when told."""
    (model,) = run.glob("models/harbour/t-imm-seed0*fine-tuned.safetensors")
    images = [campaign.parent / "harbour" / "imagesTr" / f"case_{i}.nii.gz" for i in (0, 3)]
    assert command("predict", model, *images, "--out", tmp_path) == 0
    assert "labels: 0 background, 1 core, 2 shell" in capsys.readouterr().out
    for image in images:
        segmented = nibabel.load(tmp_path / image.name)
        assert segmented.shape == (14, 14, 14)
        np.testing.assert_array_equal(segmented.affine, AFFINE)
        assert set(np.unique(segmented.dataobj)) <= {0, 1, 2}
    assert command("predict", model, images[0], "--out", tmp_path) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert command("predict", model, images[0], "--out", tmp_path, "--overwrite") == 0


def test_predict_refuses_what_is_no_whole_model(campaign, run, tmp_path, capsys):
    """A merged body has no head of its own, a contribution is no model, and two maps need two names."""
    image = campaign.parent / "harbour" / "imagesTr" / "case_0.nii.gz"
    (body,) = run.glob("models/harbour/t-imm-seed0*fused.safetensors")
    assert command("predict", body, image, "--out", tmp_path) == 2
    assert "this is a merged body; fine-tuned models can segment" in capsys.readouterr().err
    contribution = next(run.glob("server/contributions/*.safetensors"))
    assert command("predict", contribution, image, "--out", tmp_path) == 2
    assert str(contribution) in capsys.readouterr().err
    (model,) = run.glob("models/harbour/t-imm-seed0*fine-tuned.safetensors")
    other = campaign.parent / "north" / "imagesTr" / "case_0.nii.gz"
    assert command("predict", model, image, other, "--out", tmp_path) == 2
    assert "would both become" in capsys.readouterr().err


def test_files_of_one_patient_are_taken_together():
    """A model of two channels reads files in pairs; an odd number is refused."""
    files = [Path(f"p{i}_000{c}.nii.gz") for i in (1, 2) for c in (0, 1)]
    pairs = predict.by_patient(files, ["T1", "T2"])
    assert pairs == [files[:2], files[2:]]
    assert predict.targets(pairs, Path("out")) == [Path("out/p1.nii.gz"), Path("out/p2.nii.gz")]
    assert predict.by_patient(files, ["T1"]) == [[file] for file in files]
    with pytest.raises(ConfigError, match=r"reads 2 files a patient \(T1, T2\), got 3 files"):
        predict.by_patient(files[:3], ["T1", "T2"])


def test_freesurfers_images_give_their_subjects_names():
    """All of them are called alike; elsewhere the file's own name counts."""
    images = [[Path(f"subjects/{name}/mri/norm.mgz")] for name in ("bert", "anna.long.a")]
    assert predict.targets(images, Path("out")) == [Path("out/bert.nii.gz"), Path("out/anna.long.a.nii.gz")]
    assert predict.targets([[Path("mri/p1.nii.gz")], [Path("p2.mgz")]], Path("o")) == [
        Path("o/p1.nii.gz"), Path("o/p2.nii.gz"),
    ]  # fmt: skip


def test_phantom_writes_hospitals_and_a_campaign_that_check_accepts(tmp_path, capsys):
    """Nine cases a hospital are the fewest that the target can split; check finds no error in them."""
    folder = tmp_path / "hospitals"
    assert command("phantom", folder, "--cases", "9", "--seed", "3") == 0
    for name in ("north", "south", "harbour"):
        assert len(list((folder / name / "imagesTr").glob("*.nii.gz"))) == 9
    assert command("check", folder / "campaign.toml") == 0
    assert "3 sites, 0 errors" in capsys.readouterr().out
    assert command("phantom", folder) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    assert command("phantom", tmp_path / "few", "--cases", "8") == 2
    assert "--cases expected at least 9 (harbour trains, validates and tests), got 8" in capsys.readouterr().err
