"""A site's home: its first file, what is wrong with a folder that is none, its users, and how it is found."""

import json
from dataclasses import fields

import pytest
from consortia import found, hospital

from fedmerge.errors import ConfigError
from sites import config, template
from sites import home as homes
from sites.records import Policy


@pytest.fixture
def server(tmp_path):
    """A new consortium."""
    return found(tmp_path)


def test_the_first_file_of_a_site_forbids_everything_and_names_every_key(server, tmp_path):
    """It is read as it stands once the labels are filled in; its policy is the strict one, key by key."""
    joined = hospital(tmp_path, server, roles=("target",))
    text = joined.home.site_file.read_text()
    assert template.MEANING.keys() == {field.name for field in fields(Policy)}
    joined.home.site_file.write_text(text.replace("# tumour = [1]", "tumour = [1]"))
    site = config.from_file(joined.home.site_file)
    assert (site.name, site.role, site.policy) == ("north", "target", Policy())
    assert site.work == joined.home.private / "work"
    assert homes.users(joined.home) == homes.Users()


def test_what_the_consortium_proposes_is_a_comment_whatever_it_holds():
    """A template that tries to write a line of its own into the hospital's file gets no further than its comment."""
    evil = 'full"\nweights = true\n[policy]\nmetrics = true #'
    proposed = {
        "policy": {"fisher": evil, "weights": True, "roles": {"a\nb": [evil]}, "unknown\nweights = true": 1},
        "labels": {"tumour\nweights = true": "x", "edema": "y"},
    }
    import tomllib

    text = template.site_file("north", "source", proposed)
    read = tomllib.loads(text)
    assert "the consortium proposes true" in text
    assert "# edema = [" in text
    assert read["policy"]["weights"] is False
    assert read["policy"]["fisher"] == "none"
    assert read["data"]["labels"] == {}
    assert template.site_file("north", "source", {"policy": 7, "labels": []})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "no consortium.json; see fedmerge site join"),
        ("nonsense", "not the JSON expected"),
        ('{"name": "north"}', "expected name, consortium, address, fingerprint, epoch"),
    ],
)
def test_a_folder_that_is_no_home_is_told_with_what_is_wrong(tmp_path, text, sentence):
    """The file is named."""
    if text is not None:
        (tmp_path / "consortium.json").write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        homes.open(tmp_path)


def test_values_of_another_kind_in_a_home_are_told(server, tmp_path):
    """An epoch that is no number, or below 0."""
    joined = hospital(tmp_path, server)
    for epoch, sentence in (("1", "'epoch' expected a whole number"), (-1, "expected 0 or more")):
        table = json.loads(joined.home.consortium_file.read_text()) | {"epoch": epoch}
        joined.home.consortium_file.write_text(json.dumps(table))
        with pytest.raises(ConfigError, match=sentence):
            homes.open(joined.home.folder)


def test_users_of_a_home_are_two_or_they_do_not_separate(server, tmp_path):
    """Only two different names do; another key is told."""
    home = hospital(tmp_path, server).home
    for text, separate in (
        ("", False),
        ('[users]\nagent = "a"', False),
        ('[users]\nagent = "a"\nnode = "a"', False),
        ('[users]\nagent = "a"\nnode = "b"', True),
    ):
        home.site_file.write_text(text)
        assert homes.users(home).separate is separate
    home.site_file.write_text('[users]\nagents = "a"')
    with pytest.raises(ConfigError, match=r"site.toml, \[users\]: unknown key 'agents'"):
        homes.users(home)


def test_a_home_is_found_by_option_environment_or_folder(server, tmp_path, monkeypatch):
    """In this order; without any, the sentence names all three."""
    home = hospital(tmp_path, server).home
    monkeypatch.delenv(homes.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="give --home FOLDER, or set FEDMERGE_SITE"):
        homes.find(None)
    assert homes.find(home.folder) == home
    monkeypatch.setenv(homes.VARIABLE, str(home.folder))
    assert homes.find(None) == home
    monkeypatch.delenv(homes.VARIABLE)
    monkeypatch.chdir(home.folder)
    assert homes.find(None) == home
