"""Colours by name, and the tables of labels that viewers read beside predictions."""

import itertools
import re

import nibabel
import numpy as np
import pytest
from commandline import command
from small import PATCH

from fedmerge import colours, labelfiles, nets, params, wire
from sites import labels

NAMES = ["hippocampus", "my lesion", 'the "odd" one']

# Machado, Oliveira & Fernandes 2009, table 1, severity 1.0; they act on linear RGB
SIGHTS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def seen(colour, sight):
    """The colour as somebody with that colour vision sees it."""
    value = np.array(colour) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    shown = np.clip(np.array(SIGHTS[sight]) @ linear, 0, 1)
    back = np.where(shown <= 0.0031308, shown * 12.92, 1.055 * shown ** (1 / 2.4) - 0.055)
    return tuple(float(v) for v in back * 255)


def nearest(table, change=lambda colour: colour):
    """The smallest distance between two colours of a table."""
    return min(colours.distance(change(a), change(b)) for a, b in itertools.combinations(table.values(), 2))


def test_the_distance_of_black_and_white_is_100_and_of_known_colours_is_known():
    """Red of sRGB lies at L*a*b* (53.24, 80.09, 67.20), which any converter gives."""
    assert colours.distance((0, 0, 0), (255, 255, 255)) == pytest.approx(100, abs=0.01)
    assert colours._lab((255, 0, 0)) == pytest.approx((53.24, 80.09, 67.20), abs=0.05)


def test_a_structure_has_its_colour_in_every_table():
    """Whatever stands beside it, in whatever order and dress."""
    assert set(colours.FREESURFER) == set(labels.FREESURFER)
    assert colours.of(["hippocampus", "x"])["hippocampus"] == (220, 216, 20)
    assert colours.of(["a b", "Hippocampus"])["Hippocampus"] == (220, 216, 20)
    for table in (labels.FREESURFER, labels.BRATS, labels.HIPPOCAMPUS):
        drawn = colours.of(table)
        assert all(drawn[name] == colours.KNOWN[name] for name in table)
        assert list(drawn) == list(table)


def test_a_name_of_nobody_has_the_same_colour_in_every_table_without_a_rival():
    """And the order of the names changes nothing."""
    alone = colours.of(["nodule"])["nodule"]
    assert colours.of(["hippocampus", "nodule", "thalamus"])["nodule"] == alone
    several = [f"part {k}" for k in range(20)]
    assert colours.of(several) == colours.of(several[::-1])


@pytest.mark.parametrize("count", [2, 7, 20, 60])
def test_no_two_labels_of_a_table_look_alike(count):
    """Down to 7 labels they are those of Okabe and Ito; 60 are still 5 apart (1 can just be told)."""
    drawn = colours.of([f"part {k}" for k in range(count)])
    assert nearest(drawn) >= (20 if count <= 20 else 5)
    assert count > 7 or set(drawn.values()) <= set(colours.OKABE_ITO)


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("names", [labels.BRATS, labels.HIPPOCAMPUS, [f"part {k}" for k in range(7)]], ids=str)
def test_few_labels_are_told_apart_by_those_who_see_no_red_or_green(sight, names):
    """By at least 8, where 1 can just be told."""
    assert nearest(colours.of(names), lambda colour: seen(colour, sight)) >= 8


def read_itksnap(text):
    """As ITK-SNAP reads it: a number, three colours, opacity, two switches, and a name in quotes."""
    rows = [line for line in text.splitlines() if not line.startswith("#")]
    found = [
        re.fullmatch(r'\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+([\d.]+)\s+([01])\s+([01])\s+"([^"]*)"', r) for r in rows
    ]
    return {int(m[1]): (m[8], tuple(int(m[k]) for k in (2, 3, 4))) for m in found}


def read_words(text):
    """As Slicer and FreeSurfer read theirs: six words a line, the second the name."""
    rows = [line.split() for line in text.splitlines() if not line.startswith("#")]
    assert all(len(row) == 6 for row in rows)
    return {int(row[0]): (row[1], tuple(int(v) for v in row[2:5])) for row in rows}


def read_fsleyes(text):
    """As FSLeyes reads it: a number, three shares, and the name to the end of the line."""
    rows = [line.split(maxsplit=4) for line in text.splitlines()]
    return {int(row[0]): (row[4], tuple(round(255 * float(v)) for v in row[1:4])) for row in rows}


def test_every_viewer_gets_the_values_names_and_colours():
    """Each form read back as its own program reads it; the background is there where the form wants it."""
    texts, drawn = labelfiles.files(NAMES), colours.of(NAMES)
    words = ["hippocampus", "my_lesion", 'the_"odd"_one']
    wanted = {k: (name, drawn[name]) for k, name in enumerate(NAMES, start=1)}
    as_words = {k: (word, drawn[name]) for k, (word, name) in enumerate(zip(words, NAMES, strict=True), start=1)}
    assert texts.keys() == labelfiles.FORMS.keys()
    assert read_fsleyes(texts["labels-fsleyes.lut"]) == wanted
    quoted = wanted | {3: ("the 'odd' one", drawn[NAMES[2]])}
    assert read_itksnap(texts["labels-itksnap.txt"]) == {0: ("Clear Label", (0, 0, 0)), **quoted}
    assert read_words(texts["labels-slicer.ctbl"]) == {0: ("Background", (0, 0, 0)), **as_words}
    assert read_words(texts["labels-freesurfer.txt"]) == {0: ("Unknown", (0, 0, 0)), **as_words}
    assert texts["labels-slicer.ctbl"].startswith("# Color table file\n")


def test_a_name_of_several_lines_stays_on_one():
    """A label's name is whatever a site wrote."""
    assert read_fsleyes(labelfiles.files(["a\nb  c"])["labels-fsleyes.lut"])[1][0] == "a b c"


def test_predict_writes_them_beside_the_label_maps_and_mixes_no_two_models(tmp_path):
    """Maps of other labels in the same folder would be read with the wrong names."""
    settings = {"name": "isensee2017", "base_filters": 2, "depth": 2}
    weights = params.of(nets.build(settings, in_channels=1, out_channels=3, seed=0))
    info = {
        "net": nets.canonical(settings, in_channels=1, out_channels=3),
        "in_channels": 1, "channels": ["T1"], "patch": [PATCH] * 3,
    }  # fmt: skip
    for name, own in (("a", ["ball", "cube"]), ("b", ["ball", "disc"])):
        wire.write_model(weights, {**info, "labels": own}, tmp_path / f"{name}.safetensors")
    for name in ("one", "two"):
        image = nibabel.Nifti1Image(np.random.default_rng(0).normal(size=(9, 9, 9)).astype(np.float32), np.eye(4))
        nibabel.save(image, tmp_path / f"{name}.nii.gz")
    out = tmp_path / "out"
    assert command("predict", tmp_path / "a.safetensors", tmp_path / "one.nii.gz", "--out", out) == 0
    assert read_fsleyes((out / "labels-fsleyes.lut").read_text())[2][0] == "cube"
    assert command("predict", tmp_path / "b.safetensors", tmp_path / "two.nii.gz", "--out", out) == 2
    assert not (out / "two.nii.gz").exists()
    assert command("predict", tmp_path / "b.safetensors", tmp_path / "two.nii.gz", "--out", out, "--overwrite") == 0
    assert read_fsleyes((out / "labels-fsleyes.lut").read_text())[2][0] == "disc"
