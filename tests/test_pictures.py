"""Pictures of one class each: found in class folders, read, divided so that every part has its share of each class."""

import json
from collections import Counter
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from fedmerge.errors import ConfigError, DataError
from sites import cases, pictures, preflight, spots, tables
from sites.records import OPEN, Scanner, Site

NAMES = ("normal", "ring", "mass")


@pytest.fixture
def folder(tmp_path):
    """Seven pictures of each class, each class brighter than the one before; two of each patient."""
    for number, name in enumerate(NAMES):
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in range(7):
            pixels = np.random.default_rng([number, k]).integers(0, 80, (10, 12)) + 60 * number
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / name / f"p{number}{k // 2}_visit{k}.png")
    return tmp_path / "data"


def site(folder, **table):
    """A site of this folder."""
    table = {"folder": str(folder), "layout": "classes", "labels": list(NAMES), **table}
    return Site(
        "north", "source", tables.data(table, "north", folder), OPEN, None, folder.parent / "work", simulation=True
    )


def loaded(one, patch=(8, 6)):
    """All of its pictures."""
    return cases.load(one, cases.find(one.data), patch=patch)


def test_a_class_folder_is_the_label_in_the_order_of_the_site(folder):
    """Classes count from 0; several folders may be one class, and a declared folder may be left aside."""
    labels = {"mass": "mass", "other": ["normal", "ring"]}
    found = {case.id: case for case in loaded(site(folder, labels=labels))}
    assert len(found) == 21
    assert (found["mass/p20_visit0"].label.item(), found["mass/p20_visit0"].truth) == (0, "mass")
    assert (found["ring/p10_visit1"].label.item(), found["ring/p10_visit1"].truth) == (1, "other")
    assert {case.group for case in loaded(site(folder, labels=["ring"], background=["normal", "mass"]))} == {"ring"}


def test_a_folder_that_is_declared_nowhere_and_one_without_pictures_are_told(folder):
    """An unknown class is not passed over in silence."""
    with pytest.raises(DataError, match="the class folder 'ring' is not declared; declared are normal, mass"):
        cases.find(site(folder, labels=["normal", "mass"]).data)
    with pytest.raises(DataError, match="the class folder 'cyst' holds no picture"):
        cases.find(site(folder, labels=[*NAMES, "cyst"]).data)
    (folder / "ring/p10_visit0.jpg").write_bytes((folder / "ring/p10_visit0.png").read_bytes())
    with pytest.raises(DataError, match="two pictures have the name 'ring/p10_visit0'"):
        cases.find(site(folder).data)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([1, 2], "'labels' expected a list of names"),
        ({"a": "ring", "b": ["ring"]}, "value ring of 'labels' is both 'a' and 'b'"),
        ({"a": "../ring"}, "'labels.a' expected names of class folders, got '../ring'"),
        ([], "'labels' expected at least one label, got none"),
    ],
)
def test_labels_that_are_no_folders_are_told(folder, labels, sentence):
    """With key and value."""
    with pytest.raises(ConfigError, match=sentence):
        site(folder, labels=labels)


def test_every_part_takes_the_classes_in_turn_and_patients_stay_together(folder):
    """Three of each validate or test, whatever the seed; both visits of a patient are in one part."""
    one = site(folder, validate=3, test=3, train=6)
    drawn = set()
    for seed in range(4):
        parts = cases.split(cases.find(one.data), one.data, seed=seed)
        assert [Counter(f.group for f in part).most_common() for part in (parts.validate, parts.test)] == [
            [(name, 1) for name in sorted(NAMES)] for _ in range(2)
        ]
        assert Counter(f.group for f in parts.train) == dict.fromkeys(NAMES, 2)
        by_part = [{f.patient for f in part} for part in (parts.train, parts.validate, parts.test)]
        assert sum(map(len, by_part)) == len(set().union(*by_part))
        drawn.add(tuple(f.id for f in parts.train))
    assert parts.by_patient
    assert len(drawn) > 1


def test_each_fold_has_its_share_of_each_class(folder):
    """Also where the number of folds is that of the classes."""
    labelled = loaded(site(folder))
    folds = [cases.fold(labelled, number, 3) for number in range(3)]
    for fold in folds:
        assert all(2 <= count <= 3 for count in Counter(case.truth for case in fold["test"]).values())
        assert len(fold["train"]) + len(fold["test"]) == 21
    assert sorted(case.id for fold in folds for case in fold["test"]) == sorted(case.id for case in labelled)


def test_batches_are_images_and_classes(folder):
    """(B, C, rows, columns) float32 of mean 0 and deviation 1, and (B,) int64."""
    images, labels = cases.batches(loaded(site(folder)), 5, 0)(0)
    assert (images.shape, images.dtype, labels.shape, labels.dtype) == ((5, 1, 8, 6), torch.float32, (5,), torch.int64)
    assert images.mean((2, 3)).abs().max() < 1e-5
    assert (images.std((2, 3), correction=0) - 1).abs().max() < 1e-4


