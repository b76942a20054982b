"""What the figures show, read from their axes."""

import itertools

import made_up
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from fedmerge import comparison, figures
from fedmerge.figures import curves as learning

CASES = {
    "ten methods, three seeds": made_up.results(),
    "four methods, one seed": made_up.results(made_up.FOUR, (0,), cases=20, layers=33),
    "two targets, deep net": made_up.results(made_up.FOUR, (0, 1), targets=("harbour", "port"), layers=90),
}


def boxes(texts, figure):
    """The extents in pixels of those texts that are drawn."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    return [t.get_window_extent(renderer) for t in texts if t.get_visible() and t.get_text()]


@pytest.mark.parametrize("drawn", [figures.learning_curves, figures.ratios, figures.paired])
@pytest.mark.parametrize("made", CASES.values(), ids=CASES)
def test_no_two_labels_overlap(made, drawn):
    """Tick labels, titles, notes and legends leave each other room."""
    figure = drawn(made)
    FigureCanvasAgg(figure).draw()
    texts = list(figure.texts)
    for ax in figure.axes:
        if ax.axison:
            texts += [ax.title, ax._left_title, ax.xaxis.label, ax.yaxis.label, *ax.texts]
            texts += [tick.label1 for axis in (ax.xaxis, ax.yaxis) for tick in axis._update_ticks()]
            texts += ax.get_legend().get_texts() if ax.get_legend() else []
    drawn_boxes = [box.padded(-1.0) for box in boxes(texts, figure)]
    assert not [pair for pair in itertools.combinations(drawn_boxes, 2) if pair[0].overlaps(pair[1])]


def test_every_run_is_drawn_and_the_thick_line_is_their_mean():
    """Three seeds give three thin lines and one thick line through their mean."""
    made = made_up.results(("none", "t-imm"))
    ax = figures.learning_curves(made).axes[0]
    curves = [np.array(r["curve"]) for r in made["rows"] if r["method"] == "none" and r["stage"] == "fine-tuned"]
    thick = [line for line in ax.lines if line.get_label() == "none"]
    thin = [line for line in ax.lines if line.get_color() == thick[0].get_color() and line not in thick]
    assert len(thin) == 3
    np.testing.assert_allclose(thick[0].get_ydata(), np.mean(curves, axis=0)[:, 1])


def test_the_mean_ends_where_the_shortest_run_ends():
    """A run that stopped early is not continued by imagination."""
    long, short = (np.arange(4), np.array([0.0, 0.2, 0.4, 0.6])), (np.array([0, 2]), np.array([0.0, 0.8]))
    steps, mean = learning.mean_curve([long, short])
    np.testing.assert_array_equal(steps, [0, 1, 2])
    np.testing.assert_allclose(mean, [0.0, 0.3, 0.6])


def test_runs_that_mixed_other_sites_have_panels_of_their_own():
    """What a method admits may differ from run to run; a site keeps its colour, and no mean is taken over both."""
    made = made_up.results()
    (one, *_) = made["ratios"]
    names, groups = ["north", "south", "west"], list(one["groups"])
    shares = {"north": 0.5, "south": 0.3, "west": 0.2}
    fits = [
        {**one, "seed": seed, "sites": sites, "groups": {g: [shares[s] for s in sites] for g in groups}}
        for seed, sites in enumerate((names, names, ["south", "west"]))
    ]
    top, bottom = figures.ratios({**made, "ratios": fits}).axes
    assert [line.get_label() for line in top.lines[1:]] == names
    assert [line.get_label() for line in bottom.lines[1:]] == names[1:]
    assert [line.get_color() for line in bottom.lines[1:]] == [line.get_color() for line in top.lines[2:]]
    assert "of north and south and west (2 runs)" in top.get_title(loc="left")
    assert "of south and west (1 run)" in bottom.get_title(loc="left")


def test_ratios_are_drawn_layer_by_layer_in_the_nets_order():
    """The line of a site runs through the mean ratio of each layer; kernels show as a band."""
    made = made_up.results(("t-imm", "t-imm-kernel"), (0,))
    top, bottom = figures.ratios(made).axes
    groups = made["ratios"][0]["groups"]
    north = next(line for line in top.lines if line.get_label() == "north")
    np.testing.assert_allclose(north.get_ydata(), [both[0] for both in groups.values()])
    assert [label.get_text() for label in bottom.get_xticklabels()] == list(groups)
    band = bottom.collections[0].get_paths()[0].get_extents()
    kernels = np.array([both[0] for both in made["ratios"][1]["groups"].values()])
    assert band.y1 == pytest.approx(np.percentile(kernels, 95, axis=1).max())


def test_one_ratio_for_the_whole_model_is_a_point_a_site():
    """The grain `model` has no layers to run over."""
    made = made_up.results(("t-imm",), (0, 1))
    for fitted in made["ratios"]:
        fitted.update(grain="model", groups={"model": [0.25, 0.75]})
    ax = figures.ratios(made).axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["north", "south"]


def test_equal_shares_are_left_out_beside_others():
    """A panel of one half everywhere says nothing; alone, it is shown all the same."""
    made = made_up.results(("t-imm", "imm-mode"), (0,))
    uniform = {**made["ratios"][0], "method": "imm-mode", "grain": "model", "groups": {"model": [0.5, 0.5]}}
    assert len(figures.ratios({**made, "ratios": [uniform, *made["ratios"]]}).axes) == 1
    assert len(figures.ratios({**made, "ratios": [uniform]}).axes) == 1


def test_the_dots_are_the_differences_to_t_imm_of_each_case():
    """Method minus T-IMM, one dot a case, whatever the jitter in the other direction."""
    made = made_up.results(("none", "t-imm"), (0,), cases=12)
    ax = figures.paired(made).axes[0]
    ours, theirs = (
        comparison.case_means([r for r in made["rows"] if r["method"] == m and r["stage"] == "fine-tuned"])
        for m in ("none", "t-imm")
    )
    np.testing.assert_allclose(ax.collections[0].get_offsets()[:, 0], [ours[c] - theirs[c] for c in ours])
    assert [t.get_text() for t in ax.texts][1] == "0 of 12"


@pytest.mark.parametrize(
    ("drawn", "sentence"),
    [
        (figures.learning_curves, "No row has a learning curve."),
        (figures.ratios, "No method of this run has mixing ratios."),
        (figures.paired, "No method can be paired with t-imm"),
    ],
)
def test_a_figure_without_data_says_why(drawn, sentence):
    """A run in which everything failed still has its three figures."""
    made = made_up.failing(made_up.results(("none",), (0,)), "none", "it stopped")
    assert drawn(made).texts[0].get_text().replace("\n", " ").startswith(sentence)
