"""BraTS folders of all years: names, patients, and what a 4 means."""

import numpy as np
import pytest
from made_layouts import BRATS_2018, BRATS_2023, brats, label, save

from fedmerge.errors import DataError
from sites import cases, loading
from sites.records import OPEN, Site
from sites.tables import data as read_data


def settings(folder, **keys):
    """The data of a site in this folder."""
    return read_data({"folder": ".", "layout": "brats", "labels": "brats", **keys}, "h", folder)


def loaded(data, folder):
    """All cases, read."""
    site = Site("h", "target", data, OPEN, None, folder, simulation=True)
    return loading.load(site, cases.find(data), patch=(12, 10, 8))


@pytest.mark.parametrize(
    ("case", "words", "patient"),
    [
        ("HGG/Brats18_CBICA_AAB_1", BRATS_2018, "Brats18_CBICA_AAB"),
        ("LGG/BraTS19_2013_16_1", BRATS_2018, "BraTS19_2013_16"),
        ("MICCAI_BraTS2020_TrainingData/BraTS20_Training_001", BRATS_2018, "BraTS20_Training_001"),
        ("BraTS2021_00000", BRATS_2018, "BraTS2021_00000"),
        ("BraTS-GLI-00005-101", BRATS_2023, "BraTS-GLI-00005"),
        ("BraTS-MET-00012-000", BRATS_2023, "BraTS-MET-00012"),
        ("anna_visit2", BRATS_2018, "anna"),
        ("anna", BRATS_2018, None),
    ],
)
def test_a_case_has_the_same_modalities_in_every_year(tmp_path, case, words, patient):
    """At any depth and in either scheme: T1, T1ce, T2, FLAIR in this order, and the patient that the name tells."""
    brats(tmp_path, [case], words, enhancing=3)
    (found,) = cases.find(settings(tmp_path))
    assert cases.modalities(settings(tmp_path)) == ("T1", "T1ce", "T2", "FLAIR")
    assert [
        path.name.removesuffix(".nii.gz").rsplit("-" if words is BRATS_2023 else "_", 1)[1] for path in found.images
    ] == [*words.values()]
    assert found.id == case.rpartition("/")[2]
    assert found.patient == patient


def test_timepoints_and_scans_of_one_patient_stay_together(tmp_path):
    """Two scans of 2018 and two timepoints of 2023 are two patients; one part of a split has both of one."""
    brats(tmp_path, ["HGG/Brats18_2013_3_1", "HGG/Brats18_2013_3_2"], BRATS_2018, enhancing=4)
    brats(tmp_path, ["BraTS-GLI-00003-000", "BraTS-GLI-00003-001"], BRATS_2023, enhancing=3)
    data = settings(tmp_path, test=2)
    split = cases.split(cases.find(data), data, seed=0)
    assert split.by_patient
    assert [len({one.patient for one in part}) for part in (split.train, split.test)] == [1, 1]


def test_some_modalities_in_an_order_of_the_sites_own(tmp_path):
    """What is not asked for is left aside, also where only some cases have it; another name is refused."""
    brats(tmp_path, ["BraTS2021_00000", "BraTS2021_00001"], BRATS_2018, enhancing=4)
    (tmp_path / "BraTS2021_00001/BraTS2021_00001_t2.nii.gz").unlink()
    data = settings(tmp_path, modalities=["FLAIR", "T1ce"])
    assert [[path.name[16:-7] for path in one.images] for one in cases.find(data)] == [["flair", "t1ce"]] * 2
    _, problems = cases.scan(settings(tmp_path))
    assert problems == {
        "BraTS2021_00001": f"{tmp_path.name}: case 'BraTS2021_00001' has the modalities FLAIR, T1, T1ce,"
        " expected T1, T1ce, T2, FLAIR"
    }
    with pytest.raises(DataError, match=r"the layout 'brats' has T1, T1ce, T2, FLAIR, got the modality t1c$"):
        cases.find(settings(tmp_path, modalities=["t1c"]))


def test_a_case_without_a_label_map_is_told_what_was_looked_for(tmp_path):
    """Also one whose map was called otherwise, as a case of 2020 is; two files for one thing are told, too."""
    brats(tmp_path, ["BraTS20_Training_355", "BraTS2021_00001", "BraTS2021_00002"], BRATS_2018, enhancing=4)
    odd = tmp_path / "BraTS20_Training_355/BraTS20_Training_355_seg.nii.gz"
    odd.rename(odd.with_name("W39_1998.09.19_Segm.nii.gz"))
    (tmp_path / "BraTS2021_00001/BraTS2021_00001_seg.nii.gz").unlink()
    save(tmp_path / "copy/BraTS2021_00002_t2.mgz", label(0))
    where = tmp_path.name
    assert cases.scan(settings(tmp_path))[1] == {
        "BraTS20_Training_355": f"{where}: case 'BraTS20_Training_355' has no label map BraTS20_Training_355_seg (or"
        " -seg), and W39_1998.09.19_Segm.nii.gz is named otherwise",
        "BraTS2021_00001": f"{where}: case 'BraTS2021_00001' has no label map whose name ends with _seg or -seg",
        "BraTS2021_00002": f"{where}: case 'BraTS2021_00002' has two files of the modality T2,"
        " BraTS2021_00002/BraTS2021_00002_t2.nii.gz and copy/BraTS2021_00002_t2.mgz",
    }


@pytest.mark.parametrize(
    ("case", "words", "value"), [("BraTS2021_1", BRATS_2018, 4), ("BraTS-GLI-00001-000", BRATS_2023, 3)]
)
def test_the_enhancing_tumour_is_one_label_whatever_the_year_writes(tmp_path, case, words, value):
    """4 until 2021 and 3 since 2023 are the third label; regions are unions: ET in TC in WT."""
    brats(tmp_path, [case], words, value)
    (one,) = loaded(settings(tmp_path), tmp_path)
    expected = np.where(label(0) == 1, 2, 0)
    block = label(0) == 2
    np.testing.assert_array_equal(one.truth[~block], expected[~block])
    assert set(np.unique(one.truth[block])) == {1, 3}
    assert one.regions == {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}


def test_a_four_after_treatment_is_a_cavity_and_no_tumour(tmp_path):
    """The table `brats` refuses it and names the other, which has it as a label that no region of a tumour holds."""
    case = "BraTS-GLI-02405-100"
    brats(tmp_path, [case], BRATS_2023, enhancing=4)
    with pytest.raises(DataError, match=r"seg.nii.gz: label value 4 is there, and .* labels = \"brats-post\"$"):
        loaded(settings(tmp_path), tmp_path)
    (one,) = loaded(settings(tmp_path, labels="brats-post"), tmp_path)
    assert set(np.unique(one.truth)) == {0, 1, 2, 4}
    assert one.regions == {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,), "RC": (4,)}


def test_a_four_of_2021_is_no_cavity(tmp_path):
    """The other way round it would teach that the enhancing tumour is a hole."""
    brats(tmp_path, ["BraTS2021_00001"], BRATS_2018, enhancing=4)
    with pytest.raises(DataError, match=r"label value 4 is there, and .* labels = \"brats\"$"):
        loaded(settings(tmp_path, labels="brats-post"), tmp_path)
