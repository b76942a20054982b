"""Folders as hospitals have them, from the files on disk through a campaign to label maps that lie on the images."""

import json
from dataclasses import replace

import made_layouts
import nibabel
import numpy as np
import pytest
import torch
from commandline import command
from made_layouts import BRATS_2018, BRATS_2023
from made_plans import trainings

from fedmerge.cli import predict as cli_predict
from fedmerge.errors import DataError
from sites import cases, config, described, looking, predict, preflight
from sites.records import OPEN, Site
from sites.tables import data as read_data

HEAD = '[campaign]\nprecision = "float32"\nmethods = ["t-imm"]\n' + trainings(
    patch=(12, 12, 8), train="steps = 2\nfisher_cases = 2"
)
SOURCE = '[[site]]\nname = "{0}"\nrole = "source"\n[site.data]\nfolder = "{0}"\ntest = 1\n'
TARGET = '[[site]]\nname = "harbour"\nrole = "target"\n[site.data]\nfolder = "harbour"\ntrain = 2\ntest = 2\n'
PARCELS = (
    (SOURCE.format("north"), 'layout = "bids"\nlabels = { hippocampus = [1] }\nbackground = [2]\n'),
    (
        SOURCE.format("south"),
        'layout = "folders"\nfiles = { T1 = "t1_mprage" }\nlabels = { thalamus = [2] }\nbackground = [1]\n',
    ),
    (
        TARGET,
        'layout = "freesurfer"\nfiles = { T1 = "norm" }\n'
        'labels = { from = "freesurfer-14", classes = ["hippocampus", "thalamus"] }\n',
    ),
)
TUMOURS = (
    (SOURCE.format("north"), 'layout = "msd"\nlabels = { necrosis = [1] }\nbackground = [2]\n'),
    (SOURCE.format("south"), 'layout = "brats"\nlabels = { from = "brats", classes = ["oedema"] }\n'),
    (TARGET, 'layout = "brats"\nlabels = "brats"\n'),
)
VISITS = [f"sub-0{k}_ses-{s}" for k in (1, 2) for s in (1, 2)]


def parcels(folder):
    """One contrast: BIDS, a folder a case in MGH, FreeSurfer."""
    made_layouts.bids(folder / "north", VISITS)
    made_layouts.single(folder / "south", ["a_visit1", "b_visit1", "c_visit1"])
    made_layouts.subjects(folder / "harbour", ["ann", "bob", "eve", "joe"])
    return PARCELS


def tumours(folder):
    """Four contrasts: nnU-Net, BraTS as in 2018 with its folders of grades, BraTS as since 2023."""
    made_layouts.decathlon(folder / "north", ["x", "y", "z"])
    graded = ["HGG/Brats18_CBICA_AAB_1", "HGG/Brats18_CBICA_AAC_1", "LGG/Brats18_TCIA09_141_1"]
    made_layouts.brats(folder / "south", graded, BRATS_2018, enhancing=4, axes="LAS")
    timed = [f"BraTS-GLI-{k:05d}-000" for k in range(4)]
    made_layouts.brats(folder / "harbour", timed, BRATS_2023, enhancing=3)
    return TUMOURS


@pytest.fixture(scope="module", params=[parcels, tumours], ids=lambda make: make.__name__)
def ran(request, tmp_path_factory):
    """The campaign's file, and the folder of its run."""
    folder = tmp_path_factory.mktemp(request.param.__name__)
    path = folder / "campaign.toml"
    path.write_text(HEAD + "".join(head + rest for head, rest in request.param(folder)))
    assert command("check", path) == 0
    assert command("simulate", path, "--out", folder / "run") == 0
    return path, folder / "run"


def target(path):
    """The campaign's target, and its cases."""
    site = config.from_campaign(path, "harbour", work=path.parent / "work")
    return site, cases.find(site.data)


def same_place(answer, given):
    """Whether a label map has the voxels and the affine of an image."""
    one, other = nibabel.load(answer), nibabel.load(given)
    assert one.shape == other.shape
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-4)
    return np.asarray(one.dataobj)


def test_a_campaign_reads_trains_adapts_and_predicts_on_the_images_own_grid(ran):
    """Every test case has scores and a label map on its image's voxels, whatever format and axes the image has."""
    path, run = ran
    _, found = target(path)
    row = json.loads((run / "results.json").read_text())["rows"][-1]
    assert row["stage"] == "fine-tuned"
    assert len(row["cases"]) == 2
    by_id = {one.id: one for one in found}
    for case in row["cases"]:
        (kept,) = (run / "sites/harbour/predictions").glob(f"*/{case['case']}.nii.gz")
        same_place(kept, by_id[case["case"]].images[0])
    wanted = {"WT", "TC", "ET"} if "brats" in path.read_text() else {"hippocampus", "thalamus"}
    assert set(row["cases"][0]["dice"]) == wanted


