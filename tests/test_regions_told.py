"""What says that a net answers regions: a site's settings, tasks, contributions; and what refuses other ones."""

from dataclasses import replace

import pytest
from made_contributions import SHAPES, contribution

from fedmerge import tasks, wire
from fedmerge.contribution import Expected, check
from fedmerge.errors import ConfigError, Refused
from sites import cases, preflight, source
from sites.inbound import Declined
from sites.records import OPEN, Site
from sites.tables import data as read_data


def test_a_contribution_says_its_regions_and_nothing_where_there_are_none():
    """There and back; without regions the document is what it was, and other regions than agreed are refused."""
    plain = contribution(labels=("a", "b"))
    assert "regions" not in plain.facts()
    made = replace(plain, regions={"core": ("a",), "whole": ("a", "b")})
    assert wire.from_bytes(wire.to_bytes(made)) == made
    assert made != plain
    want = Expected(SHAPES, tuple(made.fisher), regions={"core": ["a"], "whole": ["a", "b"]})
    check(made, want, made.site)
    with pytest.raises(Refused, match=r"regions expected \{.*\}, got none"):
        check(plain, want, made.site)
    with pytest.raises(Refused, match="regions expected none, got"):
        check(made, replace(want, regions={}), made.site)


@pytest.mark.parametrize(
    "table",
    [{}, [], {"x": "a"}, {"x": [1]}, {"": ["a"]}, {"x": ["a", "a"]}, {"x": ["a", "b"]}, {"x": ["z"]}, {"x": []}],
)
def test_a_document_with_impossible_regions_is_refused(table):
    """Empty, of another form, or such that no label map can be made of them."""
    made = contribution(labels=("a", "b"))
    facts = made.facts() | {"regions": table}
    object.__setattr__(made, "facts", lambda: facts)
    with pytest.raises(Refused, match="regions"):
        wire.from_bytes(wire.to_bytes(made))


def settings(folder, **keys):
    """The data of a site in this folder."""
    return read_data({"folder": ".", "layout": "brats", "labels": "brats", **keys}, "h", folder)


def test_a_sites_settings_name_what_its_nets_answer(tmp_path):
    """Labels where nothing is said; else the regions of the table, or the site's own, in the order of the channels."""
    assert settings(tmp_path).answered == {}
    told = settings(tmp_path, outputs="regions").answered
    assert told == {"TC": ["necrosis", "enhancing"], "WT": ["necrosis", "oedema", "enhancing"], "ET": ["enhancing"]}
    assert list(told) == ["TC", "WT", "ET"]
    few = settings(tmp_path, labels={"from": "brats", "classes": ["necrosis", "enhancing"]}, outputs="regions")
    assert list(few.answered) == ["TC", "ET"]
    own = settings(tmp_path, labels={"a": [1], "b": [2]}, regions={"core": ["a"], "all": ["b", "a"]}, outputs="regions")
    assert own.answered == {"core": ["a"], "all": ["a", "b"]}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"outputs": "both"}, "'outputs' expected labels or regions, got 'both'"),
        ({"labels": {"a": [1]}}, "outputs = 'regions' expected 'regions', or labels of a table that has some"),
        ({"regions": {"x": ["necrosis", "oedema"], "y": ["oedema", "enhancing"]}}, "regions 'x' and 'y' share oedema"),
        ({"layout": "classes", "labels": ["a", "b"]}, "outputs = 'regions' is for label maps"),
    ],
)
def test_settings_that_no_net_can_answer_are_refused_at_once(tmp_path, keys, words):
    """Before anything is read: the place, the key, what was expected."""
    with pytest.raises(ConfigError, match=words):
        settings(tmp_path, **{"outputs": "regions", **keys})


def test_the_hash_over_a_sites_settings_knows_what_it_trains_on(tmp_path):
    """Another one with regions; without, and with the word that is the default, the one that it was before."""
    plain, said, other = (
        cases.digest([], settings(tmp_path, **k)) for k in ({}, {"outputs": "labels"}, {"outputs": "regions"})
    )
    assert plain == said == "sha256:c39ab508710070671b2de60ebc738c13fff14b92a5f220072912d42dfdcb7510"
    assert other != plain


def test_check_warns_of_one_name_for_two_regions(tmp_path):
    """Their rows do not count for each other; the same labels in another order are the same region."""
    keys = {"labels": {"a": [1], "b": [2]}, "outputs": "regions"}
    tables = ({"x": ["a", "b"], "y": ["a"]}, {"x": ["b", "a"], "y": ["b"]})
    one, other = (
        Site(name, "source", settings(tmp_path / name, regions=table, **keys), OPEN, None, tmp_path, simulation=True)
        for name, table in zip(("north", "south"), tables)
    )
    told = [found.sentence for found in preflight.agree([one, other]) if "region" in found.sentence]
    assert told == ["south: the region 'y' is of b, but of a at north"]


def test_a_site_declines_a_net_that_answers_something_else(tmp_path):
    """Regions where it trains on labels, labels where it trains on regions, and other regions."""
    for keys, table, words in (
        ({}, {"x": ["a"]}, r"expected regions \(x: a\), got \(none\)"),
        (
            {"outputs": "regions"},
            {},
            r"expected regions \(none\), got \(TC: necrosis, enhancing; WT: .*; ET: enhancing\)",
        ),
    ):
        data = settings(tmp_path, **keys)
        site = Site("h", "source", data, OPEN, None, tmp_path, simulation=True)
        asked = tasks.Net({"name": "isensee2017"}, 4, tuple(data.labels), (8, 8, 8), regions=table)
        with pytest.raises(Declined, match=words):
            source.check_regions(site, asked)


def test_a_task_that_says_nothing_of_regions_is_the_one_that_it_was():
    """So rows and contributions of earlier runs are found again; with regions a net travels there and back."""
    plain = tasks.Net({"name": "isensee2017"}, 4, ("a", "b"), (8, 8, 8))
    assert "regions" not in tasks.to_table(plain)
    assert plain.out_channels == 3
    told = replace(plain, regions={"core": ["a"], "whole": ["a", "b"]})
    assert tasks.from_table(tasks.Net, tasks.to_table(told), "h") == told
    assert (told.out_channels, told.rows) == (2, ("core (a)", "whole (a, b)"))
    with pytest.raises(Refused, match=r"Net.regions expected a list of labels for each region, got \{'x': 3\}"):
        tasks.from_table(tasks.Net, {**tasks.to_table(told), "regions": {"x": 3}}, "h")
