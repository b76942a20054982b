"""Real anatomy as FreeSurfer and BraTS have it on disk, with images and tumours of the generator."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from commandline import command
from made_layouts import BRATS_2018, BRATS_2023
from made_plans import trainings
from nibabel import orientations

from sites import cases, cohort, described, freesurfer, loading, looking, preflight, synthesis, volumes
from sites.draws import generator
from sites.freesurfer import LABEL_OF, LABELS
from sites.phantom import PROFILES
from sites.records import OPEN, Site
from sites.tables import data as read_data

ANATOMY = Path(__file__).parents[2] / "shared/anatomy"
MAPS = sorted(ANATOMY.glob("*.nii.gz"))[:3]
YEARS = [("Brats18_CBICA_AAB_1", BRATS_2018, 4), ("BraTS-GLI-00001-000", BRATS_2023, 3)]
SITE = """
[[site]]
name = "{0}"
role = "{1}"
[site.data]
folder = "{0}"
layout = "{2}"
labels = {3}
modalities = ["T1"]
spacing_mm = 4
"""
NET = trainings(patch=(24, 28, 24), depth=3, train="steps = 2\nfisher_cases = 1")
CAMPAIGN = f"""
[campaign]
precision = "float32"
methods = ["t-imm"]
{NET}
{SITE.format("north", "source", "freesurfer", '{ from = "freesurfer-14", classes = [1, 2, 3, 4, 5, 6, 7] }')}
{SITE.format("south", "source", "freesurfer", '{ from = "freesurfer-14", classes = [8, 9, 10, 11, 12, 13, 14] }')}
{SITE.format("harbour", "target", "brats", '"brats"')}
train = 1
test = 1
"""

pytestmark = pytest.mark.skipif(not MAPS, reason="needs real label maps in ../shared/anatomy")


def even(array):
    """Without a last slice that has no partner."""
    return array[tuple(slice(size - size % 2) for size in array.shape)]


def as_mgz(path, array, affine):
    """FreeSurfer's own format and axes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    turned = orientations.ornt_transform(nibabel.io_orientation(affine), orientations.axcodes2ornt("LIA"))
    nibabel.save(nibabel.MGHImage(array, affine).as_reoriented(turned), path)


def site_of(folder, **keys):
    """A target with this data."""
    return Site("h", "target", read_data({"folder": ".", **keys}, "h", folder), OPEN, None, folder, simulation=True)


def checked(site):
    """The errors that `check` finds, and what it says of the folder."""
    seen = looking.Tally()
    errors = [f.sentence for f in preflight.check(site, (96, 112, 96), seen) if f.severity == "error"]
    return errors, described.layout(site, seen)


def subject(folder, path):
    """A real label map as `mri/aseg.mgz` at 2 mm, with an image; the label map as values of `LABELS`."""
    brain, drawn = freesurfer.read(path), volumes.read_labels(path)
    structures, aseg = even(brain.structures), even(np.rint(drawn.data).astype(np.int32))[::2, ::2, ::2]
    affine = brain.affine @ np.array([[2, 0, 0, 0.5], [0, 2, 0, 0.5], [0, 0, 2, 0.5], [0, 0, 0, 1]])
    seen = synthesis.image(structures, "T1", PROFILES["north"], 2.0, generator("anatomy test", path.name))
    as_mgz(folder / "mri/T1.mgz", seen, affine)
    as_mgz(folder / "mri/aseg.mgz", np.where(aseg < 500, aseg, 0).astype(np.int32), affine)
    return LABEL_OF[structures][::2, ::2, ::2]


def tumour(folder, path, words, enhancing):
    """A tumour in a real brain as the challenge's files; the label map as values of `LABELS`."""
    hospital = cohort.Hospital("harbour", {"a": path}, 1, cohort.TUMOUR, contrasts=tuple(words))
    made = cohort.case(hospital, freesurfer.read(path), folder.name)
    values = np.zeros(made.labels.shape, np.uint8)
    for name, value in (("core", 1), ("oedema", 2), ("enhancing", enhancing)):
        values[made.labels == LABELS[name]] = value
    folder.mkdir(parents=True)
    join = "-" if words is BRATS_2023 else "_"
    for word, array in zip((*words.values(), "seg"), (*made.images, values), strict=True):
        volumes.write(array, made.affine, folder / f"{folder.name}{join}{word}.nii.gz")
    return made.labels


