"""The stories of the gallery run as they stand on their pages: `make gallery`, or `python tests/stories.py NAME ...`.

A page is its own script. In the order of the page, in one folder:

* a block whose first line is `# NAME` with an ending is written as that file,
* another `sh` or `python` block is run,
* a `text` block is what came out of the block before it; `...` stands for what was left out.

`<!-- tolerance 0.05 -->` says how far numbers with a decimal point may lie from what came out, since nets that were
trained on another kind of processor differ. What else is on the page is to be there to the letter.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pages import ROOT, STORIES, blocks

PICTURES = ROOT / "docs/images/gallery"
NUMBER = re.compile(r"[-+\u2212]?(\d+\.\d+|\.\d+)")
FILE = re.compile(r"# ([\w./-]+\.(?:toml|py|txt))\n")


def tolerance(page):
    """How far the figures of a page may be off."""
    said = re.search(r"<!-- tolerance ([\d.]+) -->", page.read_text(encoding="utf-8"))
    return float(said[1]) if said else 0.0


def named_file(block):
    """The file that a block is, or None."""
    found = FILE.match(block.text) if block.language in ("toml", "python") else None
    return found and found[1]


def play(page, folder):
    """Do what a page says.

    Args:
        page: of the story.
        folder: empty.

    Yields:
        (block, what came out of the one before it) of each `text` block.

    Raises:
        RuntimeError: a block ended with an error.
    """
    out = None
    for block in blocks("sh", "python", "toml", "text", pages=[page]):
        if name := named_file(block):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "text":
            yield block, out
        elif block.language != "toml":
            out = run(block, folder)


def run(block, folder):
    """The standard output of a block: of the shell, or of a Python of its own."""
    words = ["bash", "-euo", "pipefail"] if block.language == "sh" else [sys.executable, "-"]
    done = subprocess.run(
        words, input=block.text, cwd=folder, env=surroundings(folder), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{block} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def surroundings(folder):
    """One thread; this checkout; what the story installs goes into its own folder, from no index."""
    programs, packages = Path(sys.executable).parent, folder / "site-packages"
    return os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{packages}",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "100",
        "MPLBACKEND": "Agg",
        "PIP_TARGET": str(packages),
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this one the other way round: there is none
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def agrees(shown, got, tolerance):
    """Whether a page shows what came out: word by word, `...` in place of any words, numbers as near as is said."""
    parts = [part.split() for part in re.split(r"(?:^|(?<=\s))\.\.\.(?=\s|$)", shown)]
    words = got.split()
    first, rest = parts[0], parts[1:]
    if not rest:
        return len(first) == len(words) and same(first, words, tolerance)
    if not same(first, words[: len(first)], tolerance):
        return False
    at = len(first)
    for part in rest[:-1]:
        found = (i for i in range(at, len(words) - len(part) + 1) if same(part, words[i : i + len(part)], tolerance))
        if (i := next(found, None)) is None:
            return False
        at = i + len(part)
    last = rest[-1]
    return len(words) - len(last) >= at and same(last, words[len(words) - len(last) :], tolerance)


def same(shown, got, tolerance):
    """Whether words are equal, but for the last digits of numbers with a decimal point."""
    if len(shown) != len(got):
        return False
    for one, other in zip(shown, got):
        if NUMBER.sub("#", one) != NUMBER.sub("#", other):
            return False
        pairs = zip(numbers(one), numbers(other))
        if any(abs(a - b) > tolerance + 1e-9 for a, b in pairs):
            return False
    return True


def numbers(text):
    """The numbers with a decimal point."""
    return [float(found[0].replace("\u2212", "-")) for found in NUMBER.finditer(text)]


def renewed(page, told):
    """The page with what came out in place of what it shows; blocks that leave something out stay.

    Args:
        page: its text.
        told: (block, what came out).
    """
    for block, got in told:
        if "..." not in block.text:
            lines = [line.rstrip() for line in got.strip("\n").splitlines()]
            page = page.replace(f"```text\n{block.text}```", "```text\n" + "\n".join(lines) + "\n```", 1)
    return page


def main(names):
    """Run the stories, or some of them; write what came out onto their pages, and their pictures beside them."""
    wrong = 0
    for page in [page for page in STORIES if not names or page.stem in names]:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            told = list(play(page, folder))
            for block, got in told:
                if not agrees(block.text, got, tolerance(page)):
                    wrong += "..." in block.text
                    print(f"{block} shows something else than came out:\n{got}")
            page.write_text(renewed(page.read_text(encoding="utf-8"), told), encoding="utf-8")
            PICTURES.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / f"{page.stem}.png", PICTURES / f"{page.stem}.png")
        print(f"{page.stem}: {time.monotonic() - began:.0f} s")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
