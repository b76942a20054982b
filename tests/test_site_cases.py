"""Finding, choosing, splitting and dealing out cases."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_cases import decathlon, found, head, site_of, write

from fedmerge.errors import ConfigError, DataError
from sites import cases, folders, preprocess
from sites.config import Data, Selection

HIPPOCAMPUS = Path(__file__).parent.parent.parent / "shared" / "hippocampus"

needs_hippocampus = pytest.mark.skipif(not HIPPOCAMPUS.is_dir(), reason="../shared/hippocampus is not there")


def test_a_decathlon_folder(tmp_path):
    """Sorted ids, one image each; names of modalities from dataset.json; dot files are not cases."""
    data = decathlon(tmp_path, ["b_001", "a_002"])
    (tmp_path / "imagesTr" / "._a_002.nii.gz").write_bytes(b"")
    got = cases.find(data)
    assert [f.id for f in got] == ["a_002", "b_001"]
    assert got[0].images == (tmp_path / "imagesTr" / "a_002.nii.gz",)
    assert got[0].patient is None
    assert cases.modalities(data) == ("MRI",)


def test_an_nnunet_folder(tmp_path):
    """One file a channel, in the order of the numbers; `channel_names` names them."""
    image, label = head(0)
    for name in ("x_0001", "x_0000", "y_0000", "y_0001"):
        write(tmp_path / "imagesTr" / f"{name}.nii.gz", image)
    for name in ("x", "y"):
        write(tmp_path / "labelsTr" / f"{name}.nii.gz", label)
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1", "1": "FLAIR"}}))
    data = Data(tmp_path, "msd", {"front": (1,), "back": (2,)})
    assert cases.modalities(data) == ("T1", "FLAIR")
    got = cases.find(data)
    assert [f.id for f in got] == ["x", "y"]
    assert [p.name for p in got[1].images] == ["y_0000.nii.gz", "y_0001.nii.gz"]
    (loaded,) = cases.load(site_of(data), got[:1], patch=(8, 8, 8))
    assert loaded.image.shape == (2, 8, 8, 8)


def test_nnunets_endings(tmp_path):
    """Any ending that can be read; another one is told before the folder looks empty; two files for one are told."""
    data = decathlon(tmp_path, ["a"])
    told = tmp_path / "dataset.json"
    told.write_text(json.dumps({"channel_names": {"0": "MRI"}, "file_ending": ".nii.gz"}))
    assert [one.id for one in cases.find(data)] == ["a"]
    write(tmp_path / "imagesTr/a.nii", head(0)[0])
    with pytest.raises(DataError, match=r"case 'a' has two images, imagesTr/a.nii and imagesTr/a.nii.gz$"):
        cases.find(data)
    told.write_text(json.dumps({"channel_names": {"0": "MRI"}, "file_ending": ".nrrd"}))
    with pytest.raises(DataError, match=r"has the file_ending '.nrrd', expected one of .nii.gz, .nii, .mgz, .mgh$"):
        cases.find(data)


def test_a_file_with_all_channels(tmp_path):
    """The Decathlon's 4D images give one channel for each modality."""
    image, label = head(0)
    write(tmp_path / "imagesTr" / "x.nii.gz", np.stack([image, -image], -1))
    write(tmp_path / "labelsTr" / "x.nii.gz", label)
    data = Data(tmp_path, "msd", {"front": (1,), "back": (2,)}, modalities=("T1", "T2"))
    (loaded,) = cases.load(site_of(data), cases.find(data), patch=(8, 8, 8))
    torch.testing.assert_close(loaded.image[0], -loaded.image[1], atol=0.02, rtol=0)


