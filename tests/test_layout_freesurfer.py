"""A SUBJECTS_DIR: which folders are scans, whose they are, and what their label maps mean."""

import numpy as np
import pytest
from made_layouts import label, save, subjects, values

from fedmerge.errors import DataError
from sites import cases, loading
from sites.records import OPEN, Site
from sites.tables import data as read_data


def settings(folder, **keys):
    """The data of a site in this folder."""
    return read_data({"folder": ".", "layout": "freesurfer", "labels": "freesurfer-14", **keys}, "h", folder)


def truth(data, folder):
    """The labels of the first case."""
    site = Site("h", "target", data, OPEN, None, folder, simulation=True)
    return loading.load(site, cases.find(data)[:1], patch=(12, 10, 8))[0].truth


def test_images_and_label_map_by_the_names_of_their_files(tmp_path):
    """T1.mgz and aseg.mgz unless the site says otherwise, with or without an ending; other files are left aside."""
    subjects(tmp_path, ["bert"], file="T1")
    save(tmp_path / "bert/mri/norm.mgz", label(0))
    save(tmp_path / "bert/mri/aparc+aseg.mgz", values(0, 1001, 2035))
    (one,) = cases.find(settings(tmp_path))
    assert [path.name for path in (*one.images, one.label)] == ["T1.mgz", "aseg.mgz"]
    (one,) = cases.find(settings(tmp_path, modalities=["norm", "T1"], label_file="aparc+aseg"))
    assert [path.name for path in (*one.images, one.label)] == ["norm.mgz", "T1.mgz", "aparc+aseg.mgz"]
    data = settings(tmp_path, files={"T1": "norm.mgz"}, label_file="aseg.mgz")
    assert [path.name for path in cases.find(data)[0].images] == ["norm.mgz"]
    assert cases.modalities(data) == ("T1",)


def test_what_is_no_scan_is_left_aside(tmp_path):
    """Averages, hidden folders, folders without mri, templates, and scans that have a longitudinal run."""
    subjects(
        tmp_path,
        ["anna1", "anna2", "anna1.long.anna", "anna2.long.anna", "anna", "bob", "fsaverage", "fsaverage5", ".trash"],
        file="T1",
    )
    subjects(tmp_path, ["lone-template"], file="T1")
    (tmp_path / "lone-template/base-tps").write_text("x1\n")
    (tmp_path / "qdec").mkdir()
    assert [one.id for one in cases.find(settings(tmp_path))] == ["anna1.long.anna", "anna2.long.anna", "bob"]


@pytest.mark.parametrize(
    ("subject", "patient"),
    [
        ("anna1.long.anna", "anna"),
        ("anna_visit1.long.anna_base", "anna"),
        ("sub-01_ses-2.long.sub-01", "sub-01"),
        ("sub-01_ses-2", "sub-01"),
        ("bert", None),
    ],
)
def test_whose_scan_it_is(tmp_path, subject, patient):
    """The name of a visit tells it, else the template that all visits share."""
    subjects(tmp_path, [subject], file="T1")
    assert cases.find(settings(tmp_path))[0].patient == patient
    assert cases.find(settings(tmp_path, patient="(..)"))[0].patient == subject[:2]


def test_an_incomplete_subject_is_told_which_files_it_lacks(tmp_path):
    """And that recon-all did not finish, where its own mark is missing."""
    subjects(tmp_path, ["a", "b", "c"], file="T1")
    (tmp_path / "a/mri/aseg.mgz").unlink()
    (tmp_path / "a/scripts").mkdir()
    (tmp_path / "b/mri/T1.mgz").unlink()
    _, problems = cases.scan(settings(tmp_path))
    where = tmp_path.name
    assert problems == {
        "a": f"{where}: case 'a' has no mri/aseg.mgz: recon-all did not finish there (no scripts/recon-all.done)",
        "b": f"{where}: case 'b' has no mri/T1.mgz",
    }


def test_parcels_are_what_they_are_parcels_of(tmp_path):
    """Cortex in 1000s and 11100s, white matter in 3000s; what belongs to no class asked for is background."""
    subjects(tmp_path, ["bert"], file="T1")
    for one, two, other, seen in (
        (1035, 17, 2, {0: 2, 1: 1035, 2: 17}),
        (12101, 53, 3002, {0: 3002, 1: 12101, 2: 53}),
    ):
        save(tmp_path / "bert/mri/x.mgz", values(0, one, two, other).astype(np.int32), "LIA")
        data = settings(tmp_path, label_file="x", labels={"from": "freesurfer-14", "classes": [2, "hippocampus"]})
        got, drawn = truth(data, tmp_path), values(0, one, two, other)
        for k, value in seen.items():
            np.testing.assert_array_equal(got == k, drawn == value)
    whole = truth(settings(tmp_path, label_file="x"), tmp_path)
    np.testing.assert_array_equal(whole, values(0, 2, 10, 9))


@pytest.mark.parametrize("value", [1, 23, 500, 999, 5003, 20000])
def test_a_value_that_the_brain_does_not_have_is_named(tmp_path, value):
    """Unknown ones, and those that other maps use for something else, are not taken for background."""
    subjects(tmp_path, ["bert"], file="T1")
    save(tmp_path / "bert/mri/aseg.mgz", values(0, 17, value).astype(np.int32), "LIA")
    with pytest.raises(
        DataError, match=rf"^h: mri/aseg.mgz: label value {value} is not declared; declared are 0, 2, 3"
    ):
        truth(settings(tmp_path), tmp_path)
    assert set(np.unique(truth(settings(tmp_path, background=[value]), tmp_path))) == {0, 10}
