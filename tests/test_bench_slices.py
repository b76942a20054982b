"""Which cases and planes the slices of a page show, and that contours lie where the labels are."""

import numpy as np

from fedmerge.bench import slices


def rows(scores):
    """One run of one method with these Dice values."""
    cases = [{"case": f"c{i:02d}", "dice": {"x": score}} for i, score in enumerate(scores)]
    return [{"method": "m", "seed": 0, "chain": 0, "stage": "fine-tuned", "status": "ok", "dice": 0.5, "cases": cases}]


def test_cases_are_chosen_by_rank_and_not_by_eye():
    """Of eleven, the second, the sixth and the tenth; of few, each once."""
    scores = np.random.default_rng(0).permutation(11) / 10
    assert list(slices.choose(rows(scores)).values()) == [0.1, 0.5, 0.9]
    assert list(slices.choose(rows([0.2, 0.1])).values()) == [0.1, 0.2]
    assert slices.choose([]) == {}


def test_the_reference_always_has_a_column():
    """However many methods there are."""
    assert slices.shown(["a", "b", "c"], "b") == ["a", "b", "c"]
    many = [f"m{i}" for i in range(9)]
    assert slices.shown(many, "m8") == [*many[:5], "m8"]


def test_a_volume_is_cut_where_most_labels_are():
    """Two labels before one, then the larger area."""
    truth = np.zeros((6, 7, 8), np.uint8)
    truth[:, :, 2] = 1
    assert slices.cut(truth) == (2, 2)
    truth[1, 1:3, 5:7] = 2
    assert slices.cut(truth) == (0, 1)


def test_contours_close_around_their_labels():
    """One closed line around a square that touches the edge of the image."""
    found = np.zeros((5, 6), np.uint8)
    found[0:2, 3:6] = 1
    figure = slices.draw([slices.Slice("a", np.zeros((5, 6)), found, {"m": found}, {"m": 1.0})], ["x"])
    (contour,) = figure.axes[1].collections
    (path,) = contour.get_paths()
    np.testing.assert_allclose(path.vertices[0], path.vertices[-1])
    np.testing.assert_allclose(path.vertices.min(0), [-0.5, 2.5])
    np.testing.assert_allclose(path.vertices.max(0), [1.5, 5.5])
