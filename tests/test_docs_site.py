"""The documentation as a site: `make docs` builds it without a warning, and every page is in its contents."""

import re
import subprocess
import sys

import pytest
from pages import PAGES, ROOT, STORIES


def test_every_page_is_in_the_contents_of_the_site():
    """Once, under one of the headings on the left."""
    listed = re.findall(r"^```\{toctree\}\n(?::[^\n]*\n)*(.*?)^```$", (ROOT / "docs/index.md").read_text(), re.M | re.S)
    names = [name for part in listed for name in part.split()]
    assert sorted(names) == sorted(page.stem for page in PAGES[1:] if page.stem != "index")  # the gallery has its own


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    """With a link from each page to each other that it names, and the docstrings of the library."""
    pytest.importorskip("furo", reason="the extra 'docs' is not installed")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "docs", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    api = (tmp_path / "api.html").read_text()
    assert 'id="fedmerge.fusion.mixing.fuse"' in api
    for page in STORIES:
        text = (tmp_path / f"gallery/{page.stem}.html").read_text()
        assert "../_images/" in text  # its picture
        assert "/blob/main/methods.md" not in text  # a link one folder up stays in the site
