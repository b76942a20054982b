"""The steps of preprocessing: read from a site's table and from a model's card, and done in their order."""

from dataclasses import replace

import numpy as np
import pytest
from made_cases import decathlon, site_of, write

from fedmerge.errors import ConfigError, DataError
from sites import cases, foreground, histogram, intensities, landmarks, preprocess, steps, tables, volumes
from sites.records import BiasField, Data, Landmarks
from sites.steps import Steps

LANDMARKS = Landmarks((1.0, 50.0, 99.0), "nonzero", 12, (("T1", (0.0, 40.0, 100.0)), ("T2", (0.0, 55.5, 100.0))))
ALL = Steps("resample", "otsu", BiasField(2, (30, 20), "nonzero"), LANDMARKS, (0.5, 99.5))


@pytest.mark.parametrize("given", [Steps(), ALL, Steps(bias_field=BiasField())])
def test_a_card_says_what_was_done(given):
    """Reading undoes writing."""
    assert steps.read(steps.table(given), "card") == given


def test_the_table_of_a_site_is_read(tmp_path):
    """The landmarks from their file, the others from the table; what is not set is not done."""
    landmarks.write(LANDMARKS, tmp_path / "l.json")
    table = {"folder": "x", "labels": {"a": 1}}
    assert steps.of(tables.data(table, "north", tmp_path)) == Steps()
    more = {"grids": "resample", "crop": "otsu", "landmarks": "l.json", "clip": [0.5, 99.5]}
    n4 = {"shrink": 2, "iterations": [30, 20], "mask": "nonzero"}
    assert steps.of(tables.data({**table, **more, "bias_field": n4}, "north", tmp_path)) == ALL
    assert steps.of(tables.data({**table, "bias_field": True}, "north", tmp_path)).bias_field == BiasField()
    assert steps.of(tables.data({**table, "bias_field": False}, "north", tmp_path)).bias_field is None


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("grids", "guess", "north: 'grids' expected refuse or resample, got 'guess'"),
        ("crop", "skull", "north: 'crop' expected nonzero or otsu or mask, got 'skull'"),
        ("bias_field", 3, "north, bias_field expected true, false or a table, got 3"),
        ("bias_field", {"iterations": []}, "north, bias_field: 'iterations' expected a list of positive whole numbers"),
        ("bias_field", {"levels": 3}, "north, bias_field: unknown key 'levels'"),
        ("bias_field", {"shrink": 0}, "north, bias_field: 'shrink' expected at least 1, got 0"),
        ("landmarks", "none.json", "north: the landmarks none.json cannot be read: No such file"),
        ("landmarks", "bad.json", "north: bad.json expected landmarks .JSON., got something else"),
        ("clip", [99, 1], "north: 'clip' expected two percentiles from 0 to 100, the lower one first, got .99, 1."),
        ("clip", 99, "north: 'clip' expected two percentiles from 0 to 100, the lower one first, got 99"),
        (
            "clip",
            [1, 100.5],
            "north: 'clip' expected two percentiles from 0 to 100, .* got .1, 100.5.",
        ),
        ("cache_gb", -1.0, "north: 'cache_gb' expected a size from 0, got -1.0"),
        ("workers", 0, "north: 'workers' expected at least 1, got 0"),
    ],
)
def test_what_is_impossible_is_named(tmp_path, key, value, sentence):
    """Before a file of a patient is opened."""
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ConfigError, match=sentence):
        tables.data({"folder": "x", "labels": {"a": 1}, key: value}, "north", tmp_path)


@pytest.mark.parametrize("key", ["grids", "crop", "bias_field", "landmarks", "clip", "cache_gb", "workers"])
def test_pictures_have_no_voxels_to_prepare(tmp_path, key):
    """In the layout of classes a key of volumes means nothing."""
    table = {"folder": "x", "layout": "classes", "labels": {"a": "a", "b": "b"}, key: 1}
    with pytest.raises(ConfigError, match=f"'{key}' means nothing in the layout 'classes'"):
        tables.data(table, "north", tmp_path)


