"""From a hospital's grid to the net's patch and back."""

import numpy as np
import pytest
import SimpleITK
import torch

from sites import preprocess, scanner
from sites.preprocess import Grid
from sites.records import Scanner


def ball(shape, centre, radius):
    """1 inside a ball, else 0."""
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    return (sum((a - c) ** 2 for a, c in zip(axes, centre)) < radius**2).astype(np.uint8)


def one_hot(labels, count):
    """(X, Y, Z) labels as (K + 1, X, Y, Z) probabilities."""
    return torch.nn.functional.one_hot(torch.from_numpy(labels).long(), count + 1).permute(3, 0, 1, 2).float()


def by_simpleitk(image, spacing_mm, size, to_spacing_mm):
    """The same centred linear resampling by SimpleITK."""
    given = SimpleITK.GetImageFromArray(np.ascontiguousarray(image.T))
    given.SetSpacing(spacing_mm)
    given.SetOrigin([-(n - 1) / 2 * mm for n, mm in zip(image.shape, spacing_mm)])
    origin = [-(n - 1) / 2 * mm for n, mm in zip(size, to_spacing_mm)]
    unit = SimpleITK.Transform()
    out = SimpleITK.Resample(given, size, unit, SimpleITK.sitkLinear, origin, to_spacing_mm, np.eye(3).ravel(), 0.0)
    return SimpleITK.GetArrayFromImage(out).T


@pytest.mark.parametrize("patch", [(8, 10, 6), (30, 20, 8), (1, 1, 1)])
def test_refining_is_what_simpleitk_does(patch):
    """To a finer grid: linear interpolation, the outermost half voxel continued, 0 beyond."""
    image = np.random.default_rng(0).normal(size=(9, 7, 5)).astype(np.float32)
    spacing, to = (2.0, 3.0, 4.0), (1.1, 1.3, 2.5)
    got = preprocess.crop(image, Grid(image.shape, spacing, patch, to))
    np.testing.assert_allclose(got, by_simpleitk(image, spacing, patch, to), atol=1e-5)


def test_a_coarser_grid_keeps_means():
    """Two voxels to one are averaged, so that a constant stays and a checkerboard fades."""
    grid = Grid((8, 8, 8), (1.0, 1.0, 1.0), (4, 4, 4), (2.0, 2.0, 2.0))
    np.testing.assert_allclose(preprocess.crop(np.full((8, 8, 8), 3.0), grid), 3.0, rtol=1e-6)
    board = np.indices((8, 8, 8)).sum(0) % 2 * 2.0 - 1
    assert abs(preprocess.crop(board, grid)).max() < 1e-6
    row = preprocess.interpolation(5, 1.0, 3, 2.0)[1]  # its voxel holds the third and half of two others
    torch.testing.assert_close(row, torch.tensor([0.0, 0.25, 0.5, 0.25, 0.0]))


def test_the_two_ways_of_resampling_meet_at_equal_spacing():
    """Linear interpolation of a shifted row is the mean over each of its voxels."""
    fine = preprocess.interpolation(6, 1.0, 3, 1.0 - 1e-9)
    coarse = preprocess.interpolation(6, 1.0, 3, 1.0 + 1e-9)
    torch.testing.assert_close(fine, coarse)


@pytest.mark.parametrize(
    ("shape", "patch"), [((5, 6, 7), (8, 8, 8)), ((9, 8, 7), (4, 8, 3)), ((5, 9, 4), (8, 4, 4)), ((9, 9, 9), (8, 8, 8))]
)
def test_without_a_spacing_voxels_are_cropped_and_padded_and_put_back(shape, patch):
    """No voxel changes its value on the way, and what was inside the patch comes back where it was."""
    image = np.random.default_rng(0).integers(1, 4, shape).astype(np.uint8)
    grid = Grid(shape, (1.0, 2.0, 3.0), patch, (1.0, 2.0, 3.0))
    laid = preprocess.crop_labels(image, grid, 3)
    assert laid.shape == patch
    back = preprocess.restore(one_hot(laid, 3), grid)
    assert back.shape == shape
    inside = back > 0
    np.testing.assert_array_equal(back[inside], image[inside])
    assert inside.sum() == np.prod(np.minimum(shape, patch)) == (laid > 0).sum()
    np.testing.assert_array_equal(preprocess.crop(image, grid), laid)


