"""BIDS: which derivative, which of several files, and the sentences that say how to choose."""

import pytest
from made_layouts import bids, label, save

from fedmerge.errors import DataError
from sites import cases
from sites.records import Data
from sites.tables import data as read_data


def settings(folder, **keys) -> Data:
    """The data of a site in this folder."""
    return read_data({"folder": ".", "layout": "bids", "labels": {"a": [1], "b": [2]}, **keys}, "h", folder)


def chosen(folder, **keys):
    """Image and label map of the only case, from the dataset's folder on."""
    (one,) = cases.find(settings(folder, **keys))
    return [str(path.relative_to(folder)) for path in (*one.images, one.label)]


def test_subjects_and_their_sessions_are_cases_of_one_patient(tmp_path):
    """With or without sessions; what else lies in the dataset is left aside."""
    bids(tmp_path, ["sub-01", "sub-02_ses-1", "sub-02_ses-2"])
    save(tmp_path / "sub-01/func/sub-01_task-rest_bold.nii.gz", label(0))
    save(tmp_path / "sub-01/anat/notes.nii.gz", label(0))
    found = cases.find(settings(tmp_path))
    assert [(one.id, one.patient) for one in found] == [
        ("sub-01", "sub-01"), ("sub-02_ses-1", "sub-02"), ("sub-02_ses-2", "sub-02"),
    ]  # fmt: skip
    assert cases.modalities(settings(tmp_path)) == ("T1",)
    assert found[1].label == tmp_path / "derivatives/manual/sub-02/ses-1/anat/sub-02_ses-1_dseg.nii.gz"


def test_of_several_derivatives_the_settings_name_one(tmp_path):
    """Only those with label maps count; one that is not there is told, with those that are."""
    bids(tmp_path, ["sub-01"])
    (tmp_path / "derivatives/mriqc").mkdir()
    assert chosen(tmp_path)[1] == "derivatives/manual/sub-01/anat/sub-01_dseg.nii.gz"
    bids(tmp_path, ["sub-01"], derivative="synthseg")
    sentence = r"derivatives has \*_dseg files in manual, synthseg: choose with derivative = 'manual'$"
    with pytest.raises(DataError, match=sentence):
        cases.find(settings(tmp_path))
    assert chosen(tmp_path, derivative="synthseg")[1] == "derivatives/synthseg/sub-01/anat/sub-01_dseg.nii.gz"
    with pytest.raises(DataError, match="has no derivative 'fastsurfer', it has manual, mriqc, synthseg"):
        cases.find(settings(tmp_path, derivative="fastsurfer"))


def test_a_derivative_may_be_the_dataset_itself(tmp_path):
    """Images and label maps beside each other."""
    for name in ("desc-preproc_T1w", "dseg"):
        save(tmp_path / f"sub-01/anat/sub-01_{name}.mgz", label(0))
    assert chosen(tmp_path) == [f"sub-01/anat/sub-01_{name}.mgz" for name in ("desc-preproc_T1w", "dseg")]


def test_modalities_have_the_names_that_they_have_elsewhere(tmp_path):
    """T1w is T1, with a contrast agent T1ce; any suffix goes by its own name."""
    bids(tmp_path, ["sub-01"])
    for name in ("ce-gadolinium_T1w", "FLAIR", "T2w", "T2starw"):
        save(tmp_path / f"sub-01/anat/sub-01_{name}.nii.gz", label(0))
    assert cases.modalities(settings(tmp_path)) == ("T1", "T1ce", "T2", "FLAIR")
    got = chosen(tmp_path, modalities=["T2starw", "T1ce", "T1"])
    assert [name.rpartition("sub-01_")[2] for name in got[:3]] == [
        "T2starw.nii.gz", "ce-gadolinium_T1w.nii.gz", "T1w.nii.gz",
    ]  # fmt: skip


def test_two_runs_are_an_error_that_says_how_to_choose(tmp_path):
    """And the line that it prints chooses; where the label map is of one run, its image is that run's."""
    bids(tmp_path, ["sub-01"])
    (tmp_path / "sub-01/anat/sub-01_T1w.nii.gz").unlink()
    for run in (1, 2):
        save(tmp_path / f"sub-01/anat/sub-01_run-{run}_T1w.nii.gz", label(0))
    _, problems = cases.scan(settings(tmp_path))
    assert problems == {
        "sub-01": f"{tmp_path.name}: case 'sub-01' has 2 images of T1, run-1_T1w, run-2_T1w:"
        ' choose with files = { T1 = "run-1_T1w" }'
    }
    assert chosen(tmp_path, files={"T1": "run-1_T1w"})[0].endswith("sub-01_run-1_T1w.nii.gz")
    drawn = tmp_path / "derivatives/manual/sub-01/anat/sub-01_dseg.nii.gz"
    drawn.rename(drawn.with_name("sub-01_run-2_desc-nurse_dseg.nii.gz"))
    assert chosen(tmp_path)[0].endswith("sub-01_run-2_T1w.nii.gz")


def test_fmripreps_label_maps_lie_on_its_own_image(tmp_path):
    """Of four maps and two images the settings choose one pair; the one without a space goes first."""
    bids(tmp_path, ["sub-01"], derivative="fmriprep")
    there = tmp_path / "derivatives/fmriprep/sub-01/anat"
    for name in ("desc-aseg_dseg", "desc-aparcaseg_dseg", "space-MNI_desc-aseg_dseg", "desc-preproc_T1w"):
        save(there / f"sub-01_{name}.nii.gz", label(0))
    save(there / "sub-01_space-MNI_desc-preproc_T1w.nii.gz", label(0))
    _, problems = cases.scan(settings(tmp_path))
    assert problems["sub-01"].endswith(
        "has 4 label maps, desc-aparcaseg_dseg, desc-aseg_dseg, dseg, space-MNI_desc-aseg_dseg:"
        ' choose with label_file = "desc-aparcaseg_dseg"'
    )
    place = "derivatives/fmriprep/sub-01/anat/sub-01_"
    pair = {"files": {"T1": "desc-preproc_T1w"}, "label_file": "desc-aseg_dseg"}
    assert chosen(tmp_path, **pair) == [f"{place}desc-preproc_T1w.nii.gz", f"{place}desc-aseg_dseg.nii.gz"]
    pair = {"files": {"T1": "space-MNI_T1w"}, "label_file": "space-MNI_dseg"}
    assert chosen(tmp_path, **pair) == [
        f"{place}space-MNI_desc-preproc_T1w.nii.gz", f"{place}space-MNI_desc-aseg_dseg.nii.gz",
    ]  # fmt: skip
    assert chosen(tmp_path, label_file="dseg") == ["sub-01/anat/sub-01_T1w.nii.gz", f"{place}dseg.nii.gz"]


def test_a_subject_without_its_other_half_is_named(tmp_path):
    """An image without a label map, and a label map without an image."""
    bids(tmp_path, ["sub-01", "sub-02", "sub-03"])
    (tmp_path / "derivatives/manual/sub-01/anat/sub-01_dseg.nii.gz").unlink()
    (tmp_path / "sub-02/anat/sub-02_T1w.nii.gz").unlink()
    _, problems = cases.scan(settings(tmp_path))
    where = tmp_path.name
    assert problems == {
        "sub-01": f"{where}: case 'sub-01' has no label map *_dseg, beside its images or in a derivative",
        "sub-02": f"{where}: case 'sub-02' has the modalities none, expected T1",
    }
