"""Cropping by a mask file: found in its layout, laid on the image, and nothing of it in what comes back."""

from dataclasses import replace

import made_layouts
import nibabel
import numpy as np
import pytest
from commandline import command
from made_cases import site_of
from made_layouts import Brightness, save

from fedmerge import nets, params, wire
from fedmerge.errors import ConfigError, DataError
from sites import cases, explaining, loading, predict, preflight, preprocess, tables, volumes

LABELS = {"one": 1, "two": 2}
BRAIN = (slice(1, 10), slice(2, 9), slice(1, 7))
FOUND = {
    "folders": "p1/brain_mask.nii.gz",
    "freesurfer": "p1/mri/brainmask.mgz",
    "bids": "derivatives/prep/sub-p1/anat/sub-p1_desc-brain_mask.nii.gz",
}
AXES = {"folders": "PSR", "freesurfer": "LIA", "bids": "PIR"}


def outline(shape=made_layouts.SHAPE, box=BRAIN):
    """(X, Y, Z): grey values in a box, as in an image whose skull was stripped."""
    values = np.zeros(shape, np.int16)
    values[box] = 50
    return values


def study(folder, layout, **more):
    """Two cases in a layout, with masks: the site's data."""
    made = {
        "folders": lambda: made_layouts.single(folder, ["p1", "p2"]),
        "freesurfer": lambda: made_layouts.subjects(folder, ["p1", "p2"]),
        "bids": lambda: made_layouts.bids(folder, ["sub-p1", "sub-p2"]),
    }
    made[layout]()
    for case in ("p1", "p2"):
        save(folder / FOUND[layout].replace("p1", case), outline(), AXES[layout])
    table = {
        "folders": {"files": {"T1": "t1_mprage"}, "mask_file": "brain_mask", "labels": LABELS},
        "freesurfer": {"files": {"T1": "norm"}, "labels": {"one": 17, "two": 49}, "background": [2]},
        "bids": {"labels": LABELS, "derivative": "manual"},
    }[layout]
    return tables.data({"folder": ".", "layout": layout, "crop": "mask", **table, **more}, "north", folder)


@pytest.mark.parametrize("layout", FOUND)
def test_each_layout_finds_the_mask_of_a_case_and_names_those_without(tmp_path, layout):
    """By the name that the site gives, or by the usual one; it is no modality, and no case of its own."""
    data = study(tmp_path, layout)
    found = cases.find(data)
    assert str(found[0].mask.relative_to(tmp_path)) == FOUND[layout]
    assert cases.modalities(data) == ("T1",)
    found[1].mask.unlink()
    named = {"folders": "brain_mask", "freesurfer": "mri/brainmask.mgz", "bids": "desc-brain_mask"}[layout]
    problem = next(one for one in preflight.check(site_of(data)) if one.severity == "error")
    assert f"case '{found[1].id}' has no " in problem.sentence
    assert named in problem.sentence
    plain = replace(data, crop=None, mask_file=None)
    assert [one.mask for one in cases.find(plain)] == [None, None]


@pytest.mark.parametrize("layout", FOUND)
def test_the_box_is_drawn_around_the_mask(tmp_path, layout):
    """Cut by hand, then prepared like any volume."""
    data = study(tmp_path, layout)
    one = cases.find(data)[0]
    case = loading.prepare(site_of(data), one, (8, 8, 8), whole=True)
    assert case.box.slices == BRAIN
    cut = preprocess.normalise(volumes.read(one.images[0]).data[BRAIN])
    np.testing.assert_array_equal(case.image[0].numpy(), preprocess.crop(cut, case.grid))
    (told,) = [one for one in explaining.explain(site_of(data), (8, 8, 8)) if "box" in one]
    assert told == f"each case is cut to the box around whatever is not 0 in its mask {data.mask_file}" + (
        "; the patch lies in its middle"
    )


def test_a_mask_on_other_voxels_is_refused_or_brought_to_those_of_the_image(tmp_path):
    """As `grids` says: half as many voxels, each twice as long, name the same box; one outside is an error anyway."""
    data = study(tmp_path, "folders")
    one = cases.find(data)[0]
    coarse = outline((6, 5, 4), (slice(1, 4), slice(1, 4), slice(0, 3)))
    affine = volumes.read(one.images[0]).affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.full(3, 0.5)
    affine[:3, :3] *= 2
    volumes.write(coarse, affine, one.mask)
    sentence = "p1/brain_mask.nii.gz expected the shape of the image p1_t1_mprage.mgz, 10 x 8 x 12, got 6 x 5 x 4"
    with pytest.raises(DataError, match=sentence):
        loading.prepare(site_of(data), one, (8, 8, 8))
    assert f"north: {sentence}" in [finding.sentence for finding in preflight.check(site_of(data), (8, 8, 8))]
    both = replace(data, grids="resample")
    case = loading.prepare(site_of(both), one, (8, 8, 8))
    assert case.box.slices == (slice(2, 8), slice(2, 8), slice(0, 6))
    assert case.regridded == 1
    told = [finding.sentence for finding in preflight.check(site_of(both))]
    assert any("on other voxels than T1 lies the mask in 1 of 2 cases" in sentence for sentence in told)
    save(one.mask, outline(), "LIA")  # the same voxels in another order
    turned = loading.prepare(site_of(both), one, (8, 8, 8))
    assert (turned.box.slices, turned.regridded) == (BRAIN, 0)
    affine[:3, 3] += 500
    volumes.write(coarse, affine, one.mask)
    with pytest.raises(DataError, match=r"expected a mask with voxels inside the image p1_t1_mprage\.mgz, got none"):
        loading.prepare(site_of(both), one, (8, 8, 8))


