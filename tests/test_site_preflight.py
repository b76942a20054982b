"""All that is wrong with the data, before anything is trained: each bad input with its sentence."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sites import preflight, volumes
from sites.config import OPEN, Data, Policy, Selection, Site
from sites.preflight import Finding
from sites.records import BiasField, Landmarks

SHAPE = (8, 9, 10)


def image(k=0):
    """Noise that differs from case to case."""
    return np.random.default_rng(k).normal(100, 10, SHAPE).astype(np.float32)


def label():
    """A bar of 1 and a bar of 2."""
    values = np.zeros(SHAPE, np.uint8)
    values[2:4, 2:6, 2:6], values[4:6, 2:6, 2:6] = 1, 2
    return values


def put(folder, case, *, img=None, lab=None, affine=None):
    """One case; the label map may lie elsewhere."""
    for part, array, where in (("imagesTr", img, np.eye(4)), ("labelsTr", lab, affine)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        volumes.write(array, np.eye(4) if where is None else where, folder / part / f"{case}.nii.gz")


def hospital(folder, ids=("p-visit1", "q-visit1", "r-visit1"), name="north", **data):
    """A site whose data are in order."""
    for k, case in enumerate(ids):
        put(folder, case, img=image(k), lab=label())
    (folder / "dataset.json").write_text(json.dumps({"modality": {"0": "T1"}}))
    settings = Data(folder, "msd", {"front": (1,), "back": (2,)}, modalities=("T1",))
    return Site(name, "source", replace(settings, **data), OPEN, None, folder, simulation=True)


def sentences(findings, severity="error"):
    """What the findings of one severity say."""
    return [finding.sentence for finding in findings if finding.severity == severity]


def test_good_data_have_no_findings(tmp_path):
    """Nothing is made up."""
    assert preflight.check(hospital(tmp_path, validate=1, test=1), patch=(8, 8, 8)) == []


def test_everything_is_found_at_once(tmp_path):
    """Nine bad cases, nine errors, each with its file; the good case between them has none."""
    site = hospital(tmp_path, ids=("ok-visit1",))
    moved = np.eye(4)
    moved[0, 3] = 4
    wrong, odd = label(), label().astype(np.float32)
    wrong[0, 0, 0], odd[0, 0, 0] = 7, 0.5
    broken, endless = image(3), image(4)
    broken[0, 0, 0], endless[0, 0, :2] = np.nan, np.inf
    put(tmp_path, "a-visit1", img=image(1), lab=label()[1:])
    put(tmp_path, "b-visit1", img=image(2), lab=label(), affine=moved)
    put(tmp_path, "c-visit1", img=broken, lab=label())
    put(tmp_path, "d-visit1", img=endless, lab=label())
    put(tmp_path, "e-visit1", img=np.stack([image(5)] * 3, -1), lab=label())
    put(tmp_path, "f-visit1", img=image(6), lab=wrong)
    put(tmp_path, "g-visit1", img=image(7), lab=odd)
    put(tmp_path, "h-visit1", img=image(8), lab=label())
    path = tmp_path / "imagesTr" / "h-visit1.nii.gz"
    path.write_bytes(path.read_bytes()[:700])
    put(tmp_path, "i-visit1", img=image(9), lab=label())
    (tmp_path / "labelsTr" / "i-visit1.nii.gz").unlink()
    errors = [f for f in preflight.check(site) if f.severity == "error"]
    told = {f.file: f.sentence for f in errors}
    assert len(errors) == len(told) == 9
    assert told["i-visit1"] == f"{tmp_path.name}: case 'i-visit1' has no label map"
    assert told["a-visit1.nii.gz"] == (
        "north: labelsTr/a-visit1.nii.gz expected the shape of the image a-visit1.nii.gz, 8 x 9 x 10, got 7 x 9 x 10"
    )
    assert told["b-visit1.nii.gz"] == (
        "north: labelsTr/b-visit1.nii.gz expected the affine of the image b-visit1.nii.gz, got one that is 4 mm away"
    )
    assert told["c-visit1.nii.gz"] == "north: c-visit1.nii.gz expected finite voxels, got 1 that are NaN or infinite"
    assert told["d-visit1.nii.gz"] == "north: d-visit1.nii.gz expected finite voxels, got 2 that are NaN or infinite"
    assert told["e-visit1.nii.gz"] == "north: e-visit1.nii.gz expected 3 dimensions, got 4 with shape 8 x 9 x 10 x 3"
    assert told["f-visit1.nii.gz"] == (
        "north: labelsTr/f-visit1.nii.gz: label value 7 is not declared; declared are 0, 1, 2"
    )
    assert told["g-visit1.nii.gz"] == ("north: labelsTr/g-visit1.nii.gz: label values expected whole numbers, got 0.5")
    assert told["h-visit1.nii.gz"].startswith("north: h-visit1.nii.gz is truncated or damaged: ")


def test_two_faults_of_one_case_are_two_findings(tmp_path):
    """A label map of another shape is still looked through for values."""
    site = hospital(tmp_path, ids=("a-visit1",))
    wrong = label()[1:]
    wrong[0, 0, 0] = 7
    put(tmp_path, "a-visit1", img=image(), lab=wrong)
    assert len(sentences(preflight.check(site))) == 2


def test_an_empty_folder(tmp_path):
    """One error, and no exception."""
    site = Site("north", "source", Data(tmp_path, "msd", {"a": (1,)}), OPEN, None, tmp_path, simulation=True)
    assert preflight.check(site) == [Finding("north", "", "error", f"{tmp_path} holds no case in the layout 'msd'")]


def test_modalities_that_differ_between_cases(tmp_path):
    """The case with fewer channels is named, and the others are still read."""
    for case, names in {"p": ("T1", "FLAIR", "label"), "q": ("T1", "label")}.items():
        (tmp_path / case).mkdir()
        for name in names:
            array = label() if name == "label" else image()
            volumes.write(array, np.eye(4), tmp_path / case / f"{name}.nii.gz")
    data = Data(tmp_path, "folders", {"front": (1,)}, modalities=("T1", "FLAIR"))
    found = preflight.check(Site("north", "source", data, OPEN, None, tmp_path, simulation=True))
    assert sentences(found) == [
        f"{tmp_path.name}: case 'q' has the modalities T1, expected T1, FLAIR",
        "north: p/label.nii.gz: label value 2 is not declared; declared are 0, 1",
    ]


def test_slices_and_counts_that_do_not_fit(tmp_path):
    """A selection beyond the folder, or more validation and test cases than there are."""
    site = hospital(tmp_path, cases=Selection(0, 9))
    assert sentences(preflight.check(site)) == ["the slice '0:9' reaches beyond the 3 cases that there are"]
    site = hospital(tmp_path, test=3)
    assert sentences(preflight.check(site)) == [
        f"{tmp_path.name}: expected 1 cases to train, got 0 of 3 (0 validate, 3 test)"
    ]


def test_fewer_cases_than_the_policy_wants(tmp_path):
    """The contribution would be held back at the end of the training; better to know now."""
    site = replace(hospital(tmp_path), policy=Policy(min_cases=20))
    assert sentences(preflight.check(site)) == ["north: the policy's 'min_cases' expected 20 training cases, got 3"]


def test_what_is_only_odd_is_a_warning(tmp_path):
    """Nothing to see, nothing labelled, labels beyond the patch, ids that tell no patient."""
    site = hospital(tmp_path, ids=("a", "b"), labels={"front": (1,), "back": (2,), "top": (3,)})
    put(tmp_path, "a", img=np.full(SHAPE, 5.0, np.float32), lab=np.zeros(SHAPE, np.uint8))
    found = preflight.check(site, patch=(8, 8, 2))
    assert sentences(found) == []
    assert sentences(found, "warning") == [
        "north: the ids do not tell the patients; cases are disjoint, patients could not be checked",
        "north: a.nii.gz has the same intensity everywhere",
        "north: labelsTr/a.nii.gz shows none of the site's labels",
        "north: labelsTr/b.nii.gz has 50% of its labelled voxels outside the net's patch",
        "north: no case shows 'top'",
    ]


def test_many_cases_without_a_label_are_one_line(tmp_path):
    """Where few patients have a lesion, that is no news of each of the others."""
    ids = ("p", "q", "r", "s", "t")
    site = hospital(tmp_path, ids=ids)
    for case in ids[1:]:
        put(tmp_path, case, img=image(ids.index(case)), lab=np.zeros(SHAPE, np.uint8))
    assert sentences(preflight.check(site), "warning")[1:] == [
        "north: 4 of 5 label maps show none of the site's labels, q.nii.gz first",
    ]


def test_one_image_under_two_names(tmp_path):
    """A copy of a training case among the test cases is found by its bytes."""
    site = hospital(tmp_path, test=1)
    put(tmp_path, "r-visit1", img=image(0), lab=label())
    assert sentences(preflight.check(site)) == [
        "one image is in two splits: as 'r-visit1' at north (train) and as 'p-visit1' at north (test)"
    ]


def two_sites(folder, **south):
    """North and a target that share a folder of four files of two patients."""
    ids = ("p-visit1", "p-visit2", "q-visit1", "q-visit2")
    north = hospital(folder, ids=ids, cases=Selection(0, 1))
    data = replace(north.data, **({"cases": Selection(2, 4), "test": 1} | south))
    return north, replace(north, name="harbour", role="target", data=data)


def test_two_files_of_one_patient_in_two_splits(tmp_path):
    """Sites that read one folder must not share a patient."""
    assert sentences(preflight.agree(two_sites(tmp_path))) == []
    sites = two_sites(tmp_path, cases=Selection(1, 3))
    assert sentences(preflight.agree(sites)) == [
        "the patient 'p' is in two splits: 'p-visit1' at north (train) and 'p-visit2' at harbour (test)"
    ]


def test_one_case_in_two_splits(tmp_path):
    """Slices that overlap."""
    sites = two_sites(tmp_path, cases=Selection(0, 3))
    assert sentences(preflight.agree(sites)) == [
        "the case 'p-visit1' is in two splits: north (train) and harbour (test)"
    ]


def test_patients_of_two_folders_are_not_compared_by_name(tmp_path):
    """Every hospital has a patient number 1; the same image in both is found all the same."""
    north = hospital(tmp_path / "north", ids=("p-visit1",))
    south = hospital(tmp_path / "south", ids=("p-visit1",), name="south")
    put(tmp_path / "south", "p-visit1", img=image(5), lab=label())
    assert sentences(preflight.agree([north, south])) == []
    put(tmp_path / "south", "p-visit1", img=image(0), lab=label())
    assert sentences(preflight.agree([north, south])) == [
        "one image is in two splits: as 'p-visit1' at north (train) and as 'p-visit1' at south (train)"
    ]


def test_a_label_name_spelt_differently_by_two_sites(tmp_path):
    """The merged model would have two channels for one structure."""
    north = hospital(tmp_path / "north")
    south = hospital(tmp_path / "south", ids=("x",), name="south", labels={"Front": (1,), "back": (2,)})
    put(tmp_path / "south", "x", img=image(9), lab=label())
    assert preflight.agree([north, south]) == [
        Finding(
            "south",
            "",
            "error",
            "south: the label 'Front' is spelt 'front' at north; the same structure needs the same name",
        )
    ]


def test_sites_that_see_differently_are_told(tmp_path):
    """Other channels, another spacing: allowed, but worth knowing."""
    north = hospital(tmp_path / "north")
    south = hospital(tmp_path / "south", ids=("x",), name="south", modalities=("T2",), spacing_mm=(2.0, 2.0, 2.0))
    put(tmp_path / "south", "x", img=image(9), lab=label())
    found = preflight.agree([north, south])
    assert sentences(found, "warning") == [
        "south: 'modalities' is T2, but T1 at north",
        "south: 'spacing_mm' is (2.0, 2.0, 2.0), but not set at north",
    ]
    assert sentences(found) == []


def test_sites_without_data_do_not_stop_the_comparison(tmp_path):
    """Their own check has told what is wrong with them."""
    north = hospital(tmp_path / "north")
    lost = replace(north, name="lost", data=replace(north.data, folder=tmp_path / "none"))
    assert preflight.agree([north, lost]) == []


REAL = Path(__file__).parent.parent.parent / "shared" / "hippocampus"


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/hippocampus is not there")
def test_the_real_files_are_in_order():
    """Twenty real cases: no errors, and a warning that patients could not be checked."""
    data = Data(REAL, "msd", {"anterior": (1,), "posterior": (2,)}, modalities=("MRI",), cases=Selection(0, 20))
    found = preflight.check(Site("h", "source", data, OPEN, None, REAL, simulation=True), patch=(32, 48, 32))
    assert [f.severity for f in found] == ["warning"]


def test_sites_that_prepare_their_images_differently_are_told(tmp_path):
    """A box, a bias field and a histogram at one site only: a warning each, in words."""
    landmarks = Landmarks((1.0, 99.0), "nonzero", 3, (("T1", (0.0, 100.0)),))
    north = hospital(tmp_path / "a")
    south = hospital(tmp_path / "b", name="south", crop="otsu", bias_field=BiasField(), landmarks=landmarks)
    told = sentences(preflight.agree([north, south]), "warning")
    assert told[0] == "south: 'crop' is otsu, but not set at north"
    assert told[1] == ("south: 'bias_field' is shrink 4, iterations [50, 50, 50, 50], mask otsu, but not set at north")
    assert told[2].startswith("south: 'landmarks' is ")
    assert len(told) == 3
    assert preflight.agree([south, replace(south, name="west")])[-1].severity == "error"  # their images are the same


def test_landmarks_of_other_modalities_are_an_error_before_training(tmp_path):
    """The sentence names those that are missing."""
    landmarks = Landmarks((1.0, 99.0), "nonzero", 3, (("T2", (0.0, 100.0)),))
    (told,) = preflight.check(hospital(tmp_path, landmarks=landmarks))
    assert told == Finding("north", "", "error", "north: 'landmarks' expected the modalities T1, got none of T1")


def test_what_the_box_puts_outside_the_patch_is_told(tmp_path):
    """Without a box the patch lies in the middle of the volume and misses a corner; with one it does not."""
    values = np.zeros((24, 24, 24), np.float32)
    values[16:22, 16:22, 16:22] = np.random.default_rng(0).uniform(1, 2, (6, 6, 6))
    bars = np.zeros(values.shape, np.uint8)
    bars[17:19, 17:21, 17:21], bars[19:21, 17:21, 17:21] = 1, 2
    site = hospital(tmp_path, ids=())
    put(tmp_path, "p-visit1", img=values, lab=bars)
    (told,) = preflight.check(site, patch=(8, 8, 8))
    assert told.sentence.endswith("has 100% of its labelled voxels outside the net's patch")
    assert preflight.check(replace(site, data=replace(site.data, crop="nonzero")), patch=(8, 8, 8)) == []
