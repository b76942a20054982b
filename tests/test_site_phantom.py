"""Synthetic hospitals."""

import json
import os
import subprocess
import sys
import threading

import nibabel
import numpy as np
import pytest

from fedmerge.errors import ConfigError, DataError
from fedmerge.evaluation import dice
from sites import anatomy, cases, phantom, volumes
from sites.config import OPEN, Data, Site
from sites.draws import generator


def patient(k, **how):
    """Image and labels of one patient, 4 mm voxels."""
    affine = np.diag([4.0, 4, 4, 1])
    affine[:3, 3] = [-82, -100, -92]
    one = anatomy.draw(generator("test", k), **{"lesions": 1.0} | how)
    return anatomy.paint(one, anatomy.place(one, affine, (42, 51, 43)), 4.0)


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory):
    """Two patients of each hospital."""
    folder = tmp_path_factory.mktemp("hospitals")
    for name in phantom.PROFILES:
        phantom.ensure(folder / name, name, 2, seed=0)
    return folder


def data_of(folder, name, **how):
    """A site's table for such a hospital."""
    labels = {label: (value,) for label, value in anatomy.LABELS.items()}
    return Data(folder / name, "phantom", labels, phantom={"profile": name, "cases": 2, "seed": 0}, **how)


def test_every_head_has_every_structure():
    """Ten structures in plausible sizes (ml), whatever the patient; a lesion in the share that was asked for."""
    for k in range(6):
        _, labels = patient(k)
        ml = np.bincount(labels.ravel(), minlength=14) * 4.0**3 / 1000
        assert (ml[1:11] > [80, 150, 3, 3, 2, 2, 0.8, 2, 10, 50]).all()
        assert (ml[1:11] < [500, 900, 70, 25, 20, 25, 8, 20, 50, 180]).all()
    assert patient(0, lesions=0.0)[1].max() == 10


def test_the_lesions_parts_are_nested():
    """Each voxel of the core touches core or enhancing ring only; the ring touches no healthy tissue."""
    seen = 0
    for k in range(6):
        _, labels = patient(k)
        lesion, inner, core = labels >= 11, labels >= 12, labels == 12
        assert lesion.any()
        for part, around in ((core, inner), (inner, lesion)):
            grown = part.copy()
            for axis in range(3):
                for shift in (-1, 1):
                    grown |= np.roll(part, shift, axis)
            seen += (part & around).sum()
            assert (grown & ~around).sum() < 0.2 * max(part.sum(), 1)
    assert seen


def test_structures_differ_in_brightness():
    """White matter is brighter than cortex, cortex than ventricles; the enhancing ring is the brightest."""
    image, labels = patient(1)
    mean = {name: image[labels == value].mean() for name, value in anatomy.LABELS.items()}
    assert mean["ventricles"] < mean["cortex"] < mean["thalamus"] < mean["white-matter"] < mean["enhancing"]
    assert mean["core"] < mean["oedema"] < mean["white-matter"]


def test_labels_cannot_be_guessed_from_the_place_alone():
    """The most frequent label at each place, over 15 other heads, finds less than half of the small structures."""
    heads = [patient(k, lesions=0.3)[1] for k in range(18)]
    votes = np.stack([np.stack([head == v for head in heads[:15]]).mean(0) for v in range(14)])
    guess = votes.argmax(0).astype(np.uint8)
    small = ("ventricles", "thalamus", "caudate", "putamen", "hippocampus")
    scores = [dice(guess, head, {name: anatomy.LABELS[name] for name in small}) for head in heads[15:]]
    assert np.mean([list(score.values()) for score in scores]) < 0.5


def test_the_same_settings_make_the_same_bytes(tmp_path, hospitals):
    """Files are a function of profile, number and seed; fewer cases are the first of more; seeds differ."""
    phantom.write(tmp_path / "one", "south", 1, seed=0)
    phantom.write(tmp_path / "two", "south", 1, seed=1)
    for part in ("imagesTr", "labelsTr"):
        name = f"{part}/sub-south001.nii.gz"
        assert (tmp_path / "one" / name).read_bytes() == (hospitals / "south" / name).read_bytes()
        assert (tmp_path / "two" / name).read_bytes() != (hospitals / "south" / name).read_bytes()


