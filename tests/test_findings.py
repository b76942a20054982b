"""The lines of a site's check that need no network: data, geometry, labels, disk, policy, the campaign's wishes."""

from dataclasses import replace

import numpy as np
import pytest
from test_site_preflight import hospital, image, label, put

from sites import findings, room
from sites.findings import Asked, Line
from sites.records import OPEN, Policy

LOAD = room.Load(parameters=1000, sources=2)
ASKED = Asked("first", "isensee2017", (8, 8, 8), {"north": "source", "harbour": "target"}, {}, LOAD)


def results(lines):
    """(check, result) of each line."""
    return [(line.check, line.result) for line in lines]


def test_good_data_are_four_green_lines(tmp_path):
    """How many cases serve what, what they were read as, what is done to them, and what of it the net sees."""
    site = hospital(tmp_path, validate=1, test=1, spacing_mm=(2.0, 2.0, 2.0))
    data, layout, preparation, geometry = findings.data(site, (8, 8, 8))
    assert data == Line("data", "ok", f"3 cases in {tmp_path}: 1 to train, 1 to validate, 1 to test")
    assert layout.found == (
        "north: 3 cases of 3 patients in the layout 'msd'; modalities T1; label values 1 front; 2 back; 0 background"
    )
    assert preparation.found == (
        "each modality is clipped at its percentiles 1 and 99, then has mean 0 and standard deviation 1; along an axis"
        " that becomes coarser voxels are averaged, along one that becomes finer interpolated"
    )
    assert geometry.found == (
        "voxels of 1 x 1 x 1 mm; resampled to 2 x 2 x 2 mm; the net sees 16 x 16 x 16 mm around the centre"
    )


def test_without_a_campaign_nothing_is_said_of_the_patch(tmp_path):
    """The line says how to learn more."""
    assert findings.data(hospital(tmp_path), None)[-1].found.endswith("the net's patch is known with --campaign")


def test_every_finding_is_a_line_with_its_own_remedy(tmp_path):
    """A moved label map is a matter of geometry, a stray value one of site.toml, half a file one of the archive."""
    site = hospital(tmp_path, ids=("ok-visit1",))
    moved, stray = np.eye(4), label()
    moved[0, 3], stray[0, 0, 0] = 4, 7
    put(tmp_path, "a-visit1", img=image(1), lab=label(), affine=moved)
    put(tmp_path, "b-visit1", img=image(2), lab=stray)
    put(tmp_path, "c-visit1", img=image(3), lab=label())
    path = tmp_path / "imagesTr/c-visit1.nii.gz"
    path.write_bytes(path.read_bytes()[:700])
    told = findings.data(site, None)
    assert results(told) == [("geometry", "error"), ("data", "error"), ("data", "error")]
    assert [line.remedy for line in told] == [
        "export the case's files on one grid, or let `grids` of [data] resample them",
        "name the value under `labels` or `background` of [data] in site.toml",
        "restore the file from the archive, or leave the case out",
    ]


@pytest.mark.parametrize(
    ("sentence", "told"),
    [
        ("x: case 'a' has no mri/aseg.mgz", "complete the case"),
        ("x: case 'a' has two label maps, a/b.nii and c/b.nii", "complete the case"),
        (
            "x: case 'a' has 2 label maps, b, c: choose with label_file = \"b\"",
            "set the key that the sentence ends with",
        ),
        ("h: a.mgz is not an MGH file: Not a gzipped file (b'he')", "restore the file from the archive"),
        ('h: x/a_seg.nii.gz: label value 4 is there, and it is y: choose with labels = "brats"', "set the key"),
    ],
)
def test_what_a_layouts_reader_says_has_a_remedy(sentence, told):
    """A file to bring, a key to set, a file to restore."""
    assert findings.remedy(sentence).startswith(told)


def test_no_folder_is_an_error_that_names_the_keys_to_set(tmp_path):
    """And nothing else is said of the data."""
    site = hospital(tmp_path)
    (line,) = findings.data(replace(site, data=replace(site.data, folder=tmp_path / "gone")), None)
    assert line.result == "error"
    assert "`folder`" in line.remedy


def test_labels_outside_the_patch_are_a_yellow_line_of_geometry(tmp_path):
    """The patch is that of the campaign."""
    lines = findings.data(hospital(tmp_path), (2, 2, 2))
    assert ("geometry", "warning") in results(lines)
    assert ("geometry", "ok") in results(lines)


@pytest.mark.parametrize(("share", "result"), [(0.4, "ok"), (0.7, "warning"), (1.2, "error")])
def test_the_disk_is_held_against_what_the_campaign_needs(tmp_path, monkeypatch, share, result):
    """Both numbers are in the line."""
    site = hospital(tmp_path)
    needed = room.needed_bytes("source", LOAD)
    monkeypatch.setattr(room, "free_bytes", lambda folder: int(needed / share))
    line = findings.disk(site, ASKED)
    assert line.result == result
    assert f"{needed / 1e6:.2f} MB needed" in line.found
    assert f"{needed / share / 1e6:.2f} MB free" in line.found


