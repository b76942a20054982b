"""Training images changed at random: labels stay labels, image and label move together, and dice decide alone."""

import math

import numpy as np
import pytest
import torch

from fedmerge import augment
from fedmerge.augment import Change
from fedmerge.errors import ConfigError
from fedmerge.records import Settings


def dice(seed=0):
    """Dice of their own."""
    return np.random.default_rng(seed)


def study(channels=2, side=12):
    """A block of label 1 and one of label 3, and an image that shows them, each channel in its own brightness."""
    label = torch.zeros(1, side, side, side, dtype=torch.int64)
    label[:, 2:6, 3:8, 4:9] = 1
    label[:, 7:10, 5:9, 2:8] = 3
    image = torch.cat([label.float() * (k + 1) for k in range(channels)])
    return (image - image.mean((1, 2, 3), keepdim=True)) / image.std((1, 2, 3), keepdim=True), label


def every(seed):
    """Drawn changes of every kind: dice are rolled until all of them have come up once."""
    rolled = dice(seed)
    found = {}
    while len(found) < len(augment.CHANGES):
        for change in augment.draw(["all"], rolled, 2):
            found.setdefault(change.kind, change)
    return list(found.values())


@pytest.mark.parametrize("seed", range(1, 4))
def test_no_change_brings_a_new_label_or_another_shape(seed):
    """Whatever is drawn, labels stay labels, of the same type, and numbers stay finite."""
    image, label = study()
    for change in every(seed):
        new, seen = augment.apply([change], image, label)
        assert new.shape == image.shape
        assert new.dtype == image.dtype
        assert seen.shape == label.shape
        assert seen.dtype == label.dtype
        assert set(seen.unique().tolist()) <= {0, 1, 3}
        assert torch.isfinite(new).all()
        assert not torch.equal(new, image), change


def test_images_given_are_left_as_they_are():
    """What comes out is another tensor: a case in memory is used again in every epoch."""
    image, label = study()
    before = image.clone(), label.clone()
    augment.apply(every(1), image, label)
    assert torch.equal(image, before[0])
    assert torch.equal(label, before[1])


@pytest.mark.parametrize("axes", [[1], [2], [3], [1, 3], [1, 2, 3]])
def test_mirrored_twice_is_as_it_was(axes):
    """A flip undoes itself, in the image and in the label."""
    image, label = study()
    flips = [Change("flip", {"axes": axes})] * 2
    again, seen = augment.apply(flips, image, label)
    assert torch.equal(again, image)
    assert torch.equal(seen, label)
    assert not torch.equal(augment.apply(flips[:1], image, label)[1], label)


@pytest.mark.parametrize("numbers", [{"angles": [0.3, -0.2, 0.4]}, {"size": 1.3}, {"angles": [0, 0.5, 0], "size": 0.8}])
def test_image_and_label_move_together(numbers):
    """An image that is its own label map, resampled, still lies on the label: a wrong move would cost most of it."""
    _, label = study()
    image, seen = augment.apply([Change("resample", numbers)], (label == 1).float(), label)
    ours, theirs = image[0] > 0.5, seen[0] == 1
    assert 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) > 0.93
    moved = 2 * ((label[0] == 1) & theirs).sum() / ((label[0] == 1).sum() + theirs.sum())
    assert moved < 0.9


def test_a_quarter_turn_is_a_transposition():
    """90 degrees about the first axis: nothing is lost, and every voxel has its place."""
    image, label = study()
    turned, seen = augment.apply([Change("resample", {"angles": [np.pi / 2, 0, 0]})], image, label)
    candidates = [torch.rot90(label, k, (2, 3)) for k in (1, 3)]
    ((k, _),) = [(k, one) for k, one in zip((1, 3), candidates) if torch.equal(seen, one)]
    torch.testing.assert_close(turned, torch.rot90(image, k, (2, 3)), rtol=0, atol=1e-4)


def test_size_is_what_things_grow_by():
    """At 1.4 a block has 1.4^3 times its voxels, give or take its surface."""
    label = torch.zeros(1, 24, 24, 24, dtype=torch.uint8)
    label[:, 7:17, 7:17, 7:17] = 1
    _, seen = augment.apply([Change("resample", {"size": 1.4})], label.float(), label)
    assert int(seen.sum()) == 14**3


def test_a_window_shows_what_lies_around_its_centre():
    """Nothing turned, nothing enlarged: a window off the middle is a crop."""
    image, label = study()
    seen, where = augment.resample(image, label, centre=(-2.0, 1.0, 0.0), window=(4, 6, 8))
    torch.testing.assert_close(seen, image[:, 2:6, 4:10, 2:10], rtol=0, atol=1e-5)
    assert torch.equal(where, label[:, 2:6, 4:10, 2:10])


