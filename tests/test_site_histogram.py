"""Histogram standardisation: the library's own result, and the laws that it has to keep."""

import numpy as np
import pytest
import torch

from fedmerge.errors import ConfigError
from sites import foreground, histogram

SHAPE = (7, 11, 13)  # 1001 voxels: ranks of whole percents are whole, so that both ways of percentiles agree
EVERYWHERE = np.ones(SHAPE, bool)


def image(k, shape=SHAPE):
    """Two tissues in a scanner's own scale and offset."""
    dice = np.random.default_rng(k)
    tissue = np.where(dice.random(shape) < 0.4, 1.0, 2.0) + dice.gamma(2, 0.2, shape)
    return (tissue * dice.uniform(50, 500) + dice.uniform(0, 100)).astype(np.float32)


def learnt(images, percentiles=histogram.PERCENTILES, masks=None):
    """Landmarks of some images."""
    masks = masks or [EVERYWHERE] * len(images)
    return histogram.learn([histogram.quantiles(i, m, percentiles) for i, m in zip(images, masks)])


def standard(given, landmarks, percentiles=histogram.PERCENTILES, mask=EVERYWHERE):
    """An image on these landmarks."""
    return histogram.apply(given, histogram.quantiles(given, mask, percentiles), landmarks)


@pytest.fixture(scope="module")
def torchio():
    """The library that is the oracle."""
    return pytest.importorskip("torchio", reason="torchio is the oracle of histogram standardisation")


@pytest.mark.parametrize("masked", [False, True])
def test_landmarks_and_images_are_torchios(torchio, tmp_path, masked):
    """With its quartiles, which its own map leaves out, and with a background mask."""
    background = np.zeros((3, *SHAPE[1:]), np.float32)
    images = [np.concatenate([image(k), background]) if masked else image(k) for k in range(4)]
    where = [i > 0 if masked else np.ones(i.shape, bool) for i in images]
    percentiles = tuple(sorted({*histogram.PERCENTILES, 25.0, 75.0}))
    for k, one in enumerate(images):
        torchio.ScalarImage(tensor=torch.from_numpy(one)[None]).save(tmp_path / f"{k}.nii.gz")
    wanted = torchio.HistogramStandardization.train(
        [tmp_path / f"{k}.nii.gz" for k in range(4)], masking_function=lambda t: t.numpy() > 0, progress=False
    )
    got = learnt(images, percentiles, where)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    subject = torchio.Subject(x=torchio.ScalarImage(tensor=torch.from_numpy(images[0])[None]))
    theirs = torchio.HistogramStandardization({"x": wanted}, masking_method=lambda t: t > 0)(subject)
    own = [p not in (25.0, 75.0) for p in percentiles]
    ours = standard(images[0], got[own], mask=where[0])
    np.testing.assert_allclose(ours, theirs["x"].data[0].numpy(), rtol=1e-4, atol=1e-3)


def test_the_map_is_linear_between_landmarks_and_goes_on_beyond():
    """Oracle in float64: numpy's interpolation inside, the outermost slopes outside."""
    own, landmarks = np.array([10.0, 20.0, 60.0]), (0.0, 30.0, 100.0)
    x = np.linspace(-5, 100, 106)
    wanted = np.interp(x, own, landmarks)
    wanted[x < 10] = 3 * (x[x < 10] - 10)
    wanted[x > 60] = 100 + 70 / 40 * (x[x > 60] - 60)
    np.testing.assert_allclose(histogram.apply(x, own, landmarks), wanted, rtol=1e-6, atol=1e-5)


def test_the_order_of_intensities_stays():
    """No voxel overtakes another: the map never falls."""
    given = image(3)
    mapped = standard(given, learnt([image(k) for k in range(3)]))
    assert (np.diff(mapped.ravel()[np.argsort(given, axis=None)]) >= -1e-4).all()


@pytest.mark.parametrize("percentiles", [histogram.PERCENTILES, (5.0, 25.0, 50.0, 75.0, 95.0), (0.0, 100.0)])
def test_a_standardised_images_quantiles_are_the_landmarks_and_it_stays_as_it_is(percentiles):
    """Whatever the percentiles: percentiles go with the map, so that a second time changes nothing."""
    landmarks = learnt([image(k) for k in range(3)], percentiles)
    once = standard(image(5), landmarks, percentiles)
    np.testing.assert_allclose(histogram.quantiles(once, EVERYWHERE, percentiles), landmarks, atol=1e-4)
    np.testing.assert_allclose(standard(once, landmarks, percentiles), once, atol=2e-4)


def test_a_scanners_gain_and_offset_are_gone_afterwards():
    """The same head at two scales becomes the same image, in the foreground and in the background."""
    landmarks = learnt([image(k) for k in range(3)])
    head = image(7)
    head[:2] = 0
    mask = head > 0
    other = 3.5 * head + 40
    np.testing.assert_allclose(standard(head, landmarks, mask=mask), standard(other, landmarks, mask=mask), atol=5e-3)


def test_one_map_holds_for_foreground_and_background():
    """The mask says whose percentiles count; a background voxel of a tissue's intensity gets that tissue's value."""
    given = image(2)
    mask = np.zeros(SHAPE, bool)
    mask[2:] = True
    given[0, 0, 0] = given[4, 4, 4]
    mapped = standard(given, learnt([image(k) for k in range(3)]), mask=mask)
    assert mapped[0, 0, 0] == mapped[4, 4, 4]


def test_equal_percentiles_and_images_without_contrast():
    """A tie takes the last one's landmark; where there is one value only, there is nothing to map."""
    mapped = histogram.apply(np.array([1.0, 2.0, 4.0]), np.array([1.0, 1.0, 2.0, 4.0]), (0.0, 10.0, 20.0, 40.0))
    np.testing.assert_allclose(mapped, [10, 20, 40])
    assert not standard(np.full(SHAPE, 7.0), learnt([image(0)])).any()
    with pytest.raises(ConfigError, match="an image that is not the same everywhere"):
        learnt([np.full(SHAPE, 7.0)])


def test_the_foreground_is_what_is_not_zero_or_what_is_bright():
    """Exact zeros of a stripped skull; noise of air below Otsu's threshold; never nothing."""
    dice = np.random.default_rng(0)
    noisy = np.abs(dice.normal(0, 3, (20, 20, 20)))
    noisy[5:15, 5:15, 5:15] += 100
    bright = foreground.mask(noisy, "otsu")
    assert bright[5:15, 5:15, 5:15].all()
    assert bright.sum() == 1000
    stripped = np.where(bright, noisy - 101, 0)
    np.testing.assert_array_equal(foreground.mask(stripped, "nonzero"), bright)
    assert foreground.mask(np.zeros((2, 2, 2)), "nonzero").all()


def test_cutting_a_box_is_undone_by_pasting():
    """The box holds all foreground of all channels, no more; outside it there was nothing."""
    one, two = np.zeros((9, 10, 11), np.float32), np.zeros((9, 10, 11), np.float32)
    one[2:4, 3:9, 5], two[3:7, 4, 6:8] = 1, 2
    box = foreground.box([one, two], "nonzero")
    assert (box.start, box.stop) == ((2, 3, 5), (7, 9, 8))
    for channel in (one, two):
        np.testing.assert_array_equal(box.paste(box.cut(channel)), channel)
    whole = foreground.box([one], None)
    assert whole.cut(one).shape == one.shape
