"""Prepared cases on the site's own disk: the same numbers, whole files, a bound, and threads side by side."""

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_cases import decathlon, head, site_of, write
from test_site_steps import LANDMARKS

from fedmerge.errors import DataError
from sites import cases, loading, prepared
from sites.prepared import Disk, Memory
from sites.records import BiasField, Scanner, Site

PATCH = (8, 8, 4)


@pytest.fixture
def forgetful(monkeypatch):
    """Each use is a process that starts anew: nothing is in memory."""

    def forget():
        monkeypatch.setattr(loading, "_MEMORY", Memory(1 << 30))

    forget()
    return forget


@pytest.fixture
def site(tmp_path) -> Site:
    """A site of three cases that keeps up to a gigabyte, with every step that changes numbers."""
    data = decathlon(tmp_path / "data", ["a", "b", "c"])
    landmarks = replace(LANDMARKS, channels=(("MRI", (0.0, 40.0, 100.0)),))
    data = replace(data, crop="nonzero", bias_field=BiasField(1, (3,)), landmarks=landmarks, spacing_mm=(1.3, 1.0, 0.9))
    plain = site_of(replace(data, cache_gb=1.0), scanner=Scanner(gamma=1.2, noise=0.02))
    return replace(plain, work=tmp_path / "work")


def load(site, **more):
    """All cases."""
    return cases.load(site, cases.find(site.data), patch=PATCH, **more)


def kept(site) -> list[Path]:
    """The files of the cache."""
    return sorted((site.work / "prepared").glob("*.safetensors"))


def same(one, two):
    """Whether two cases are equal to the last digit, in everything."""
    assert torch.equal(one.image, two.image)
    assert torch.equal(one.label, two.label)
    assert one.label.dtype == two.label.dtype
    np.testing.assert_array_equal(one.truth, two.truth)
    assert (one.id, one.box, one.grid, one.regions, one.regridded) == (
        two.id, two.box, two.grid, two.regions, two.regridded,
    )  # fmt: skip
    for field in ("shape", "affine", "orientation", "codes"):
        np.testing.assert_array_equal(getattr(one.frame, field), getattr(two.frame, field))


def test_numbers_are_the_same_with_and_without_the_disk(site, forgetful):
    """Made, kept, and read again; and a label map that is written from it is the same file."""
    without = load(replace(site, data=replace(site.data, cache_gb=0.0)))
    assert not (site.work / "prepared").exists()
    forgetful()
    made = load(site)
    forgetful()
    again = load(site)
    assert len(kept(site)) == 3
    for trio in zip(without, made, again, strict=True):
        same(trio[0], trio[1])
        same(trio[0], trio[2])
    probabilities = torch.rand((3, *PATCH), generator=torch.Generator().manual_seed(0)).softmax(0)
    for name, case in (("without", without[0]), ("again", again[0])):
        case.score(probabilities, ("front", "back"), site.work / name)
    assert (site.work / "without/a.nii.gz").read_bytes() == (site.work / "again/a.nii.gz").read_bytes()


def test_what_is_there_is_not_made_again(site, forgetful, monkeypatch):
    """The second process opens no image."""
    load(site)
    forgetful()
    monkeypatch.setattr(loading.regrid, "read", lambda *_: pytest.fail("an image was opened"))
    assert [case.id for case in load(site)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "change",
    [
        {"labels": {"front": (1,)}, "background": (2,)},
        {"spacing_mm": (1.0, 1.0, 1.0)},
        {"crop": "otsu"},
        {"bias_field": BiasField(1, (2,))},
        {"bias_field": None},
        {"landmarks": None},
        {"grids": "resample"},
        {"control": "shuffled-labels"},
    ],
    ids=lambda change: ", ".join(change),
)
def test_another_setting_is_another_file(site, forgetful, change):
    """Each of them makes the three cases anew."""
    load(site)
    load(replace(site, data=replace(site.data, **change)))
    assert len(kept(site)) == 6


