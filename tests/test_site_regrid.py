"""Modalities and label maps on other voxels than the first image's."""

import numpy as np
import pytest
import SimpleITK
from made_cases import write
from scipy.spatial.transform import Rotation

from fedmerge.errors import DataError
from sites import regrid, volumes

FIRST = (20, 24, 16)


def oblique(spacing_mm, turn_deg=(0, 0, 0), shape=FIRST, shear=0.0):
    """The affine of a turned field of view around the origin."""
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", turn_deg, degrees=True).as_matrix()
    affine[:3, :3] = turn @ np.diag(spacing_mm) @ [[1, shear, 0], [0, 1, shear], [0, 0, 1]]
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine


def read(folder, name, array, affine):
    """A volume that went through a file."""
    write(folder / f"{name}.nii.gz", array, affine)
    return volumes.read(folder / f"{name}.nii.gz")


def millimetres(affine, shape):
    """(*shape, 3) where each voxel lies."""
    return np.stack(np.indices(shape), -1) @ affine[:3, :3].T + affine[:3, 3]


SHAPES = {"oblique": (30, 30, 30), "thick slices": (36, 44, 20), "flipped axes": (36, 32, 34), "sheared": (30, 28, 26)}
GRIDS = {
    "oblique": oblique((3, 3, 3), (20, -15, 30), SHAPES["oblique"]),
    "thick slices": oblique((2.5, 2.5, 5.5), (0, 0, 0), SHAPES["thick slices"]),
    "flipped axes": oblique((-3, 3, 3), (90, 0, 90), SHAPES["flipped axes"]),
    "sheared": oblique((3, 3, 3), (10, 0, 5), SHAPES["sheared"], shear=0.15),
}
OWN = oblique((2.5, 2, 3), (5, 10, -8))


@pytest.mark.parametrize("name", GRIDS)
def test_a_ramp_in_space_stays_that_ramp(tmp_path, name):
    """What is linear in mm is linear on any grid: each voxel of the first has the value of its own place."""
    affine, shape = GRIDS[name], SHAPES[name]
    slope = np.array([0.3, -0.2, 0.5])
    first = read(tmp_path, "first", np.zeros(FIRST, np.float32), OWN)
    ramp = (millimetres(affine, shape) @ slope + 100).astype(np.float32)
    got = regrid.image(read(tmp_path, "other", ramp, affine), first, "resample", "first", "other")
    wanted = millimetres(first.affine, FIRST) @ slope + 100
    voxel = (millimetres(first.affine, FIRST) - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    inside = ((voxel > 0) & (voxel < np.array(shape) - 1)).all(-1)
    assert inside.mean() > 0.5
    np.testing.assert_allclose(got.data[inside], wanted[inside], atol=2e-3)
    assert (got.data[~inside] >= ramp.min() - 1e-3).all()


@pytest.mark.parametrize("name", ["oblique", "thick slices", "flipped axes"])
def test_an_image_lands_where_simpleitk_puts_the_file(tmp_path, name):
    """Oracle: SimpleITK reads both files by itself, and resamples one onto the other in mm."""
    affine, shape = GRIDS[name], SHAPES[name]
    noise = np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)
    first = read(tmp_path, "first", np.zeros(FIRST, np.float32), OWN)
    other = read(tmp_path, "other", noise, affine)
    given, like = (SimpleITK.ReadImage(str(tmp_path / f"{n}.nii.gz")) for n in ("other", "first"))
    wanted = SimpleITK.Resample(given, like, SimpleITK.Transform(), SimpleITK.sitkLinear, float(noise.min()))
    np.testing.assert_array_equal(first.frame.orientation[:, 0], [0, 1, 2])
    got = regrid.image(other, first, "resample", "first", "other").data
    close = np.isclose(got, SimpleITK.GetArrayFromImage(wanted).T, atol=0.05)
    assert close.mean() > 0.995  # places at the very edge of the field of view are in or out by rounding


def test_one_grid_in_another_order_of_axes_is_not_interpolated(tmp_path):
    """The canonical voxels are the same ones, so every value stays as it is."""
    values = np.random.default_rng(0).normal(size=FIRST).astype(np.float32)
    affine = oblique((2, 2, 2), (5, 0, 0))
    first = read(tmp_path, "first", values, affine)
    turned = affine @ np.array([[-1, 0, 0, FIRST[0] - 1], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    other = read(tmp_path, "other", values[::-1].transpose(0, 2, 1), turned)
    got = regrid.image(other, first, "resample", "first", "other")
    assert got is other
    np.testing.assert_array_equal(got.data, first.data)


def test_other_voxels_are_refused_unless_the_site_says_otherwise(tmp_path):
    """The sentence names both files and what differs."""
    first = read(tmp_path, "T1", np.zeros(FIRST, np.float32), np.eye(4))
    other = read(tmp_path, "T2", np.zeros(FIRST, np.float32), np.diag([1, 1, 2, 1.0]))
    with pytest.raises(DataError, match=r"^T2 expected the affine of T1, got one that is 15 mm away$"):
        regrid.image(other, first, "refuse", "T1", "T2")
    assert regrid.image(other, first, "resample", "T1", "T2").data.shape == FIRST


def test_what_lies_somewhere_else_is_refused_in_any_case(tmp_path):
    """A lost header puts an image, or a label map, beside the head: that is not to be resampled silently."""
    away = np.eye(4)
    away[0, 3] = 19
    first = read(tmp_path, "T1", np.zeros(FIRST, np.float32), np.eye(4))
    label = np.zeros(FIRST, np.float32)
    label[4:8, 4:8, 4:8] = 1
    other = read(tmp_path, "T2", label, away)
    with pytest.raises(DataError, match=r"^T2 expected to show at least 10% of the voxels of T1, shows 6%$"):
        regrid.image(other, first, "resample", "T1", "T2")
    with pytest.raises(DataError, match=r"^seg expected its labels inside T1, got 0% of their voxels there$"):
        regrid.labels(other, first, "resample", "T1", "seg")


def test_a_label_map_gets_no_new_value_and_keeps_its_place(tmp_path):
    """Nearest neighbours: a box of 4 and 9 on coarse voxels has the same mm on fine ones."""
    coarse = np.zeros((10, 12, 8), np.float32)
    coarse[3:5, 4:8, 2:4], coarse[5:7, 4:8, 2:4] = 4, 9
    first = read(tmp_path, "T1", np.zeros((40, 48, 32), np.float32), np.diag([1, 1, 1, 1.0]))
    affine = np.diag([4, 4, 4, 1.0])
    affine[:3, 3] = 1.5
    got = regrid.labels(read(tmp_path, "seg", coarse, affine), first, "resample", "T1", "seg").data
    np.testing.assert_array_equal(got, coarse.repeat(4, 0).repeat(4, 1).repeat(4, 2))
