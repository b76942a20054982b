"""Loading cases: normalised, cropped, cached, checked, and known by a digest."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_cases import decathlon, head, site_of, write

from fedmerge.errors import ConfigError, DataError
from sites import cases, preprocess
from sites.config import Data, Scanner


def test_a_loaded_case_is_normalised_and_cropped(tmp_path):
    """Shapes, dtypes, values; the truth stays on the file's own voxels."""
    data = decathlon(tmp_path, ["a"])
    (case,) = cases.load(site_of(data), cases.find(data), patch=(8, 8, 4))
    assert (case.image.shape, case.image.dtype) == ((1, 8, 8, 4), torch.float32)
    assert (case.label.shape, case.label.dtype) == ((1, 8, 8, 4), torch.int64)
    assert (case.truth.shape, case.truth.dtype) == ((10, 12, 8), np.uint8)
    np.testing.assert_array_equal(case.truth, head(0)[1])
    np.testing.assert_array_equal(case.label[0], case.truth[1:9, 2:10, 2:6])


def test_progress_and_the_cache(tmp_path):
    """A case is read once as long as its files, its site's settings and the patch stay the same."""
    data = decathlon(tmp_path, ["a", "b"])
    site, told = site_of(data), []
    one = cases.load(site, cases.find(data), patch=(8, 8, 4), progress=told.append)
    assert told == [1, 2]
    again = cases.load(site, cases.find(data), patch=(8, 8, 4))
    assert all(x is y for x, y in zip(one, again))
    for other in (
        site_of(replace(data, labels={"front": (1,)}, background=(2,))),
        site_of(replace(data, spacing_mm=(2.0, 2.0, 2.0))),
        site_of(data, scanner=Scanner(gamma=2.0)),
        replace(site, name="south"),
    ):
        assert cases.load(other, cases.find(data), patch=(8, 8, 4))[0] is not one[0]
    image, _ = head(7)
    write(tmp_path / "imagesTr" / "a.nii.gz", image)
    os.utime(tmp_path / "imagesTr" / "a.nii.gz", ns=(1, 1))
    changed = cases.load(site, cases.find(data), patch=(8, 8, 4))
    assert changed[0] is not one[0]
    assert changed[1] is one[1]


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("shape", r"^north: labelsTr/a.nii.gz expected the shape of the image a.nii.gz, 10 x 12 x 8, got 9 x 12 x 8$"),
        ("affine", r"^north: labelsTr/a.nii.gz expected the affine of the image a.nii.gz, got one that is 3 mm away$"),
        ("flip", r"^north: labelsTr/a.nii.gz expected the affine of the image a.nii.gz, got one that is 18 mm away$"),
        ("value", r"^north: labelsTr/a.nii.gz: label value 5 is not declared; declared are 0, 1, 2$"),
    ],
)
def test_image_and_label_that_do_not_fit(tmp_path, what, sentence):
    """Shape, place, axes, and a value that the site did not declare."""
    data = decathlon(tmp_path, ["a"])
    _, label = head(0)
    affine = np.eye(4)
    if what == "shape":
        label = label[1:]
    elif what == "affine":
        affine[1, 3] = 3
    elif what == "flip":
        affine[0, 0] = -1
    else:
        label[0, 0, 0] = 5
    write(tmp_path / "labelsTr" / "a.nii.gz", label, affine)
    with pytest.raises(DataError, match=sentence):
        cases.load(site_of(data), cases.find(data), patch=(8, 8, 4))


def test_channels_on_different_voxels(tmp_path):
    """The modalities of a case lie on one grid."""
    image, label = head(0)
    for name, array in (("T1", image), ("T2", image[1:]), ("label", label)):
        write(tmp_path / "p1" / f"{name}.nii.gz", array)
    data = Data(tmp_path, "folders", {"front": (1,), "back": (2,)})
    with pytest.raises(DataError, match=r"^north: T2.nii.gz expected the shape of the image T1.nii.gz"):
        cases.load(site_of(data), cases.find(data), patch=(8, 8, 4))


def test_a_patch_is_three_numbers(tmp_path):
    """Two are not enough."""
    data = decathlon(tmp_path, ["a"])
    with pytest.raises(ConfigError, match=r"north: 'patch' expected three numbers of voxels, got \[8, 8\]"):
        cases.load(site_of(data), cases.find(data), patch=(8, 8))


def test_shuffled_labels_keep_their_counts_and_lose_their_place(tmp_path):
    """The control has the same label frequencies and nothing to learn; the truth is left alone."""
    data = decathlon(tmp_path, ["a"])
    (plain,) = cases.load(site_of(data), cases.find(data), patch=(8, 8, 4))
    control = site_of(replace(data, control="shuffled-labels"))
    (mixed,) = cases.load(control, cases.find(data), patch=(8, 8, 4))
    torch.testing.assert_close(mixed.label.flatten().bincount(), plain.label.flatten().bincount())
    assert (mixed.label != plain.label).float().mean() > 0.3
    np.testing.assert_array_equal(mixed.truth, plain.truth)


def test_regions_are_scored_in_place_of_labels(tmp_path):
    """Dice of unions on the original voxels, against a plain count; training sees the labels alone."""
    data = decathlon(tmp_path, ["a"])
    names = tuple(data.labels)
    (plain,) = cases.load(site_of(data), cases.find(data), patch=(8, 8, 4))
    regions = {"both": names, "first": names[:1]}
    (case,) = cases.load(site_of(replace(data, regions=regions)), cases.find(data), patch=(8, 8, 4))
    torch.testing.assert_close(case.label, plain.label)
    probabilities = torch.rand((len(names) + 1, 8, 8, 4), generator=torch.Generator().manual_seed(0)).softmax(0)
    found = preprocess.restore(probabilities, case.grid)
    wanted = {}
    for name, values in (("both", (1, 2)), ("first", (1,))):
        mine, theirs = np.isin(found, values), np.isin(case.truth, values)
        wanted[name] = 2 * (mine & theirs).sum() / (mine.sum() + theirs.sum())
    assert case.score(probabilities, names, None)["dice"] == pytest.approx(wanted)
    assert set(plain.score(probabilities, names, None)["dice"]) == set(names)
    assert cases.digest(cases.find(data), data) != cases.digest(cases.find(data), replace(data, regions=regions))


def test_a_digest_is_of_contents_and_settings_but_not_of_the_place(tmp_path):
    """A copied folder has the digest of the original; a changed voxel, label or scanner has another."""
    one = decathlon(tmp_path / "one", ["a", "b"])
    two = decathlon(tmp_path / "two", ["a", "b"])
    first = cases.digest(cases.find(one), one)
    assert first == cases.digest(cases.find(two), two)
    assert first != cases.digest(cases.find(two), replace(two, train=1))
    assert first != cases.digest(cases.find(two), replace(two, test=1))
    assert first != cases.digest(cases.find(one)[:1], one)
    assert first != cases.digest(cases.find(one), replace(one, labels={"back": (2,), "front": (1,)}))
    assert first != cases.digest(cases.find(one), one, Scanner(noise=0.1))
    write(tmp_path / "two" / "imagesTr" / "a.nii.gz", head(7)[0])
    assert first != cases.digest(cases.find(two), two)
