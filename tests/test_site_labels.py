"""Label values to channels, and names that two sites spell differently."""

import numpy as np
import pytest

from fedmerge.errors import DataError
from sites import labels


def test_values_become_channels_in_the_order_of_the_names():
    """Several values of one name are one channel; declared background is 0."""
    values = np.array([0, 4, 1, 2, 7], np.int16)
    got = labels.remap(values, {"enhancing": (4, 3), "core": (1,)}, background=(2, 7))
    np.testing.assert_array_equal(got, np.array([0, 1, 2, 0, 0], np.uint8))
    assert got.dtype == np.uint8


def test_whole_numbers_in_a_float_file_are_fine():
    """Some label files are float32 as they come."""
    np.testing.assert_array_equal(labels.remap(np.array([0.0, 2.0], np.float32), {"a": (2,)}), [0, 1])


def test_negative_and_large_values_can_be_declared():
    """Values are only names."""
    np.testing.assert_array_equal(labels.remap(np.array([-1, 70000, 0]), {"a": (-1,), "b": (70000,)}), [1, 2, 0])


def test_a_value_that_was_not_declared_is_named_with_its_file():
    """Every undeclared value, beside all that are declared."""
    sentence = r"^north: labelsTr/x.nii.gz: label value 3, 9 is not declared; declared are 0, 1, 2$"
    with pytest.raises(DataError, match=sentence):
        labels.remap(np.array([0, 1, 3, 9]), {"a": (1,)}, (2,), who="north: labelsTr/x.nii.gz")


def test_a_fraction_is_no_label():
    """A label map that was resampled like an image gives itself away."""
    with pytest.raises(DataError, match=r"^x: label values expected whole numbers, got 0.5$"):
        labels.remap(np.array([0, 0.5, 1]), {"a": (1,)}, who="x")


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ("anterior", "Anterior"),
        ("white-matter", "white matter"),
        ("white_matter", "WhiteMatter"),
        ("oedema", "edema"),
        ("anterior", "anteriour"),
        ("left-thalamus", "left_talamus"),
        ("hippocampus", "hippocmapus"),
    ],
)
def test_one_name_in_two_spellings_is_found(x, y):
    """Another dress, or one edit in a long word."""
    assert labels.misspelt({"north": ["a", x], "south": [y]}) == [("north", x, "south", y)]


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ("anterior", "posterior"),
        ("lesion1", "lesion2"),
        ("thalamus-l", "thalamus-r"),
        ("left-thalamus", "right-thalamus"),
        ("csf", "gm"),
        ("core", "cortex"),
        ("core", "core"),
    ],
)
def test_two_names_are_left_alone(x, y):
    """Numbers and sides tell structures apart, and equal names agree."""
    assert labels.misspelt({"north": [x], "south": [y]}) == []


def test_a_site_that_uses_both_names_means_two_things():
    """Somebody told them apart on purpose."""
    assert labels.misspelt({"north": ["anterior"], "south": ["interior"], "east": ["anterior", "interior"]}) == []


def test_no_table_gives_a_value_twice():
    """A label table is a map from values to names."""
    for table in labels.TABLES.values():
        values = [value for of_name in table.labels.values() for value in of_name]
        assert len(values) == len(set(values))
        assert 0 not in values


def test_many_values_in_a_row_are_told_by_their_ends():
    """A table of thousands of parcels fits into a sentence."""
    assert labels.in_words([7, 0, 1, 2, *range(1000, 3000)]) == "0, 1, 2, 7, 1000 to 2999"
    with pytest.raises(DataError, match=r"label value 9 is not declared; declared are 0, 1000 to 2999$"):
        labels.remap(np.array([9]), {"cortex": tuple(range(1000, 3000))})


def test_a_value_may_be_wrong_in_this_file_only():
    """What the settings declare and the file cannot mean is refused with the reason."""
    values, own = np.array([0, 3]), {"enhancing": (3, 4)}
    np.testing.assert_array_equal(labels.remap(values, own, never={4: "a cavity"}), [0, 1])
    with pytest.raises(DataError, match=r"^x: label value 4 is there, and it is a cavity$"):
        labels.remap(values + 1, own, never={4: "it is a cavity"}, who="x")


def test_a_table_of_parts_is_taken_by_name_or_as_a_whole():
    """The regions of a table are made of its own labels; what it knows besides is none of them."""
    for table in labels.TABLES.values():
        assert set(table.labels) >= {part for parts in table.regions.values() for part in parts}
        assert 0 not in table.known
    papers = labels.TABLES["freesurfer-14"]
    assert set(papers.known) - {v for values in papers.labels.values() for v in values} == {
        25, 57, 30, 62, 80, 81, 82, 85, 136, 137, 163, 164,
    }  # fmt: skip
