"""NiiVue's package: pinned by version and integrity, built by `make viewer`, and in a wheel that is made afterwards."""

import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

from fedmerge.pages import viewer

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "fedmerge/pages/niivue"


def test_every_package_is_pinned_by_its_digest_and_by_no_address():
    """Where packages come from is npm's own setting; what they are is the lock's."""
    lock = json.loads((FOLDER / "package-lock.json").read_text())
    wanted = json.loads((FOLDER / "package.json").read_text())["dependencies"]
    packages = {name.removeprefix("node_modules/"): one for name, one in lock["packages"].items() if name}
    assert lock["lockfileVersion"] == 3
    assert wanted == {name: packages[name]["version"] for name in wanted}
    assert all(one["integrity"].startswith("sha512-") for one in packages.values())
    assert not any("resolved" in one for one in packages.values())
    for file in FOLDER.iterdir():
        assert file.is_dir() or "registry" not in file.read_text().replace("omit-lockfile-registry-resolved", "")


def test_what_pages_are_made_of_is_package_data():
    """All that lies beside the modules of pages, and what `make viewer` builds."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["fedmerge"]
    pages = ROOT / "fedmerge/pages"
    files = [path for path in pages.iterdir() if path.is_file() and path.suffix != ".py"]
    for path in (*files, viewer.NIIVUE, viewer.NIIVUE.parent / "LICENSES.txt"):
        assert any(fnmatch(str(path.relative_to(ROOT / "fedmerge")), pattern) for pattern in patterns), path
    assert {path.name for path in files} == {"page.css", "report.css", "slices.js", "niivue.js", "viewer.js"}


def test_git_ignores_what_is_built():
    """No line of NiiVue is ours to keep."""
    for name in ("built/niivue.js", "built/LICENSES.txt", "node_modules/@niivue/niivue/package.json"):
        done = subprocess.run(["git", "check-ignore", "--quiet", str(FOLDER / name)], cwd=ROOT)
        if done.returncode == 128:
            pytest.skip("this is no checkout")
        assert done.returncode == 0, name


@pytest.mark.slow
def test_a_wheel_has_niivue_where_it_was_built_and_none_where_it_was_not(tmp_path):
    """Nothing else differs between the two."""
    for name in ("fedmerge", "pyproject.toml", "README.md", "LICENSE"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    built = tmp_path / "fedmerge/pages/niivue/built"
    shutil.rmtree(built, ignore_errors=True)
    without = names_in_wheel(tmp_path, "without")
    built.mkdir()
    (built / "niivue.js").write_text("/* built */")
    (built / "LICENSES.txt").write_text("licences")
    assert names_in_wheel(tmp_path, "with") - without == {
        "fedmerge/pages/niivue/built/niivue.js",
        "fedmerge/pages/niivue/built/LICENSES.txt",
    }
    assert not any("niivue/" in name for name in without)


def names_in_wheel(folder, out):
    """The files of the wheel that setuptools makes of the folder."""
    shutil.rmtree(folder / "build", ignore_errors=True)
    (folder / out).mkdir()
    make = f"from setuptools import build_meta; print(build_meta.build_wheel({out!r}))"
    subprocess.run([sys.executable, "-c", make], cwd=folder, check=True, capture_output=True)
    (wheel,) = (folder / out).glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())
