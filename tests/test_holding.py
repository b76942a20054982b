"""Weights that moved much farther than the others': the law of the median, and the coordinator's word."""

import math
import statistics

import hostile
import pytest
import torch
from small import campaign
from test_campaign import run

from fedmerge import distance, wire
from fedmerge.errors import CampaignStopped, ConfigError
from server import holding

NOW = "2030-01-02T03:04:05Z"
WEST = """[[site]]
name = "west"
role = "source"
[site.data]
folder = "harbour"
labels = { ball = [1] }
background = [2]
pooled_labels = { ball = [1], cube = [2] }
test = 2
[[site]]
name = "harbour"
"""


def three_sources(folder, name="three.toml", head=""):
    """The small campaign with a third source."""
    path = campaign(folder, name=name, head=head)
    path.write_text(path.read_text().replace('[[site]]\nname = "harbour"\n', WEST))
    return path


def far_away(data):
    """South's contribution with weights that went fifty times as far; its own change is small beside the start."""
    return hostile.with_tensors("weights/", lambda value: value * 50)(data)


@pytest.fixture(scope="module")
def honest(small, tmp_path_factory):
    """Folder and results of three honest sources side by side."""
    out = tmp_path_factory.mktemp("honest")
    return out, run(three_sources(small, head='schedule = "parallel"'), out, "mean")


def test_a_change_is_the_norm_of_the_difference_over_the_names_that_both_have():
    """Worked: differences 3, 4 and 12 make 13; a name that only one has counts nothing; 1e38 squared is no infinity."""
    before = {"a": torch.tensor([1.0, 1.0]), "b": torch.zeros(2, 2), "head": torch.ones(3)}
    after = {"a": torch.tensor([4.0, 5.0]), "b": torch.tensor([[12.0, 0.0], [0.0, 0.0]])}
    assert distance.change(after, before) == 13.0
    far = distance.change({"a": torch.full((2,), 1e38)}, {"a": torch.full((2,), -1e38)})
    assert far == pytest.approx(2e38 * 2**0.5)


def test_a_change_is_over_the_median_of_the_others():
    """The law: times_t = change_t / median of the others; scale-free, and one wild site spoils no other's figure."""
    changes = {"north": 1.0, "south": 2.0, "west": 3.0, "east": 10.0}
    found = distance.times(changes)
    for site, own in changes.items():
        assert found[site] == own / statistics.median(v for s, v in changes.items() if s != site)
    assert distance.times({s: 7 * v for s, v in changes.items()}) == pytest.approx(found)
    wild = distance.times({**changes, "east": 1e9})
    assert {s: wild[s] for s in ("north", "south", "west")} == {s: found[s] for s in ("north", "south", "west")}


def test_sites_that_stood_still_and_a_site_alone():
    """Nobody moved: 1; one moved where the others stood: infinite; a single source has nobody to be compared with."""
    assert distance.times({"north": 0.0, "south": 0.0, "west": 0.0}) == {"north": 1.0, "south": 1.0, "west": 1.0}
    assert distance.times({"north": 0.0, "south": 0.0, "west": 2.0})["west"] == math.inf
    assert distance.times({"north": 2.0}) == {}


def test_honest_sources_stay_within_and_their_changes_are_in_the_results(honest):
    """Each source has its line, all are within, and a chain or parallel start is what the change is measured from."""
    _, results = honest
    assert [(c["site"], c["verdict"]) for c in results["changes"]] == [
        (site, "within") for site in ("north", "south", "west")
    ]
    norms = {c["site"]: c["change"] for c in results["changes"]}
    expected = distance.times(norms)
    assert all(c["times"] == pytest.approx(expected[c["site"]]) and c["change"] > 0 for c in results["changes"])


@pytest.mark.parametrize("schedule", ["chain", "parallel"])
def test_with_three_sources_wild_weights_are_held_before_anybody_sees_them(small, tmp_path, schedule):
    """The campaign stops with site, figure and both commands; no target has received anything, no row was made."""
    path = three_sources(small, f"{schedule}.toml", f'schedule = "{schedule}"')
    app = hostile.app("west", far_away)
    with pytest.raises(
        CampaignStopped, match=r"west: weights that moved .* times as far .*, expected at most 10: held"
    ):
        run(path, tmp_path, "mean", app)
    assert not (tmp_path / "sites/harbour/received").exists()
    assert not (tmp_path / "models").exists()
    words = (tmp_path / "server/ended.txt").read_text()
    assert f"`fedmerge server release {tmp_path} west`" in words
    assert f"`fedmerge server leave-out {tmp_path} west`" in words
    with pytest.raises(CampaignStopped, match="held for the coordinator's word"):  # and again, without a word
        run(path, tmp_path, "mean", app)


def test_wild_weights_of_a_round_are_held_before_they_are_averaged(small, tmp_path):
    """Every round is judged by itself; what is released is averaged, and the next wild round is held again."""
    path = three_sources(small, head='schedule = "parallel"')
    app = hostile.app("south", far_away)
    for _ in range(2):
        with pytest.raises(CampaignStopped, match=r"south: weights that moved .* held for the coordinator's word"):
            run(path, tmp_path, "fedavg", app)
        assert holding.undecided(tmp_path / "server") == ["south"]
        holding.release(tmp_path / "server", "south", NOW)
    holding.leave_out(tmp_path / "server", "south", NOW)
    results = run(path, tmp_path, "fedavg", app)
    assert results["rows"][-1]["status"] == "ok"
    assert [one["site"] for one in results["left_out"]] == ["south"]