def test_gamma_keeps_mean_and_spread_and_brightness_does_what_it_says():
    """Gamma bends the curve and keeps the statistics; brightness is a factor; contrast keeps mean and range."""
    image, label = study()
    image = image + 0.3 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    bent, _ = augment.apply([Change("gamma", {"by": [(1.4, False), None]})], image, label)
    torch.testing.assert_close(bent[0].mean(), image[0].mean(), rtol=0, atol=1e-4)
    torch.testing.assert_close(bent[0].std(), image[0].std(), rtol=1e-4, atol=0)
    assert torch.equal(bent[1], image[1])
    bright, _ = augment.apply([Change("brightness", {"by": [1.2, 0.8]})], image, label)
    torch.testing.assert_close(bright, image * torch.tensor([1.2, 0.8]).view(2, 1, 1, 1))
    sharp, _ = augment.apply([Change("contrast", {"by": [1.25, None]})], image, label)
    assert sharp[0].max() <= image[0].max()
    assert sharp[0].min() >= image[0].min()


def test_one_name_does_not_move_the_numbers_of_another():
    """What `gamma` draws is the same alone, and beside all others; nothing is drawn where nothing is asked for."""
    for seed in range(40):
        alone = augment.draw(["gamma"], dice(seed), 2)
        among = [one for one in augment.draw(["all"], dice(seed), 2) if one.kind == "gamma"]
        assert alone == among
    assert augment.draw([], dice(), 2) == []


def test_each_change_comes_as_often_as_it_says():
    """Within four standard deviations over 2,000 draws; resampling is rotation or scaling, a flip one axis of three."""
    expected = {name: chance * (1 - (1 - share) ** 2) for name, chance, share, _ in augment.INTENSITIES}
    expected |= {"resample": 1 - 0.8**2, "noise": 0.1, "flip": 1 - 0.5**3}
    del expected["gamma"]  # may come twice
    rolled = dice(7)
    drawn = [change.kind for _ in range(2000) for change in augment.draw(["all"], rolled, 2)]
    for name, chance in expected.items():
        assert abs(drawn.count(name) / 2000 - chance) < 4 * np.sqrt(chance * (1 - chance) / 2000), name


def test_strengths_are_those_of_nnunets_code():
    """The quantiles of 4,000 draws lie where nnunetv2 2.8.1 has the bounds and the middle of each number."""
    rolled = dice(11)
    found = {}
    for _ in range(4000):
        for kind, numbers in augment.draw(["all"], rolled, 1):
            for key, value in numbers.items():
                found.setdefault((kind, key), []).append(value)
    inverted, straight = ([one for ((one, how),) in found["gamma", "by"] if how is kind] for kind in (True, False))
    sigmas = [sigma for (one,) in found["blur", "by"] for sigma in one]
    want = {  # name: what was drawn, smallest, median, largest
        "angle": ([math.degrees(one) for three in found["resample", "angles"] for one in three], -30, 0, 30),
        "farther apart": ([1 / size for size in found["resample", "size"]], 0.7, 1.05, 1.4),
        "noise": (found["noise", "deviation"], 0, 0.05, 0.1),
        "blur": (sigmas, 0.5, 0.75, 1),
        "brightness": ([one for (one,) in found["brightness", "by"]], 0.75, 1, 1.25),
        "contrast": ([one for (one,) in found["contrast", "by"]], 0.75, 1, 1.25),
        "resolution": ([one for (one,) in found["resolution", "by"]], 0.5, 0.75, 1),
        "gamma of the inverted": (inverted, 0.7, 1, 1.5),
        "gamma": (straight, 0.7, 1, 1.5),
    }
    for name, (drawn, low, middle, high) in want.items():
        assert low <= min(drawn) < low + 0.05 * (high - low), name
        assert high - 0.05 * (high - low) < max(drawn) <= high, name
        assert abs(np.median(drawn) - middle) < 0.1 * (high - low), name
    assert abs(len(inverted) / 4000 - 0.1) < 0.02
    assert abs(len(straight) / 4000 - 0.3) < 0.03
    assert len({tuple(one) for (one,) in found["blur", "by"]}) == len(found["blur", "by"])
    assert all(len(set(one)) == 3 for (one,) in found["blur", "by"])


def test_noise_has_one_strength_for_all_channels():
    """And another draw in each."""
    image, label = torch.zeros(3, 24, 24, 24), torch.zeros(1, 24, 24, 24, dtype=torch.int64)
    noisy, _ = augment.apply([Change("noise", {"deviation": 0.08, "seed": 5})], image, label)
    torch.testing.assert_close(noisy.std((1, 2, 3)), torch.full((3,), 0.08), rtol=0.03, atol=0)
    assert not torch.equal(noisy[0], noisy[1])


def test_names_are_known():
    """The settings of a training take names that there are, and each name does something."""
    Settings(steps=1, lr=1, augment=("all",))
    with pytest.raises(ConfigError, match=r"augment expected names of rotate, scale, .* got 'shear'"):
        Settings(steps=1, lr=1, augment=("shear",))
    for name in augment.NAMES:
        rolled = dice(3)
        assert any(augment.draw([name], rolled, 2) for _ in range(200)), name
