"""Test cases as a page carries them: cropped, coarsened where there is no room, and where the scanner saw them."""

import base64
import math
import zlib

import made_run
import numpy as np
import pytest

from fedmerge.pages import cases


def unpacked(text, shape):
    """As the page's script does."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(shape, order="F")


def test_a_packed_case_is_the_case_in_its_box():
    """Labels come back voxel for voxel, greys to 1 of 255, around the head and nothing else."""
    one = made_run.example()
    packed = cases.pack(one, 1)
    box = tuple(slice(o, o + n) for o, n in zip(packed["offset"], packed["shape"]))
    assert packed["offset"] == [1, 2, 0]
    np.testing.assert_array_equal(unpacked(packed["truth"], packed["shape"]), one.truth[box])
    np.testing.assert_array_equal(unpacked(packed["found"]["m"], packed["shape"]), one.found["m"][box])
    low, high = np.percentile(one.image, [0.5, 99.5])
    grey = unpacked(packed["image"], packed["shape"]) / 255 * (high - low) + low
    assert np.abs(grey - np.clip(one.image[box], low, high)).max() <= (high - low) / 255
    assert packed["window"] == pytest.approx([low, high])


@pytest.mark.parametrize("stride", [1, 2])
def test_a_packed_voxel_lies_where_the_scanner_saw_it(stride):
    """Its affine, cropped and coarsened, leads to the same mm as the file's from the same voxel."""
    packed = cases.pack(made_run.example(), stride)
    voxel = np.array([3, 4, 2])
    whole = np.array(packed["offset"]) + stride * voxel
    np.testing.assert_allclose(np.array(packed["affine"]) @ [*voxel, 1], (made_run.AFFINE @ [*whole, 1])[:3], atol=1e-3)


def test_every_second_voxel_keeps_labels_where_they_were():
    """A stride of two halves the sides, doubles the spacing, and averages blocks of eight voxels."""
    one = made_run.example()
    packed = cases.pack(one, 2)
    whole = cases.pack(one, 1)
    assert packed["shape"] == [math.ceil(side / 2) for side in whole["shape"]]
    assert packed["spacing"] == [2.0, 4.0, 6.0]
    whole_truth = unpacked(whole["truth"], whole["shape"])
    np.testing.assert_array_equal(unpacked(packed["truth"], packed["shape"]), whole_truth[::2, ::2, ::2])


def test_a_budget_is_kept_by_coarser_voxels_first_and_by_fewer_cases_then():
    """All voxels of all cases where there is room; the cases that are left out are named and stand evenly."""
    names = [f"c{k}" for k in range(9)]

    def read(case):
        return made_run.example((40, 40, 40), int(case[1:]))

    def size(case, stride):
        one = cases.pack(read(case), stride)
        return sum(map(len, (one["image"], one["truth"], *one["found"].values())))

    whole, half = ([size(name, stride) for name in names] for stride in (1, 2))
    everything = cases.fit(names, read, sum(whole))
    assert (everything.stride, everything.without) == (1, ())
    assert [one["case"] for one in everything.cases] == names
    coarse = cases.fit(names, read, sum(half))
    assert (coarse.stride, len(coarse.cases)) == (2, 9)
    few = cases.fit(names, read, int(3.2 * half[0]))
    assert [one["case"] for one in few.cases] == ["c0", "c4", "c8"]
    assert few.without == ("c1", "c2", "c3", "c5", "c6", "c7")