def test_released_weights_are_taken_as_they_are_and_others_of_the_same_site_are_held_again(small, tmp_path):
    """The word is about bytes: the campaign goes on with these, and stops again for others."""
    path = three_sources(small, "release.toml", 'schedule = "parallel"')
    with pytest.raises(CampaignStopped, match="west: weights that moved"):
        run(path, tmp_path, "mean", hostile.app("west", far_away))
    with pytest.raises(ConfigError, match="no weights of north are held; held are west"):
        holding.release(tmp_path / "server", "north", NOW)
    (digest,) = holding.release(tmp_path / "server", "west", NOW)
    results = run(path, tmp_path, "mean", hostile.app("west", far_away))
    assert results["rows"][-1]["contributions"]["west"] == digest
    assert {c["site"]: c["verdict"] for c in results["changes"]}["west"] == "released"
    assert "west: the weights moved" in (tmp_path / "results.md").read_text()
    for stored in (tmp_path / "server/contributions").iterdir():
        stored.unlink()
    further = hostile.app("west", lambda data: hostile.with_tensors("weights/", lambda v: v * 60)(data))
    with pytest.raises(CampaignStopped, match="west: weights that moved"):
        run(path, tmp_path, "mean", further)


def test_a_site_that_is_left_out_leaves_the_numbers_of_a_campaign_without_it(small, tmp_path):
    """In a chain the sites behind it train anew from the site before it: the word leaves no trace of its weights."""
    path = three_sources(small, "leave.toml")
    text = path.read_text()
    middle = text.replace('name = "south"', 'name = "x"').replace('name = "west"', 'name = "south"', 1)
    path.write_text(middle.replace('name = "x"', 'name = "west"'))  # the hostile site is the second of three
    with pytest.raises(CampaignStopped, match="west: weights that moved"):
        run(path, tmp_path / "a", "mean", hostile.app("west", far_away))
    with pytest.raises(ConfigError, match="expected one of the sources north, south, west, got harbour"):
        holding.leave_out(tmp_path / "a/server", "harbour", NOW)
    holding.leave_out(tmp_path / "a/server", "west", NOW)
    results = run(path, tmp_path / "a", "mean", hostile.app("west", far_away))
    assert results["left_out"] == [{"site": "west", "chain": None, "reason": f"left out by the coordinator on {NOW}"}]
    assert list(results["rows"][-1]["contributions"]) == ["north", "south"]
    start, end = path.read_text().index('[[site]]\nname = "west"'), path.read_text().index('[[site]]\nname = "south"')
    without = path.with_name("without-west.toml")
    without.write_text(path.read_text()[:start] + path.read_text()[end:])
    expected = run(without, tmp_path / "b", "mean")
    assert results["rows"] == [
        {**row, "seconds": mine["seconds"]} for row, mine in zip(expected["rows"], results["rows"])
    ]


def test_the_last_source_cannot_be_left_out(small, tmp_path):
    """A campaign without any source is none."""
    run(campaign(small), tmp_path, "mean")
    holding.leave_out(tmp_path / "server", "north", NOW)
    with pytest.raises(ConfigError, match="south is the last source"):
        holding.leave_out(tmp_path / "server", "south", NOW)


def test_with_two_sources_wild_weights_are_reported_and_the_campaign_goes_on(small, tmp_path):
    """Nobody can say who of two is odd: results, page and log have the figure."""
    results = run(campaign(small), tmp_path, "mean", hostile.app("south", far_away))
    verdicts = {c["site"]: c for c in results["changes"]}
    assert (verdicts["north"]["verdict"], verdicts["south"]["verdict"]) == ("within", "reported")
    assert (
        f"south: the weights moved {verdicts['south']['times']:.3g} times as far"
        in (tmp_path / "results.md").read_text()
    )
    assert {row["status"] for row in results["rows"]} == {"ok"}


def test_max_change_is_the_campaigns(small, honest, tmp_path):
    """What a campaign allows decides: below the honest spread somebody is held, far above it nobody is."""
    most = max(c["times"] for c in honest[1]["changes"])
    strict = three_sources(small, "strict.toml", f'schedule = "parallel"\nmax_change = {most * 0.99}')
    with pytest.raises(CampaignStopped, match="held for the coordinator's word"):
        run(strict, tmp_path / "strict", "mean", reuse=str(honest[0]))
    loose = three_sources(small, "loose.toml", 'schedule = "parallel"\nmax_change = 1e9')
    wild = run(loose, tmp_path / "loose", "mean", hostile.app("west", far_away))
    assert {c["verdict"] for c in wild["changes"]} == {"within"}


def test_a_stored_contribution_is_measured_where_its_start_is_known(small, honest, tmp_path):
    """One that was trained from the campaign's ancestor has a change; from another site's weights it is unknown."""
    files = {wire.read(path).site: path for path in (honest[0] / "server/contributions").iterdir()}
    path = campaign(small, name="given.toml", head='schedule = "parallel"', south=f'contribution = "{files["south"]}"')
    results = run(path, tmp_path / "a", "mean")
    norms = {c["site"]: c["change"] for c in honest[1]["changes"]}
    assert {c["site"]: c["change"] for c in results["changes"]} == {s: norms[s] for s in ("north", "south")}
    run(campaign(small, name="chain.toml"), tmp_path / "b", "mean")
    chained = {wire.read(p).site: p for p in (tmp_path / "b/server/contributions").iterdir()}
    lone = campaign(small, name="lone.toml", head='schedule = "parallel"', south=f'contribution = "{chained["south"]}"')
    results = run(lone, tmp_path / "c", "mean")
    assert {c["site"]: (c["verdict"], c["times"]) for c in results["changes"]}["south"] == ("unknown", None)