@pytest.mark.parametrize("prefix", ["", "{}_", "{}-"])
def test_a_folder_a_case(tmp_path, prefix):
    """Files named by modality, with or without the case's name in front, as BraTS has them."""
    image, label = head(0)
    for case in ("p2", "p1"):
        for name, array in (("T1", image), ("FLAIR", image), ("label", label)):
            write(tmp_path / case / f"{prefix.format(case)}{name}.nii.gz", array)
    data = Data(tmp_path, "folders", {"front": (1,), "back": (2,)}, modalities=("FLAIR", "T1"))
    got = cases.find(data)
    assert [f.id for f in got] == ["p1", "p2"]
    assert [p.name.removeprefix(prefix.format("p1")) for p in got[0].images] == ["FLAIR.nii.gz", "T1.nii.gz"]
    assert cases.modalities(replace(data, modalities=())) == ("FLAIR", "T1")


def test_a_sites_own_names_of_files(tmp_path):
    """`files` says what the site calls a modality; the order of the channels is that of `modalities`."""
    image, label = head(0)
    for name, array in (("t1_mprage", image), ("flair", -image), ("seg", label)):
        write(tmp_path / f"p1/{name}.nii.gz", array)
    files = {"T1": "t1_mprage", "FLAIR": "flair"}
    data = Data(tmp_path, "folders", {"front": (1,)}, modalities=("FLAIR", "T1"), files=files, label_file="seg")
    (one,) = cases.find(data)
    assert [path.name for path in (*one.images, one.label)] == ["flair.nii.gz", "t1_mprage.nii.gz", "seg.nii.gz"]


def test_an_empty_folder(tmp_path):
    """Empty, missing, or of another layout: each says which folder it means."""
    data = Data(tmp_path, "msd", {"a": (1,)})
    with pytest.raises(DataError, match=f"^{tmp_path} holds no case in the layout 'msd'$"):
        cases.find(data)
    with pytest.raises(DataError, match=r"holds no case in the layout 'folders'$"):
        cases.find(replace(data, layout="folders"))
    with pytest.raises(DataError, match=f"^there is no folder {tmp_path}/none$"):
        cases.find(replace(data, folder=tmp_path / "none"))


def test_modalities_that_differ_between_cases(tmp_path):
    """The case that lacks one is named, with what it has and what the others have."""
    image, label = head(0)
    for case, names in {"p1": ("T1", "FLAIR", "label"), "p2": ("T1", "label")}.items():
        for name in names:
            write(tmp_path / case / f"{name}.nii.gz", label if name == "label" else image)
    data = Data(tmp_path, "folders", {"front": (1,), "back": (2,)})
    sentence = rf"^{tmp_path.name}: case 'p2' has the modalities T1, expected FLAIR, T1$"
    with pytest.raises(DataError, match=sentence):
        cases.find(data)


def test_channels_that_differ_between_cases(tmp_path):
    """The same in nnU-Net's folders."""
    image, label = head(0)
    for name in ("x_0000", "x_0001", "y_0000"):
        write(tmp_path / "imagesTr" / f"{name}.nii.gz", image)
    for name in ("x", "y"):
        write(tmp_path / "labelsTr" / f"{name}.nii.gz", label)
    data = Data(tmp_path, "msd", {"front": (1,)}, modalities=("T1", "T2"))
    with pytest.raises(DataError, match=r"case 'y' has the modalities T1, expected T1, T2$"):
        cases.find(data)


def test_images_without_labels_and_labels_without_images(tmp_path):
    """A case has both."""
    data = decathlon(tmp_path, ["a", "b"])
    (tmp_path / "labelsTr" / "a.nii.gz").unlink()
    (tmp_path / "imagesTr" / "b.nii.gz").unlink()
    _, problems = cases.scan(data)
    assert problems["a"].endswith("case 'a' has no label map")
    assert problems["b"].endswith("case 'b' has the modalities none, expected MRI")


def test_a_broken_dataset_json(tmp_path):
    """It is named, and why."""
    data = decathlon(tmp_path, ["a"])
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset.json is not a dataset.json as of the Decathlon or nnU-Net"):
        cases.find(data)


