"""Hospitals from label maps: who has which brain, and what lies on the disk."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import made_heads
import nibabel
import numpy as np
import pytest
from commandline import command

from fedmerge import fusion
from fedmerge.bench import runs, suite
from fedmerge.cli.phantom import placed
from fedmerge.errors import ConfigError, DataError
from sites import cohort, freesurfer, making
from sites.folders import patient
from sites.freesurfer import LABELS

ANATOMY = Path(__file__).parents[2] / "shared/anatomy"


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """Five label maps."""
    return made_heads.folder(tmp_path_factory.mktemp("labels") / "heads", 5)


@pytest.fixture
def harbour(heads):
    """A target with two brains, three cases, small crops."""
    brains = dict(list(cohort.find(heads).items())[:2])
    return cohort.Hospital("harbour", brains, 3, cohort.TUMOUR, crop=24, seed=7)


def contents(folder):
    """Path -> bytes of all files below a folder."""
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(("count", "shares"), [(5, [1, 1, 3]), (6, [2, 1, 3]), (14, [4, 4, 6]), (30, [9, 8, 13])])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_brain_belongs_to_one_hospital(count, shares, seed):
    """All brains are dealt out, none twice; another seed deals them otherwise."""
    brains = {f"b{k:02d}": Path(f"b{k:02d}.nii") for k in range(count)}
    dealt = cohort.share(brains, seed)
    assert [len(part) for part in dealt] == shares
    assert sorted(name for part in dealt for name in part) == sorted(brains)
    assert dealt != cohort.share(brains, seed + 1)


@pytest.mark.parametrize("target", [True, False])
@pytest.mark.parametrize("count", [3, 4, 6])
def test_a_brain_is_in_one_part_of_a_split(count, target):
    """Validation, test and training share no patient, as the ids tell them; a source validates nothing."""
    brains = {f"b{k}": Path(f"b{k}.nii") for k in range(count)}
    hospital = cohort.Hospital("harbour", brains, 4 * count + 1, cohort.TUMOUR)
    validate, test = cohort.parts(hospital, target=target)
    rest = set(hospital.ids) - set(validate) - set(test)
    people = [{patient(case, None) for case in part} for part in (validate, test, rest)]
    assert len(hospital.ids) == 4 * count + 1
    assert bool(validate) == target
    assert test
    assert rest
    assert sum(len(part) for part in people) == len(set.union(*people)) == count


def test_too_few_brains_are_refused():
    """Three for the target, one for each source."""
    with pytest.raises(ConfigError, match="expected at least 5 label maps, three of them for the target, got 4"):
        cohort.share({str(k): Path() for k in range(4)}, 0)


def test_label_maps_are_found_in_a_folder_or_a_subjects_dir(tmp_path, heads):
    """Named by letters and digits; two of one name, and none at all, are errors."""
    assert list(cohort.find(heads)) == [f"head{k}" for k in range(5)]
    (tmp_path / "bert/mri").mkdir(parents=True)
    made_heads.save(tmp_path / "bert/mri/aseg.mgz", 0, "LIA")
    (tmp_path / "notes.txt").write_text("")
    assert list(cohort.find(tmp_path)) == ["bert"]
    (tmp_path / "be-rt.nii").write_text("")
    with pytest.raises(DataError, match="got 'bert' a second time"):
        cohort.find(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no label map"):
        cohort.find(tmp_path / "empty")
    with pytest.raises(DataError, match="there is no folder"):
        cohort.find(tmp_path / "none")


def test_a_case_is_drawn_by_its_name_only(harbour):
    """Twice the same; not another one among more cases; another name, seed or hospital is another patient."""
    brain = freesurfer.read(harbour.brains["head0"])
    case = cohort.case(harbour, brain, "sub-head0_scan001")
    more = cohort.case(replace(harbour, cases=9), brain, "sub-head0_scan001")
    for one, same in zip((*case.images, case.labels, case.affine), (*more.images, more.labels, more.affine)):
        np.testing.assert_array_equal(one, same)
    for other, name in (
        (harbour, "sub-head0_scan002"),
        (replace(harbour, seed=8), "sub-head0_scan001"),
        (replace(harbour, name="north"), "sub-head0_scan001"),
    ):
        assert not np.array_equal(cohort.case(other, brain, name).labels, case.labels)


def test_every_target_case_has_the_whole_tumour(harbour):
    """All three parts are in the crop of each case, in the middle of it."""
    brain = freesurfer.read(harbour.brains["head0"])
    for number in range(1, 7):
        labels = cohort.case(replace(harbour, crop=48), brain, f"sub-head0_scan{number:03d}").labels
        assert {LABELS[name] for name in cohort.TUMOUR} <= set(np.unique(labels))
        tumour = labels >= LABELS["oedema"]
        assert not tumour[[0, -1]].any()
        assert not tumour[:, [0, -1]].any()
        assert not tumour[:, :, [0, -1]].any()


def test_one_process_or_two_write_the_same_bytes(tmp_path, harbour):
    """Images, label maps, records, description."""
    assert making.write(tmp_path / "one", [harbour], workers=1) == 3
    assert making.write(tmp_path / "two", [harbour], workers=2) == 3
    one = contents(tmp_path / "one")
    assert len(one) == 3 * 3 + 1
    assert one == contents(tmp_path / "two")
    image = nibabel.load(tmp_path / "one/harbour/imagesTr/sub-head0_scan001.nii.gz")
    assert image.shape == (24, 24, 24, 2)
    assert image.header.get_zooms()[:3] == (2, 2, 2)
    told = json.loads((tmp_path / "one/harbour/dataset.json").read_text())
    assert told["modality"] == {"0": "T1", "1": "T2"}
    assert told["labels"]["18"] == "enhancing"


def test_what_is_there_is_kept(tmp_path, harbour):
    """Nothing is made twice; what is missing, half made, made otherwise or from another brain is made again."""
    making.write(tmp_path, [harbour], 1)
    before = contents(tmp_path)
    home = tmp_path / "harbour"
    assert making.write(tmp_path, [harbour], 1) == 0
    (home / "labelsTr/sub-head0_scan001.nii.gz").unlink()
    assert making.write(tmp_path, [harbour], 1) == 1
    (home / "imagesTr/sub-head1_scan001.json").unlink()
    assert making.write(tmp_path, [harbour], 1) == 1
    assert contents(tmp_path) == before
    assert making.write(tmp_path, [replace(harbour, contrasts=("T1", "FLAIR"))], 1) == 3
    swapped = dict(zip(harbour.brains, reversed(harbour.brains.values()), strict=True))
    assert making.write(tmp_path, [replace(harbour, brains=swapped)], 1) == 3
    assert making.write(tmp_path, [replace(harbour, brains=swapped, cases=2)], 1) == 0
    assert len(contents(tmp_path)) == 2 * 3 + 1


def test_foreign_cases_are_left_alone(tmp_path, harbour):
    """A folder with a case that was not made here is refused, and nothing of it is touched."""
    making.write(tmp_path, [harbour], 1)
    shutil.copy(tmp_path / "harbour/imagesTr/sub-head0_scan001.nii.gz", tmp_path / "harbour/imagesTr/patient.nii.gz")
    before = contents(tmp_path)
    with pytest.raises(DataError, match="holds the case 'patient', which was not made here"):
        making.write(tmp_path, [harbour], 1)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"contrasts": ("T1", "PD")}, "no contrast 'PD'; there are T1, T2, T1ce, FLAIR"),
        ({"contrasts": ("T1", "T1")}, "contrasts that differ, got T1, T1"),
        ({"crop": 8}, "16 to 96 voxels a side, or 0 for whole heads, got 8"),
        ({"cases": 1}, "a case of each of its 2 brains or more, got 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, harbour, changed, sentence):
    """Before anything is written."""
    with pytest.raises(ConfigError, match=sentence):
        making.write(tmp_path, [replace(harbour, **changed)], 1)
    assert not contents(tmp_path)


def test_the_command_writes_hospitals_and_a_campaign_that_check_accepts(tmp_path, heads, capsys):
    """Twelve cases a hospital, by whole brains; a second call keeps them; what it cannot do, a sentence says."""
    folder = tmp_path / "hospitals"
    words = ("phantom", folder, "--from-labels", heads, "--crop", "16", "--workers", "1")
    assert command(*words, "--cases", "12") == 0
    assert "36 cases made, 0 kept" in capsys.readouterr().err
    assert command("check", folder / "campaign.toml") == 0
    assert "3 sites, 0 errors" in capsys.readouterr().out
    read = suite.read(str(folder / "anatomy.toml"))
    fusion.expand(read.methods, runs.sources(runs.tables(read.arms[0], data=None, hospitals=folder)))
    assert command(*words, "--cases", "12") == 0
    assert "0 cases made, 36 kept" in capsys.readouterr().err
    for extra, sentence in (
        (("--cases", "9"), "of 9 at harbour, 3 are left to train 4"),
        (("--crop", "20"), "--crop expected a multiple of 8 voxels, got 20"),
        (("--contrasts", "T1,,T2"), "there is no contrast ''"),
    ):
        assert command(*words, *extra) == 2
        assert sentence in capsys.readouterr().err
    assert command("phantom", tmp_path / "made-up", "--crop", "16") == 2
    assert "--crop goes with --from-labels" in capsys.readouterr().err
    assert command("phantom", heads, "--from-labels", heads) == 2
    assert "is neither empty nor one of hospitals from label maps" in capsys.readouterr().err


def test_whole_heads_are_seen_at_twice_their_voxel_size(harbour):
    """A site of whole heads resamples; one of crops keeps its voxels; both train on what no part holds back."""
    brains = {f"b{k}": Path(f"b{k}.nii") for k in range(3)}
    site = {"name": "harbour", "role": "target", "data": {"folder": "harbour", "train": 4}}
    for crop, spacing in ((0, [4.0, 4.0, 4.0]), (48, None)):
        hospital = replace(harbour, brains=brains, cases=12, crop=crop)
        data = placed(site, hospital)["data"]
        assert data.get("spacing_mm") == spacing
        assert len(data["validate"]) == len(data["test"]) == 4
    with pytest.raises(ConfigError, match="of 9 at harbour, 3 are left to train 4"):
        placed(site, replace(hospital, cases=9))


@pytest.mark.skipif(not ANATOMY.is_dir(), reason="needs real label maps in ../shared/anatomy")
def test_real_label_maps_become_cases():
    """A real brain has all 14 classes in the table's values, and a whole head shows each of them."""
    path = sorted(ANATOMY.glob("*.nii.gz"))[0]
    brain = freesurfer.read(path)
    assert set(np.unique(freesurfer.LABEL_OF[brain.structures])) == set(range(16))
    hospital = cohort.Hospital("south", {"a": path}, 1, tuple(freesurfer.CLASSES), contrasts=("T1",), crop=0)
    made = cohort.case(hospital, brain, "sub-a_scan001")
    assert made.images[0].shape == made.labels.shape == (88, 104, 88)
    ml = np.bincount(made.labels.ravel(), minlength=19) * 8 / 1000
    scaled = np.bincount(freesurfer.LABEL_OF[brain.structures].ravel(), minlength=19) / 1000
    inside = [k for k in range(1, 15) if k != LABELS["csf"]]
    np.testing.assert_allclose(ml[inside] / scaled[inside], 1, atol=0.5)
    values = made.images[0]
    assert values[made.labels == LABELS["white-matter"]].mean() > 1.2 * values[made.labels == LABELS["cortex"]].mean()