def test_the_steps_are_done_in_their_order():
    """Box, bias field, histogram, clip and normalise: each by its own function, one after the other."""
    dice = np.random.default_rng(0)
    image = np.zeros((20, 18, 16), np.float32)
    image[4:16, 3:15, 4:14] = dice.gamma(4, 30, (12, 12, 10))
    one = Steps(crop="nonzero", landmarks=LANDMARKS)
    ((got,), box) = intensities.apply([image], ("T2",), one, (1.0, 1.0, 1.0))
    cut = image[4:16, 3:15, 4:14]
    own = histogram.quantiles(cut, foreground.mask(cut, "nonzero"), LANDMARKS.percentiles)
    np.testing.assert_array_equal(got, preprocess.normalise(histogram.apply(cut, own, (0.0, 55.5, 100.0))))
    assert (box.start, box.stop) == ((4, 3, 4), (16, 15, 14))
    ((plain,), whole) = intensities.apply([image], ("T2",), Steps(), (1.0, 1.0, 1.0))
    np.testing.assert_array_equal(plain, preprocess.normalise(image))
    assert whole == foreground.whole(image.shape)
    with pytest.raises(DataError, match="north: 'landmarks' expected the modality 'FLAIR', got landmarks of T1, T2"):
        intensities.apply([image], ("FLAIR",), one, (1.0, 1.0, 1.0), "north")


def test_settings_that_are_not_used_leave_the_digest_of_the_data_as_it_was(tmp_path):
    """What was stored before these keys came goes on being found; the cache and the threads shape no case."""
    data = decathlon(tmp_path, ["a"])
    found = cases.find(data)
    plain = cases.digest(found, data)
    assert plain == cases.digest(found, replace(data, cache_gb=3.0, workers=2))
    others = [{"grids": "resample"}, {"crop": "otsu"}, {"bias_field": BiasField()}, {"landmarks": LANDMARKS}]
    others.append({"clip": (0.1, 99.9)})
    assert len({plain, *(cases.digest(found, replace(data, **other)) for other in others)}) == 6


def test_a_case_is_cut_to_its_box_and_scored_on_the_whole_volume(tmp_path):
    """The patch lies in the middle of the head, not of the volume: a head in a corner is seen whole, and put back."""
    image, label = np.zeros((40, 36, 30), np.float32), np.zeros((40, 36, 30), np.uint8)
    image[24:38, 20:34, 2:14] = np.random.default_rng(0).uniform(50, 100, (14, 14, 12))
    label[26:30, 22:30, 4:12], label[30:34, 22:30, 4:12] = 1, 2
    data = decathlon(tmp_path, ["a"])
    for part, array in (("imagesTr", image), ("labelsTr", label)):
        write(tmp_path / part / "a.nii.gz", array)
    (lost,) = cases.load(site_of(data), cases.find(data), patch=(16, 16, 16))
    (case,) = cases.load(site_of(replace(data, crop="nonzero")), cases.find(data), patch=(16, 16, 16))
    assert int((case.label > 0).sum()) == (label > 0).sum() > 3 * int((lost.label > 0).sum())
    one_hot = (case.label == np.arange(3)[:, None, None, None]).float()
    assert case.score(one_hot, ("front", "back"), None)["dice"] == {"front": 1.0, "back": 1.0}


def test_a_folder_of_one_modality_is_as_it_always_was(tmp_path):
    """All defaults: not a bit of the case differs from the plain steps by hand."""
    data: Data = decathlon(tmp_path, ["a"])
    (case,) = cases.load(site_of(data), cases.find(data), patch=(8, 8, 4))
    image = volumes.read(tmp_path / "imagesTr/a.nii.gz").data
    np.testing.assert_array_equal(case.image[0], preprocess.normalise(image)[1:9, 2:10, 2:6])