@pytest.mark.parametrize(
    ("case", "patient"),
    [
        ("sub-01_ses-2", "sub-01"),
        ("sub-01", "sub-01"),
        ("BraTS-GLI-00005-100", "BraTS-GLI-00005"),
        ("anna_visit2", "anna"),
        ("anna-ses-b", "anna"),
        ("hippocampus_001", None),
        ("BraTS2021_00005", None),
    ],
)
def test_ids_that_tell_the_patient(case, patient):
    """Usual spellings of a second visit; a number alone may be anything."""
    assert folders.patient(case, None) == patient
    assert folders.patient("k7-left", r"k(\d+)") == "7"


def test_selection_is_a_slice_of_the_order():
    """Sorted, or shuffled by a seed that gives the same order everywhere."""
    all_of_them = found(*"abcdefgh")
    assert [f.id for f in cases.select(all_of_them, Selection(2, 4))] == ["c", "d"]
    assert cases.select(all_of_them, Selection()) == all_of_them
    first = cases.select(all_of_them, Selection(0, 4, shuffle=1))
    rest = cases.select(all_of_them, Selection(4, None, shuffle=1))
    assert sorted(f.id for f in [*first, *rest]) == list("abcdefgh")
    assert [f.id for f in first] == ["a", "c", "d", "b"]
    assert first != cases.select(all_of_them, Selection(0, 4, shuffle=2))


def test_several_slices_follow_one_another():
    """In the order in which they are written; a case that two of them hold is named."""
    chosen = Selection(4, 6, more=((0, 1), (6, None)))
    assert [f.id for f in cases.select(found(*"abcdefgh"), chosen)] == ["e", "f", "a", "g", "h"]
    with pytest.raises(ConfigError, match="the slice '5:7' holds the case 'f', which another slice holds already"):
        cases.select(found(*"abcdefgh"), Selection(4, 6, more=((5, 7),)))


def test_selection_beyond_the_folder_is_refused():
    """A slice that is cut short would quietly be another experiment."""
    for chosen in (Selection(0, 9), Selection(8, None)):
        with pytest.raises(ConfigError, match="reaches beyond the 8 cases that there are"):
            cases.select(found(*"abcdefgh"), chosen)


def test_a_list_of_ids(tmp_path):
    """In the list's own order; an id that is not there, or twice, is named."""
    path = tmp_path / "ids.txt"
    path.write_text("c\na\n")
    assert [f.id for f in cases.select(found(*"abc"), Selection(ids=path))] == ["c", "a"]
    path.write_text("c x")
    with pytest.raises(ConfigError, match=r"ids.txt lists the case 'x', which is not among the site's files"):
        cases.select(found(*"abc"), Selection(ids=path))
    path.write_text("c c")
    with pytest.raises(ConfigError, match="lists the case 'c' twice"):
        cases.select(found(*"abc"), Selection(ids=path))


def test_only_the_training_cases_depend_on_the_seed():
    """Validation and test are the first of the selection; fewer training cases are a prefix of more."""
    data = Data(Path("x"), "msd", {"a": (1,)}, validate=2, test=3)
    ids = found(*"abcdefghijkl")
    one = cases.split(ids, data, seed=0, target_cases=4)
    two = cases.split(ids, data, seed=1, target_cases=4)
    assert [f.id for f in one.validate] == ["a", "b"]
    assert [f.id for f in one.test] == ["c", "d", "e"]
    assert (one.validate, one.test) == (two.validate, two.test)
    assert one.train != two.train
    assert cases.split(ids, data, seed=0, target_cases=2).train == one.train[:2]
    assert len(cases.split(ids, data, seed=0).train) == 7
    assert not one.by_patient