def test_hospitals_have_scanners_of_their_own(hospitals):
    """Spacing, axes, tilt and scale of intensities differ; the affine puts all heads in the middle."""
    seen = {}
    for name in phantom.PROFILES:
        volume = volumes.read(hospitals / name / "imagesTr" / f"sub-{name}001.nii.gz")
        middle = volume.affine @ [*(np.array(volume.data.shape) - 1) / 2, 1]
        np.testing.assert_allclose(middle[:3], [0, 0, -8], atol=0.01)
        seen[name] = (volume.spacing_mm, volume.data.max(), volume.frame.affine[0, 0] > 0, volume.affine[1, 2] != 0)
    assert len({round(mm[0], 2) for mm, *_ in seen.values()}) == 3
    assert seen["north"][1] < 500 < seen["south"][1] < 10_000 < seen["harbour"][1]
    assert [right for _, _, right, _ in seen.values()] == [True, False, True]
    assert [tilted for *_, tilted in seen.values()] == [False, False, True]


def test_a_hospital_is_read_like_any_other(hospitals):
    """A phantom's ids tell its patients, and its labels are the ones that dataset.json lists."""
    data = data_of(hospitals, "harbour", spacing_mm=(5.0, 5.0, 5.0), test=1)
    everything = cases.find(data)
    assert [case.patient for case in everything] == ["sub-harbour001", "sub-harbour002"]
    assert cases.split(everything, data, seed=0).by_patient
    site = Site("harbour", "target", data, OPEN, None, hospitals, simulation=True)
    (case, _) = cases.load(site, everything, patch=(16, 24, 20))
    assert set(np.unique(case.truth)) >= set(range(11))
    table = json.loads((hospitals / "harbour" / "dataset.json").read_text())
    assert table["labels"] == {"0": "background"} | {str(v): k for k, v in anatomy.LABELS.items()}
    assert cases.modalities(data) == phantom.MODALITIES


def test_several_threads_make_one_hospital(tmp_path):
    """Whoever comes second finds it made; nothing is left lying about."""
    work = [threading.Thread(target=phantom.ensure, args=(tmp_path / "h", "north", 1, 0)) for _ in range(3)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["h"]
    assert len(list((tmp_path / "h" / "imagesTr").iterdir())) == 1


def test_a_folder_of_something_else_is_left_alone(tmp_path, hospitals):
    """Neither real patients nor other phantoms are overwritten."""
    (tmp_path / "patients").mkdir()
    (tmp_path / "patients" / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"expected the synthetic hospital profile north.*, got other files"):
        phantom.ensure(tmp_path / "patients", "north", 2, 0)
    with pytest.raises(DataError, match=r"cases 3, seed 0, version \d+, got profile north, cases 2"):
        phantom.ensure(hospitals / "north", "north", 3, 0)


def test_unknown_hospitals_and_empty_ones(tmp_path):
    """The known profiles are listed."""
    with pytest.raises(ConfigError, match="no synthetic hospital 'east'; there are north, south, harbour"):
        phantom.ensure(tmp_path / "x", "east", 2)
    with pytest.raises(ConfigError, match="'north' expected at least one case, got 0"):
        phantom.write(tmp_path / "x", "north", 0)


def test_the_same_patients_come_out_whatever_the_number_of_threads(tmp_path):
    """Voxels are equal with one thread of BLAS and with two: engines and machines differ in that."""
    made = []
    for threads in ("1", "2"):
        folder = tmp_path / threads
        environment = os.environ | {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        call = f"phantom.write(Path({str(folder)!r}), 'harbour', 3, 0)"
        code = f"from pathlib import Path; from sites import phantom; {call}"
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)
        made.append([nibabel.load(path).get_fdata().tobytes() for path in sorted(folder.rglob("*.nii.gz"))])
    assert len(made[0]) == 6
    assert made[0] == made[1]
