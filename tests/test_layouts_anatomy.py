"""Real anatomy as FreeSurfer and BraTS have it on disk, with images and tumours of the generator."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from made_layouts import BRATS_2018, BRATS_2023
from nibabel import orientations

from sites import cases, cohort, explained, freesurfer, loading, preflight, synthesis, volumes
from sites.draws import generator
from sites.freesurfer import LABEL_OF, LABELS
from sites.phantom import PROFILES
from sites.records import OPEN, Site
from sites.tables import data as read_data

ANATOMY = Path(__file__).parents[2] / "shared/anatomy"
MAPS = sorted(ANATOMY.glob("*.nii.gz"))[:1]

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
    seen = preflight.Seen()
    errors = [f.sentence for f in preflight.check(site, (96, 112, 96), seen) if f.severity == "error"]
    return errors, explained.layout(site, seen)


def test_real_brains_as_freesurfers_subjects(tmp_path):
    """FreeSurfer's own values in aseg.mgz, at 2 mm: all 14 classes, voxel by voxel those of the table."""
    expected = {}
    for number, path in enumerate(MAPS):
        brain, drawn = freesurfer.read(path), volumes.read_labels(path)
        structures, aseg = even(brain.structures), even(np.rint(drawn.data).astype(np.int32))[::2, ::2, ::2]
        affine = brain.affine @ np.array([[2, 0, 0, 0.5], [0, 2, 0, 0.5], [0, 0, 2, 0.5], [0, 0, 0, 1]])
        seen = synthesis.image(structures, "T1", PROFILES["north"], 2.0, generator("anatomy test", number))
        as_mgz(tmp_path / f"s{number}/mri/T1.mgz", seen, affine)
        as_mgz(tmp_path / f"s{number}/mri/aseg.mgz", np.where(aseg < 500, aseg, 0).astype(np.int32), affine)
        labels = LABEL_OF[structures][::2, ::2, ::2]
        expected[f"s{number}"] = np.where(labels <= 14, labels, 0)
    site = site_of(tmp_path, layout="freesurfer", labels="freesurfer-14", spacing_mm=4.0)
    errors, told = checked(site)
    assert errors == []
    assert told.startswith(
        "h: 1 case in the layout 'freesurfer'; modalities T1; label values 8, 47 cerebellum-cortex; 3, 26, 42, 58 cortex;"
    )
    for case in loading.load(site, cases.find(site.data), patch=(48, 56, 48)):
        np.testing.assert_array_equal(case.truth, expected[case.id])
        assert set(np.unique(case.truth)) == set(range(15))
        white, grey = (case.image[0][case.label[0] == LABELS[name]].mean() for name in ("white-matter", "cortex"))
        assert white > grey


@pytest.mark.parametrize(
    ("case", "words", "enhancing"),
    [("Brats18_CBICA_AAB_1", BRATS_2018, 4), ("BraTS-GLI-00001-000", BRATS_2023, 3)],
    ids=["2018", "2023"],
)
def test_tumours_in_real_brains_as_brats_cases(tmp_path, case, words, enhancing):
    """Oedema, ring and core of the generator under either year's names and values are one set of labels and regions."""
    brain = freesurfer.read(MAPS[0])
    hospital = cohort.Hospital("harbour", {"a": MAPS[0]}, 1, cohort.TUMOUR, contrasts=tuple(words))
    made = cohort.case(hospital, brain, "sub-a_scan001")
    join = "-" if words is BRATS_2023 else "_"
    for word, image in zip(words.values(), made.images, strict=True):
        volumes.write(image, made.affine, _in(tmp_path / case / f"{case}{join}{word}.nii.gz"))
    values = np.zeros(made.labels.shape, np.uint8)
    for name, value in (("core", 1), ("oedema", 2), ("enhancing", enhancing)):
        values[made.labels == LABELS[name]] = value
    volumes.write(values, made.affine, _in(tmp_path / case / f"{case}{join}seg.nii.gz"))
    site = site_of(tmp_path, layout="brats", labels="brats")
    errors, told = checked(site)
    assert errors == []
    assert f"1 necrosis; 2 oedema; {enhancing} enhancing; 0 background" in told
    (one,) = loading.load(site, cases.find(site.data), patch=(48, 48, 48))
    assert one.image.shape == (4, 48, 48, 48)
    for k, name in enumerate(("core", "oedema", "enhancing"), start=1):
        np.testing.assert_array_equal(one.truth == k, made.labels == LABELS[name])
    whole, core, ring = (np.isin(one.truth, one.regions[name]) for name in ("WT", "TC", "ET"))
    assert ring.sum() < core.sum() < whole.sum()
    assert not (ring & ~core).any()
    assert not (core & ~whole).any()
    t1ce = one.image[1].numpy()
    assert t1ce[one.label[0] == 3].mean() > t1ce[one.label[0] == 1].mean()


def _in(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
