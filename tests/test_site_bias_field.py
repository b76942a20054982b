"""N4 bias field correction: what the library gives, whatever the machine."""

import numpy as np
import pytest
import SimpleITK

from sites import bias_field
from sites.records import BiasField

SPACING = (1.5, 2.0, 2.5)
SHAPE = (32, 28, 24)


@pytest.fixture(scope="module")
def head():
    """A ball of two tissues in air, under a smooth field: the image, the field, where the ball is."""
    axes = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in SHAPE)]
    radius = sum(a**2 for a in axes)
    field = np.exp(0.4 * axes[0] - 0.3 * axes[1] * axes[2])
    tissue = np.where(radius < 0.3, 140.0, 100.0) * (radius < 0.8)
    noise = np.random.default_rng(0).normal(0, 2, SHAPE)
    return ((tissue + noise * (radius < 0.8)) * field).astype(np.float32), field, radius < 0.8


def by_the_library(image, mask, shrink, iterations):
    """SimpleITK's own correction: of the whole image, or of one that is shrunk, as its documentation has it."""
    given = SimpleITK.GetImageFromArray(image)
    given.SetSpacing(SPACING[::-1])
    where = SimpleITK.GetImageFromArray(mask.astype(np.uint8))
    where.CopyInformation(given)
    n4 = SimpleITK.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(iterations)
    if shrink == 1:
        return SimpleITK.GetArrayFromImage(n4.Execute(given, where))
    n4.Execute(SimpleITK.Shrink(given, [shrink] * 3), SimpleITK.Shrink(where, [shrink] * 3))
    return SimpleITK.GetArrayFromImage(given / SimpleITK.Exp(n4.GetLogBiasFieldAsImage(given)))


@pytest.mark.parametrize(("mask", "shrink"), [("otsu", 1), ("otsu", 2), ("nonzero", 2), ("none", 2)])
def test_n4_is_the_librarys(head, mask, shrink):
    """The same mask, shrink factor and iterations give the same image."""
    image = head[0]
    otsu = SimpleITK.GetArrayFromImage(SimpleITK.OtsuThreshold(SimpleITK.GetImageFromArray(image), 0, 1, 128))
    where = {"otsu": otsu, "nonzero": image != 0, "none": np.ones(SHAPE)}[mask]
    got = bias_field.correct(image, BiasField(shrink, (5, 4), mask), SPACING)
    np.testing.assert_allclose(got, by_the_library(image, where, shrink, (5, 4)), rtol=1e-5, atol=1e-4)


def test_a_field_that_was_put_on_is_taken_off(head):
    """In the middle and around it the spread falls by a quarter at least, and what was 0 stays 0."""
    image, _, ball = head
    even = bias_field.correct(image, BiasField(2, (30, 30)), SPACING)
    centre = np.zeros(SHAPE, bool)
    centre[12:20, 10:18, 8:16] = True
    shell = ball & ~centre
    for where in (centre, shell):
        assert even[where].std() / even[where].mean() < 0.75 * image[where].std() / image[where].mean()
    assert not even[image == 0].any()


def test_an_image_without_contrast_is_left_alone():
    """There is nothing to divide by."""
    flat = np.full((6, 6, 6), 3.0, np.float32)
    np.testing.assert_array_equal(bias_field.correct(flat, BiasField(), SPACING), flat)