def test_without_a_campaign_a_full_disk_is_a_warning_and_the_assumption_is_stated(tmp_path, monkeypatch):
    """Nobody knows yet what will be asked."""
    monkeypatch.setattr(room, "free_bytes", lambda folder: 0)
    line = findings.disk(hospital(tmp_path), None)
    assert line.result == "warning"
    assert "30 million parameters, 3 sources, 8 rows" in line.found


def test_a_policy_is_read_out_and_its_obstacles_are_yellow(tmp_path):
    """Every key has its line; the strict one says which lines decline everything."""
    site = hospital(tmp_path)
    assert {line.result for line in findings.policy(site)} == {"ok"}
    strict = {line.check: line for line in findings.policy(replace(site, policy=Policy()))}
    assert strict["policy: min_cases"].result == "ok"
    assert strict["policy: roles"].result == "warning"
    assert "set `roles` of [policy]" in strict["policy: roles"].remedy


def test_a_campaign_that_fits_is_one_green_line(tmp_path):
    """Name and role are those of the site."""
    (line,) = findings.campaign(hospital(tmp_path), ASKED)
    assert line == Line("campaign first", "ok", "it has north as a source")


@pytest.mark.parametrize(
    ("asked", "policy", "words"),
    [
        (replace(ASKED, roles={"harbour": "target"}), OPEN, "has no site 'north'; its sites are harbour"),
        (replace(ASKED, roles={"north": "target"}), OPEN, "has north as a target, [site] in site.toml says source"),
        (ASKED, replace(OPEN, campaigns=("second",)), "'campaigns' does not list 'first'"),
        (ASKED, replace(OPEN, nets=("unet",)), "'nets' does not list 'isensee2017'"),
        (replace(ASKED, labels={"south": ("Front",)}), OPEN, "the label 'front' is spelt 'Front' at south"),
    ],
)
def test_what_does_not_fit_a_campaign_is_an_error(tmp_path, asked, policy, words):
    """Each with the sentence that names both sides, and a remedy."""
    told = findings.campaign(replace(hospital(tmp_path), policy=policy), asked)
    (bad,) = [line for line in told if line.result == "error"]
    assert words in bad.found
    assert bad.remedy


def test_limits_that_leave_no_room_for_a_contribution_are_told_before_it_is_made(tmp_path):
    """1000 parameters with their Fisher are 8000 bytes; of one contribution that has left, the limit of one is used."""
    site = hospital(tmp_path)

    def told(**limits):
        lines = findings.campaign(replace(site, policy=replace(OPEN, **limits)), ASKED)
        return [(line.result, line.found) for line in lines if line.result != "ok"]

    assert told(max_bytes=8000, max_contributions=1) == []
    ((result, found),) = told(max_bytes=7999)
    assert result == "error"
    assert found == "a contribution has about 8,000 bytes, the policy's 'max_bytes' lets 7,999 go"
    (site.work / "sent").mkdir(parents=True)
    (site.work / "sent/one").touch()
    ((result, found),) = told(max_contributions=1)
    assert result == "warning"
    assert found == "1 contributions have left, the policy's 'max_contributions' is 1"
    target = replace(site, role="target", policy=replace(OPEN, max_bytes=0, max_contributions=0))
    assert [line.result for line in findings.campaign(target, replace(ASKED, roles={"north": "target"}))] == ["ok"]


def test_labels_that_agree_are_said_to(tmp_path):
    """Another site's other labels are no contradiction."""
    asked = replace(ASKED, labels={"south": ("front", "side"), "north": ("Front",)})
    assert findings.campaign(hospital(tmp_path), asked)[-1].found == ("the labels front, back are spelt as at south")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), [("ok", "has not agreed on names")]),
        (("front", "back", "side"), [("ok", "front, back are spelt as at the consortium")]),
        (("Front", "back"), [("error", "the label 'front' is spelt 'Front' at the consortium")]),
        (("front", "tumour"), [("warning", "the label 'back' is not among those")]),
        (("Front",), [("error", "'front' is spelt 'Front'"), ("warning", "the label 'back' is not among those")]),
    ],
)
def test_labels_are_held_against_those_that_the_consortium_agreed_on(tmp_path, names, expected):
    """Another spelling of an agreed name is an error, a name that nobody agreed on a warning."""
    lines = findings.agreed(hospital(tmp_path), names)
    assert [line.result for line in lines] == [result for result, _ in expected]
    assert all(words in line.found for line, (_, words) in zip(lines, expected))