def test_another_file_scanner_patch_or_version_is_another_file_too(site, forgetful, monkeypatch):
    """All that goes in: the last of a changed image's, the simulated scanner, the patch, the libraries."""
    load(site)
    write(site.data.folder / "imagesTr/a.nii.gz", head(7)[0])
    os.utime(site.data.folder / "imagesTr/a.nii.gz", ns=(1, 1))
    load(site)
    assert len(kept(site)) == 4
    load(replace(site, scanner=None))
    assert len(kept(site)) == 7
    cases.load(site, cases.find(site.data), patch=(6, 8, 4))
    assert len(kept(site)) == 10
    forgetful()
    monkeypatch.setattr(prepared, "_versions", lambda: ("another",))
    load(site)
    assert len(kept(site)) == 13


@pytest.mark.parametrize("damage", ["half", "flipped", "empty", "other"])
def test_a_damaged_file_is_made_anew_and_said(site, forgetful, caplog, damage):
    """Cut off, a single bit, nothing at all, something else: the case is right, and so is the file afterwards."""
    good = load(site)
    path = kept(site)[0]
    before = path.read_bytes()
    flipped = bytearray(before)
    flipped[-40] ^= 1
    path.write_bytes({"half": before[: len(before) // 2], "flipped": flipped, "empty": b"", "other": b"x" * 99}[damage])
    forgetful()
    for one, two in zip(good, load(site), strict=True):
        same(one, two)
    assert [r.message for r in caplog.records if "is damaged, and made anew" in r.message]
    assert path.read_bytes() == before


def test_a_run_that_is_killed_leaves_no_half_file(site, forgetful, monkeypatch):
    """A crash while a file is written: it is not there, and what killed runs left goes away after a day."""

    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(prepared, "save", crash)
        with pytest.raises(KeyboardInterrupt):
            load(site)
    assert list((site.work / "prepared").iterdir()) == []
    old, new = (site.work / "prepared" / f".{name}.safetensors.part" for name in ("old", "new"))
    for path, age in ((old, 2 * prepared.DAY_S), (new, 0)):
        path.write_bytes(b"half")
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - age))
    load(site)
    assert not old.exists()
    assert new.exists()


def test_what_nobody_asked_for_longest_makes_room(tmp_path):
    """Three files of one size, room for two: reading one makes it young."""
    arrays = {"image": np.zeros(1000, np.float32)}
    disk = Disk(tmp_path, 1 << 20)
    for age, name in enumerate("cba"):
        disk.put(name, arrays, {})
        os.utime(disk._path(name), (0, 1e9 + age))
    size = disk._path("a").stat().st_size
    small = replace(disk, max_bytes=3 * size)
    assert small.get("c") is not None
    small.put("d", arrays, {})
    assert [name for name in "abcd" if small.get(name) is not None] == ["a", "c", "d"]


def test_a_full_disk_stops_no_training(site, forgetful, monkeypatch, caplog):
    """The case is there, and the log says why it was not kept."""

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepared.whole, "writing", full)
    assert len(load(site)) == 3
    assert "prepared cases cannot be kept: No space left on device" in caplog.text


def test_the_files_are_for_the_sites_own_user_alone(site, forgetful):
    """They hold patients' images; what they say of themselves names no patient and no path."""
    load(site)
    for path in kept(site):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
        raw = path.read_bytes()
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        assert set(json.loads(header["__metadata__"]["case"].partition(" ")[2])) == {
            "box", "grid", "shape", "affine", "orientation", "codes", "regridded", "patch", "label",
        }  # fmt: skip


def test_threads_side_by_side_give_the_same_in_order(site, forgetful):
    """Two workers: the same cases in the same order, each told once, and an error is the first case's that has one."""
    alone = load(site)
    forgetful()
    told = []
    side = replace(site, data=replace(site.data, workers=2, cache_gb=0.0))
    together = load(side, progress=told.append)
    assert told == [1, 2, 3]
    for one, two in zip(alone, together, strict=True):
        same(one, two)
    forgetful()
    (site.data.folder / "imagesTr/b.nii.gz").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"north: b.nii.gz"):
        load(side)