def test_predict_takes_a_cases_files_as_they_are(ran, tmp_path):
    """One label map a case, named after it and on its image's voxels."""
    path, run = ran
    _, found = target(path)
    (model,) = run.glob("models/harbour/*fine-tuned.safetensors")
    images = [image for one in found[:2] for image in one.images]
    assert command("predict", model, *images, "--out", tmp_path) == 0
    for one in found[:2]:
        name = cli_predict.targets([one.images], tmp_path)[0]
        assert name.name.startswith(one.id)
        same_place(name, one.images[0])


@pytest.mark.parametrize("name", ["north", "south", "harbour"])
def test_a_known_shape_comes_back_at_its_own_place(ran, tmp_path, name):
    """A net that reads the label off the brightness writes each case's own label map, to a voxel."""
    path, _ = ran
    site = config.from_campaign(path, name, work=tmp_path)
    info = {"channels": list(site.data.modalities), "patch": [12, 12, 12]}
    for number, one in enumerate(cases.find(site.data)):
        predict.predict_file(made_layouts.Brightness(), info, one.images, tmp_path / "answer.nii.gz")
        answer = same_place(tmp_path / "answer.nii.gz", one.label)
        drawn = np.asarray(nibabel.load(one.label).dataobj)
        for k in (1, 2):
            here = np.isin(drawn, np.unique(drawn[answer == k]))
            np.testing.assert_array_equal(here, answer == k)
            assert here.sum() == (made_layouts.label(number) == k).sum()


def test_the_net_sees_what_the_file_holds(ran):
    """Loaded labels written back are the file's own labels, on its own axes: in and out undo each other."""
    path, run = ran
    site, found = target(path)
    for one, case in zip(found, cases.load(site, found, patch=(12, 12, 12))):
        whole = np.eye(len(site.data.labels) + 1, dtype=np.float32)[case.label[0].numpy()]
        case.score(torch.from_numpy(whole).movedim(-1, 0), list(site.data.labels), run / "back")
        back = same_place(run / f"back/{one.id}.nii.gz", one.label)
        drawn = np.asarray(nibabel.load(one.label).dataobj)
        for k, own in enumerate(site.data.labels.values(), start=1):
            np.testing.assert_array_equal(back == k, np.isin(drawn, own))


def test_check_says_what_a_folder_was_read_as(ran, capsys):
    """Cases, patients, modalities, and label values with their meaning, a sentence a site."""
    path, _ = ran
    capsys.readouterr()
    assert command("check", path) == 0
    told = capsys.readouterr().out.replace("\n", " ")
    expected = {
        "BIDS": "north: 4 cases of 2 patients in the layout 'bids'; modalities T1; label values 1 hippocampus; 0, 2",
        "own": "south: 3 cases of 3 patients in the layout 'folders'; modalities T1; label values 2 thalamus; 0, 1",
        "FreeSurfer": "harbour: 4 cases in the layout 'freesurfer'; modalities T1; label values 17 hippocampus;"
        " 49 thalamus; 2 background",
    }
    if "brats" in path.read_text():
        four = "modalities T1, T1ce, T2, FLAIR; label values"
        expected = {
            "nnU-Net": f"north: 3 cases in the layout 'msd'; {four} 1 necrosis; 0, 2 background",
            "2018": f"south: 3 cases of 3 patients in the layout 'brats'; {four} 2 oedema; 0, 1, 4 background",
            "2023": f"harbour: 4 cases of 4 patients in the layout 'brats'; {four} 1 necrosis; 2 oedema; 3 enhancing",
        }
    for sentence in expected.values():
        assert sentence in " ".join(told.split())


def test_a_site_that_has_incomplete_cases_is_told_what_it_has_all_the_same(tmp_path):
    """The complete cases are counted, the others named one by one by `check`."""
    made_layouts.subjects(tmp_path, ["ann", "bob"])
    (tmp_path / "bob/mri/aseg.mgz").unlink()
    settings = {"folder": ".", "layout": "freesurfer", "modalities": ["norm"], "labels": "freesurfer-14"}
    site = Site("h", "target", read_data(settings, "h", tmp_path), OPEN, None, tmp_path, simulation=True)
    seen = looking.Tally()
    (error, *_) = preflight.check(site, None, seen)
    assert error.sentence == f"{tmp_path.name}: case 'bob' has no mri/aseg.mgz"
    with pytest.raises(DataError, match="there is no folder"):
        described.layout(replace(site, data=replace(site.data, folder=tmp_path / "none")), seen)
    assert described.layout(site, seen).startswith("h: 1 case in the layout 'freesurfer', and 1 that cannot be used;")