@pytest.mark.parametrize("shape", [(35, 51, 35), (34, 50, 36), (31, 40, 24)])
def test_to_the_patch_and_back_a_label_stays_where_it_is(shape):
    """At half the resolution two balls come back with 0.9 Dice, and their centres within 0.3 mm."""
    truth = np.maximum(ball(shape, (12, 20, 14), 7), 2 * ball(shape, (22, 28, 15), 6))
    grid = Grid(shape, (1.0, 1.0, 1.0), (16, 24, 16), (2.0, 2.0, 2.0))
    back = preprocess.restore(one_hot(preprocess.crop_labels(truth, grid, 2), 2), grid)
    for k in (1, 2):
        a, b = back == k, truth == k
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.9
        assert np.abs(np.argwhere(a).mean(0) - np.argwhere(b).mean(0)).max() < 0.3


def test_outside_the_patch_there_is_background():
    """A net that sees a label everywhere has not seen beyond its patch."""
    grid = Grid((20, 20, 20), (1.0, 1.0, 1.0), (4, 4, 4), (2.0, 2.0, 2.0))
    everywhere = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 4, 4, 4)
    back = preprocess.restore(everywhere, grid)
    assert back.sum() == 8**3
    assert back[6:14, 6:14, 6:14].all()


def test_the_share_of_labels_outside_the_patch_is_counted():
    """Half of a bar lies in a patch of half its length."""
    truth = np.zeros((20, 4, 4), np.uint8)
    truth[:, 1:3, 1:3] = 1
    grid = Grid((20, 4, 4), (1.0, 1.0, 1.0), (10, 4, 4), (1.0, 1.0, 1.0))
    assert preprocess.outside(truth, grid) == 0.5
    assert preprocess.outside(np.zeros_like(truth), grid) == 0


def test_intensities_are_clipped_at_percentiles_and_standardised():
    """Mean 0, standard deviation 1, whatever gain, offset and outliers the scanner had."""
    image = np.random.default_rng(0).gamma(2, 100, (20, 20, 20)).astype(np.float32)
    image[0, 0, 0] = 1e6
    normal = preprocess.normalise(image)
    assert normal.mean() == pytest.approx(0, abs=1e-5)
    assert normal.std() == pytest.approx(1, abs=1e-5)
    assert normal.dtype == np.float32
    np.testing.assert_allclose(preprocess.normalise(image * 1e4 + 5e5), normal, atol=2e-3)
    low, high = preprocess.percentiles(np.arange(1001.0))
    assert (low, high) == (10, 990)


def test_a_higher_ceiling_keeps_the_shades_of_a_bright_lesion():
    """A lesion of half a hundredth of the volume has one brightness at percentile 99, and its own at 99.9."""
    image = np.arange(1000, dtype=np.float32).reshape(10, 10, 10)
    image.reshape(-1)[995:] += np.array([1000, 2000, 3000, 4000, 5000])
    assert len(set(preprocess.normalise(image).reshape(-1)[995:])) == 1
    assert len(set(preprocess.normalise(image, (0.1, 99.9)).reshape(-1)[995:])) == 4


def test_a_constant_image_becomes_zero():
    """There is nothing to divide by."""
    assert not preprocess.normalise(np.full((3, 3, 3), 7.0)).any()


def test_a_neutral_scanner_only_scales():
    """Percentiles 1 and 99 become 0 and 1, and nothing else happens."""
    image = np.random.default_rng(0).normal(500, 100, (9, 8, 7)).astype(np.float32)
    seen = scanner.apply(image, Scanner(), scanner.draw("north", "a", image.shape), (1.0, 1.0, 1.0))
    low, high = preprocess.percentiles(image)
    np.testing.assert_allclose(seen, np.clip((image - low) / (high - low), 0, 1), atol=1e-6)


def test_a_scanner_sees_a_case_the_same_way_each_time():
    """Dice are thrown per site and case; the shift itself is a pure function."""
    image = np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32)
    shift = Scanner(gain=0.9, offset=0.1, gamma=1.5, bias=0.3, noise=0.1, blur=0.7)

    def seen(site, case):
        return scanner.apply(image, shift, scanner.draw(site, case, image.shape), (1.0, 1.0, 2.0))

    np.testing.assert_array_equal(seen("north", "a"), seen("north", "a"))
    assert not np.allclose(seen("north", "a"), seen("north", "b"))
    assert not np.allclose(seen("north", "a"), seen("south", "a"))


def test_a_bias_field_is_smooth_and_goes_through_its_knots_mean():
    """Neighbouring voxels differ little, and equal knots make a constant field."""
    field = scanner.smooth(np.random.default_rng(0).standard_normal((4, 4, 4)).astype(np.float32), (40, 44, 48))
    assert np.abs(np.diff(field, axis=0)).max() < 0.25 * np.ptp(field)
    np.testing.assert_allclose(scanner.smooth(np.full((4, 4, 4), 2.0, np.float32), (10, 11, 12)), 2, rtol=1e-5)