@pytest.mark.parametrize("seed", range(5))
def test_no_patient_is_in_two_parts(seed):
    """Both files of a patient go to one part; where that part is full the second one stays out."""
    names = [f"sub-{k // 2}_ses-{k % 2}" for k in range(20)]
    data = Data(Path("x"), "msd", {"a": (1,)}, validate=3, test=5)
    all_of_them = found(*names, patients=[name[:5] for name in names])
    got = cases.split(cases.select(all_of_them, Selection(shuffle=seed)), data, seed=seed)
    parts = [{f.patient for f in part} for part in (got.train, got.validate, got.test)]
    assert (len(got.validate), len(got.test)) == (3, 5)
    assert len(set.union(*parts)) == sum(map(len, parts))
    assert got.by_patient


def test_too_few_cases_are_counted():
    """What was wanted for which part, and what there is."""
    data = Data(Path("x"), "msd", {"a": (1,)}, validate=2, test=3)
    with pytest.raises(ConfigError, match=r"^x: expected 4 cases to train, got 1 of 6 \(2 validate, 3 test\)$"):
        cases.split(found(*"abcdef"), data, seed=0, target_cases=4)
    with pytest.raises(ConfigError, match="expected 3 cases to test, got 2"):
        cases.split(found(*"abcd"), data, seed=0)
    with pytest.raises(ConfigError, match="expected 1 cases to train, got 0"):
        cases.split(found(*"abcde"), data, seed=0)


def few(count):
    """Cases whose image tells which one it is."""
    one = torch.ones(1, 2, 2, 2)
    grid = preprocess.Grid((2, 2, 2), (1, 1, 1), (2, 2, 2), (1, 1, 1))
    return [cases.Case(str(k), one * k, one.long() * k, np.zeros(1), grid, None) for k in range(count)]


def test_batches_are_a_pure_function_of_the_step():
    """Asked in any order, the same step gives the same batch; another seed gives another order."""
    one, two = cases.batches(few(7), 2, seed=0), cases.batches(few(7), 2, seed=0)
    steps = [9, 3, 0, 22, 3]
    for step in steps:
        torch.testing.assert_close(one(step), two(step))
    order = [one(step)[0][:, 0, 0, 0, 0].tolist() for step in range(20)]
    assert order != [cases.batches(few(7), 2, seed=1)(step)[0][:, 0, 0, 0, 0].tolist() for step in range(20)]
    x, y = one(0)
    assert (x.shape, y.shape, y.dtype) == ((2, 1, 2, 2, 2), (2, 1, 2, 2, 2), torch.int64)


@pytest.mark.parametrize(("count", "size"), [(6, 2), (7, 2), (5, 4), (1, 3)])
def test_an_epoch_shows_every_case(count, size):
    """The last batch is filled up from the beginning of the epoch; no batch is smaller than asked."""
    batch = cases.batches(few(count), size, seed=0)
    per_epoch = -(-count // size)
    for epoch in range(3):
        seen = [batch(epoch * per_epoch + k)[0][:, 0, 0, 0, 0].tolist() for k in range(per_epoch)]
        assert all(len(one) == size for one in seen)
        assert sorted({int(k) for one in seen for k in one}) == list(range(count))


def test_no_cases_no_batches():
    """There is nothing to deal out."""
    with pytest.raises(DataError, match="batches expected at least one case, got none"):
        cases.batches([], 2, seed=0)


@needs_hippocampus
def test_real_files_load_fast_and_lose_nothing_to_the_crop():
    """196 cases are found; at 2 mm a crop of 16x24x16 keeps 99.9 % of the labelled voxels."""
    data = Data(
        HIPPOCAMPUS, "msd", {"anterior": (1,), "posterior": (2,)}, spacing_mm=(2.0, 2.0, 2.0), test=50, validate=4
    )
    everything = cases.find(data)
    assert len(everything) == 196
    loaded = cases.load(site_of(data), everything[:40], patch=(16, 24, 16))
    outside = [preprocess.outside(case.truth, case.grid) for case in loaded]
    assert np.mean(outside) < 1e-3
    assert not cases.split(everything, data, seed=0).by_patient