def test_another_mask_is_another_case(tmp_path):
    """In memory, on disk, and for the digest by which contributions are found again; without one nothing changes."""
    data = study(tmp_path, "folders")
    site, found = site_of(data), cases.find(data)
    before, digest = loading.load(site, found, patch=(8, 8, 8)), cases.digest(found, data)
    save(found[0].mask, outline(box=(slice(2, 12), slice(2, 9), slice(1, 7))), AXES["folders"])
    after = loading.load(site, found, patch=(8, 8, 8))
    assert [a is b for a, b in zip(before, after)] == [False, True]
    assert cases.digest(found, data) != digest


def test_a_new_image_is_cut_by_its_own_mask_and_answered_on_its_own_grid(tmp_path):
    """To a voxel, outside the box as background; without a mask, or with one too many, the model is refused."""
    data = study(tmp_path, "folders")
    (one, _) = cases.find(data)
    info = {"channels": ["T1"], "patch": [16, 16, 16], "preparation": {"grids": "refuse", "crop": "mask"}}
    (path,), out = one.images, tmp_path / "out.nii.gz"
    predict.predict_file(Brightness(), info, [path], out, mask=one.mask)
    got, image = nibabel.load(out), nibabel.load(path)
    assert got.shape == image.shape
    np.testing.assert_allclose(got.affine, image.affine, atol=1e-5)
    want = np.zeros(made_layouts.SHAPE)
    want[BRAIN] = volumes.read_labels(one.label).data[BRAIN]
    assert set(np.unique(want)) == {0, 1, 2}
    np.testing.assert_array_equal(volumes.read_labels(out).data, want)
    with pytest.raises(ConfigError, match=r"^p1_t1_mprage\.mgz: .* prepared with a mask of each patient, got none"):
        predict.predict_file(Brightness(), info, [path], out)
    with pytest.raises(ConfigError, match=r"were prepared with no mask, got .*brain_mask"):
        predict.predict_file(Brightness(), {**info, "preparation": {}}, [path], out, mask=one.mask)


def test_the_command_takes_a_mask_for_each_patient(tmp_path, capsys):
    """In their order; another number of them is told before anything is written."""
    data = study(tmp_path / "study", "folders")
    found, out = cases.find(data), tmp_path / "out"
    settings = {"name": "isensee2017", "base_filters": 2, "depth": 2}
    net = nets.build(settings, in_channels=1, out_channels=3, seed=0)
    info = {
        "net": nets.canonical(settings, in_channels=1, out_channels=3), "in_channels": 1, "labels": ["one", "two"],
        "channels": ["T1"], "patch": [8, 8, 8], "preparation": {"grids": "refuse", "crop": "mask"},
    }  # fmt: skip
    model = tmp_path / "model.safetensors"
    wire.write_model(params.of(net), info, model)
    words = ["predict", model, *(one.images[0] for one in found), "--out", out]
    assert command(*words, "--mask", found[0].mask) == 2
    assert "--mask expected one file for each of 2 patients, got 1" in capsys.readouterr().err
    assert not out.exists()
    assert command(*words, *(word for one in found for word in ("--mask", one.mask))) == 0
    assert nibabel.load(out / "p1_t1_mprage.nii.gz").shape == nibabel.load(found[0].images[0]).shape


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"layout": "brats"}, "crop = 'mask' expected one of the layouts folders, freesurfer, bids, got 'brats'"),
        ({"layout": "folders"}, "crop = 'mask' in the layout 'folders' expected 'mask_file', got none"),
        ({"layout": "bids", "crop": "otsu", "mask_file": "x"}, "'mask_file' is read with crop = 'mask', got otsu"),
    ],
)
def test_what_no_mask_can_be_found_for_is_refused(tmp_path, table, sentence):
    """Before a folder is looked at."""
    with pytest.raises(ConfigError, match=f"north: {sentence}"):
        tables.data({"folder": "x", "labels": LABELS, "crop": "mask", **table}, "north", tmp_path)
