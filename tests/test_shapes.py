"""Surface distance and lesion-wise Dice: oracles by brute force, and lesions counted by hand."""

import itertools
import math

import numpy as np
import pytest

from fedmerge import forms, measures, results, shapes

MM = (1.0, 1.0, 1.0)


def ball(shape, centre, radius_mm, spacing_mm=MM):
    """A ball in a box of voxels."""
    grid = np.meshgrid(*(np.arange(n) * mm for n, mm in zip(shape, spacing_mm)), indexing="ij")
    return sum((g - c) ** 2 for g, c in zip(grid, centre)) <= radius_mm**2


def surface(mask):
    """Places of the voxels that have a neighbour outside, one after the other."""
    found = []
    for place in map(tuple, np.argwhere(mask)):
        for axis, step in itertools.product(range(3), (-1, 1)):
            other = list(place)
            other[axis] += step
            inside = 0 <= other[axis] < mask.shape[axis]
            if not inside or not mask[tuple(other)]:
                found.append(place)
                break
    return np.array(found, float)


def brute(a, b, spacing_mm):
    """HD95 from all pairs of surface voxels."""
    one, two = surface(a) * spacing_mm, surface(b) * spacing_mm
    pairs = np.sqrt(((one[:, None] - two[None]) ** 2).sum(-1))
    return max(np.percentile(pairs.min(1), 95), np.percentile(pairs.min(0), 95))


@pytest.mark.parametrize("spacing_mm", [MM, (0.5, 1.0, 3.0)])
@pytest.mark.parametrize("seed", range(3))
def test_hd95_is_that_of_all_pairs_of_surface_voxels(seed, spacing_mm):
    """Blobs of noise, also at the image's border, against a plain loop."""
    draw = np.random.default_rng(seed)
    a, b = (np.cumsum(draw.normal(size=(9, 8, 7)), axis=0) > 0.5 for _ in range(2))
    assert shapes.hd95(a, b, spacing_mm) == pytest.approx(brute(a, b, spacing_mm), abs=1e-9)


def test_hd95_is_monais():
    """On the same masks."""
    import torch
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance

    a, b = ball((20, 20, 20), (8, 9, 10), 5), ball((20, 20, 20), (10, 9, 10), 6)
    want = compute_hausdorff_distance(
        torch.from_numpy(a)[None, None],
        torch.from_numpy(b)[None, None],
        include_background=True,
        percentile=95,
        spacing=[1.0, 2.0, 1.5],
    )
    assert shapes.hd95(a, b, (1.0, 2.0, 1.5)) == pytest.approx(float(want), abs=1e-5)


@pytest.mark.parametrize(("gap", "spacing_mm"), [(10, MM), (10, (2.0, 1.0, 1.0))])
def test_two_far_spheres_are_their_distance_apart(gap, spacing_mm):
    """Equal spheres, moved along the first axis: 95 % of a surface are no farther than about the move; in mm."""
    shape = (48, 20, 20)
    a = ball(shape, (10, 10, 10), 4)
    b = np.roll(a, gap, axis=0)
    found = shapes.hd95(a, b, spacing_mm)
    assert found == pytest.approx(brute(a, b, spacing_mm), abs=1e-9)
    assert 0.85 * gap * spacing_mm[0] <= found <= gap * spacing_mm[0]
    assert shapes.hd95(a, a, spacing_mm) == 0


def test_empty_masks_have_a_distance_that_no_other_has():
    """Both empty: no number; one of them: the image's diagonal in mm."""
    empty, some = np.zeros((4, 6, 8), bool), np.ones((4, 6, 8), bool)
    assert shapes.hd95(empty, empty, MM) is None
    for pair in ((empty, some), (some, empty)):
        assert shapes.hd95(*pair, (3.0, 1.0, 1.0)) == pytest.approx(math.sqrt(12**2 + 6**2 + 8**2))
    assert shapes.lesion_dice(empty, empty, MM) is None


def boxes(*places, shape=(40, 30, 30), side=5):
    """Cubes of 125 voxels at these corners."""
    mask = np.zeros(shape, bool)
    for x, y, z in places:
        mask[x : x + side, y : y + side, z : z + side] = True
    return mask


def test_every_lesion_counts_alike():
    """One of two lesions found: 1/2, however large the other one is."""
    small, large = boxes((2, 2, 2)), boxes((20, 10, 10), side=15)
    assert shapes.lesion_dice(large, small | large, MM) == pytest.approx(1 / 2)
    assert shapes.lesion_dice(small, small | large, MM) == pytest.approx(1 / 2)


def test_a_false_lesion_counts_as_one_with_dice_0():
    """One lesion found in full, two that are none: 1/3."""
    truth = boxes((2, 2, 2))
    assert shapes.lesion_dice(truth | boxes((20, 2, 2), (20, 20, 20)), truth, MM) == pytest.approx(1 / 3)
    assert shapes.lesion_dice(truth, np.zeros_like(truth), MM) == 0


def test_a_lesion_half_found_has_its_own_dice():
    """Three of five slices: 2 * 75 / (75 + 125); a part in its surroundings counts against it."""
    truth = boxes((10, 10, 10))
    found = truth.copy()
    found[13:] = False
    assert shapes.lesion_dice(found, truth, MM) == pytest.approx(150 / 200)
    found[17, 12, 12] = True  # the lesion ends at 14: three voxels on, so still in its surroundings
    assert shapes.lesion_dice(found, truth, MM) == pytest.approx(150 / 201)
    found[17, 12, 12], found[18, 12, 12] = False, True  # four: a lesion of its own, and a false one
    assert shapes.lesion_dice(found, truth, MM) == pytest.approx(150 / 200 / 2)


def test_lesions_near_each_other_are_one():
    """Dilated by three voxels each, cubes with a gap of six grow together; with a gap of seven they do not."""
    one = boxes((4, 10, 10))
    assert shapes.lesion_dice(one, one | boxes((15, 10, 10)), MM) == pytest.approx(2 * 125 / (125 + 250))
    assert shapes.lesion_dice(one, one | boxes((17, 10, 10)), MM) == pytest.approx(1 / 2)


def test_a_lesion_of_50_mm3_is_not_scored_and_finding_it_is_no_mistake():
    """Two cubes of 125 voxels at 0.4 mm^3 a voxel: 50 mm^3 each; at 0.5 mm^3 they count."""
    both = boxes((2, 2, 2), (20, 20, 20))
    assert shapes.lesion_dice(both, both, (0.4, 1.0, 1.0)) is None
    assert shapes.lesion_dice(boxes((2, 2, 2)), both, (0.5, 1.0, 1.0)) == pytest.approx(1 / 2)


def test_what_is_wanted_is_measured_of_labels_and_of_regions():
    """A region is the union of its labels; nothing is measured unasked; names are those of the tables."""
    truth = np.zeros((12, 12, 12), np.uint8)
    truth[2:8, 2:8, 2:5], truth[2:8, 2:8, 5:8] = 1, 2
    found = truth.copy()
    found[7] = 0
    labels = {"edge": (1,), "all": (1, 2), "none": 3}
    told = shapes.measure(found, truth, labels, MM, ["dice", "hd95", "lesion-dice"])
    assert told == {"hd95": {"edge": 1, "all": 1, "none": None}, "lesion-dice": {"edge": pytest.approx(10 / 11),
                    "all": pytest.approx(10 / 11), "none": None}}  # fmt: skip
    assert shapes.measure(found, truth, labels, MM, ["dice"]) == {}
    assert shapes.SHAPES.keys() == measures.EXTRAS.keys() == results.EXTRAS.keys() == forms.EXTRAS.keys()