def test_files_of_every_kind_are_read_as_they_are(tmp_path):
    """Grey of 8 and 16 bits, colours, transparency and a NIfTI slice: the numbers of the file, in rows and columns."""
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    deep = grey.astype(np.uint16) * 200
    colours = np.stack([grey, grey // 2, 255 - grey], axis=2)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(colours).save(tmp_path / "colours.png")
    Image.fromarray(np.dstack([colours, grey])).save(tmp_path / "clear.png")
    nibabel.save(nibabel.Nifti1Image(deep.astype(np.float32)[:, :, None], np.eye(4)), tmp_path / "slice.nii.gz")
    for name, expected in (("grey.png", grey), ("deep.png", deep), ("slice.nii.gz", deep)):
        assert np.array_equal(pictures.read(tmp_path / name, 1), expected[None].astype(np.float32)), name
    for name in ("colours.png", "clear.png"):
        assert np.array_equal(pictures.read(tmp_path / name, 3), np.moveaxis(colours, 2, 0)), name
    assert np.array_equal(pictures.read(tmp_path / "grey.png", 3), np.stack([grey] * 3))


def test_what_is_no_picture_is_told_with_site_and_file(folder):
    """By the loader, and by the check that trains nothing; a flat picture is a warning."""
    (folder / "ring/p10_visit0.png").write_bytes(b"nothing")
    Image.fromarray(np.full((9, 9), 7, np.uint8)).save(folder / "mass/p29_visit0.png")
    one = site(folder)
    with pytest.raises(DataError, match=r"north: p10_visit0.png cannot be read as a picture"):
        loaded(one)
    told = {(f.file, f.severity) for f in preflight.check(one, (8, 6)) if f.file}
    assert told == {("p10_visit0.png", "error"), ("p29_visit0.png", "warning")}
    with pytest.raises(DataError, match="expected 1 or 3 modalities"):
        loaded(site(folder, modalities=["a", "b"]))


@pytest.mark.parametrize(("key", "value"), [("spacing_mm", 2.0), ("control", "shuffled-labels"), ("label_file", "seg")])
def test_keys_that_speak_of_voxels_are_refused(folder, key, value):
    """They would change nothing, and their user would not know."""
    with pytest.raises(ConfigError, match=f"north: '{key}' means nothing in the layout 'classes'"):
        site(folder, **{key: value})


@pytest.mark.parametrize("patch", [(8, 8, 8), (8,), (0, 8)])
def test_a_net_for_volumes_is_told_before_a_file_is_read(folder, patch):
    """The layout says what the site has."""
    with pytest.raises(ConfigError, match="north: 'patch' expected two numbers of pixels"):
        cases.load(site(folder), [], patch=patch)
    assert "expected two numbers of pixels" in preflight.check(site(folder), patch)[0].sentence


def test_a_scanner_changes_the_picture_and_meaningless_labels_the_class(folder):
    """The scanner draws by site and case; a lent label is used for training, the picture's own for scores."""
    one = site(folder)
    shifted = replace(one, scanner=Scanner(gamma=2.0, noise=0.1))
    before, after = loaded(one)[0], loaded(shifted)[0]
    assert not torch.equal(before.image, after.image)
    assert torch.equal(after.image, loaded(replace(shifted, work=folder))[0].image)
    dealt = site(folder, meaningless=1)
    parts = cases.split(cases.find(dealt.data), dealt.data, seed=0)
    lent = cases.load(dealt, parts.train, patch=(8, 6))
    assert all(case.truth == case.id.partition("/")[0] for case in lent)
    assert any(NAMES[case.label] != case.truth for case in lent)
    assert Counter(NAMES[case.label] for case in lent) == Counter(case.truth for case in lent)


def test_the_digest_of_a_site_knows_the_class_of_each_picture(folder):
    """A picture that moves to another class makes other data; where the folder lies does not."""
    one = site(folder)
    before = cases.digest(cases.find(one.data), one.data)
    (folder / "ring/p10_visit0.png").rename(folder / "mass/p10_visit0.png")
    assert cases.digest(cases.find(one.data), one.data) != before
    (folder / "mass/p10_visit0.png").rename(folder / "ring/p10_visit0.png")
    moved = site(folder.rename(folder.with_name("elsewhere")))
    assert cases.digest(cases.find(moved.data), moved.data) == before


def test_synthetic_pictures_are_the_same_each_time_and_the_classes_come_in_turn(tmp_path):
    """The first cases of a larger hospital are the smaller one; another folder's hospital is refused."""
    for name, count in (("a", 12), ("b", 7)):
        spots.ensure(tmp_path / name, "south", count, 3)
    small = sorted(p.relative_to(tmp_path / "b") for p in (tmp_path / "b").glob("*/*.png"))
    assert len(small) == 7
    assert {path.parts[0] for path in small} == set(spots.CLASSES)
    assert all((tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes() for path in small)
    assert json.loads((tmp_path / "a/dataset.json").read_text())["phantom"]["cases"] == 12
    with pytest.raises(DataError, match="expected the synthetic hospital profile north"):
        spots.ensure(tmp_path / "a", "north", 12, 3)
    with pytest.raises(ConfigError, match="no synthetic hospital 'west'"):
        spots.ensure(tmp_path / "c", "west", 12)