def test_real_brains_as_freesurfers_subjects(tmp_path):
    """FreeSurfer's own values in aseg.mgz, at 2 mm: all 14 classes, voxel by voxel those of the table."""
    drawn = subject(tmp_path / "bert", MAPS[0])
    site = site_of(tmp_path, layout="freesurfer", labels="freesurfer-14", spacing_mm=4.0)
    errors, told = checked(site)
    assert errors == []
    assert told.startswith(
        "h: 1 case in the layout 'freesurfer'; modalities T1; label values 8, 47 cerebellum-cortex; 3, 26,"
    )
    (case,) = loading.load(site, cases.find(site.data), patch=(48, 56, 48))
    np.testing.assert_array_equal(case.truth, np.where(drawn <= 14, drawn, 0))
    assert set(np.unique(case.truth)) == set(range(15))
    white, grey = (case.image[0][case.label[0] == LABELS[name]].mean() for name in ("white-matter", "cortex"))
    assert white > grey


@pytest.mark.parametrize(("case", "words", "enhancing"), YEARS, ids=["2018", "2023"])
def test_tumours_in_real_brains_as_brats_cases(tmp_path, case, words, enhancing):
    """Oedema, ring and core of the generator under either year's names and values are one set of labels and regions."""
    drawn = tumour(tmp_path / case, MAPS[0], words, enhancing)
    site = site_of(tmp_path, layout="brats", labels="brats")
    errors, told = checked(site)
    assert errors == []
    assert f"1 necrosis; 2 oedema; {enhancing} enhancing; 0 background" in told
    (one,) = loading.load(site, cases.find(site.data), patch=(48, 48, 48))
    assert one.image.shape == (4, 48, 48, 48)
    for k, name in enumerate(("core", "oedema", "enhancing"), start=1):
        np.testing.assert_array_equal(one.truth == k, drawn == LABELS[name])
    whole, core, ring = (np.isin(one.truth, one.regions[name]) for name in ("WT", "TC", "ET"))
    assert ring.sum() < core.sum() < whole.sum()
    assert not (ring & ~core).any()
    assert not (core & ~whole).any()
    t1ce = one.image[1].numpy()
    assert t1ce[one.label[0] == 3].mean() > t1ce[one.label[0] == 1].mean()


@pytest.mark.slow
def test_the_papers_campaign_runs_on_these_folders(tmp_path):
    """Two halves of FreeSurfer's classes, then tumours of two years in one folder: predictions lie on the images."""
    for name, path in zip(("north", "south"), MAPS):
        subject(tmp_path / name / "bert", path)
    for path, (case, words, enhancing) in zip(MAPS[1:], YEARS):
        tumour(tmp_path / "harbour" / case, path, words, enhancing)
    (tmp_path / "campaign.toml").write_text(CAMPAIGN)
    run = tmp_path / "run"
    assert command("check", tmp_path / "campaign.toml") == 0
    assert command("simulate", tmp_path / "campaign.toml", "--out", run) == 0
    row = json.loads((run / "results.json").read_text())["rows"][-1]
    assert set(row["cases"][0]["dice"]) == {"WT", "TC", "ET"}
    (model,) = run.glob("models/harbour/*fine-tuned.safetensors")
    images = [next((tmp_path / "harbour" / case).glob(f"*[_-]{words['T1']}.nii.gz")) for case, words, _ in YEARS]
    assert command("predict", model, *images, "--out", tmp_path / "maps") == 0
    for image in images:
        given, answer = nibabel.load(image), nibabel.load(tmp_path / "maps" / image.name)
        assert answer.shape == given.shape
        np.testing.assert_allclose(answer.affine, given.affine, atol=1e-5)
