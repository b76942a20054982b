"""The stories of the gallery: what their pages say is what comes out when their blocks are run."""

import re
import shlex
import tomllib

import pytest
from commandline import leaves
from pages import ROOT, STORIES, blocks, commands, named, prose
from PIL import Image
from stories import FILE, PICTURES, agrees, named_file, numbers, play, renewed, tolerance

from fedmerge.bench import suite
from server import plan
from sites import config

KNOWN = ("fedmerge", "python", "pip", "sed", "ls", "cp", "wc")
BYTES, BROAD = 150_000, 1700
each = pytest.mark.parametrize("page", STORIES, ids=lambda page: page.stem)


@pytest.mark.slow
@each
def test_a_story_comes_out_as_its_page_tells_it(page, tmp_path):
    """Every output that it shows, and a picture that looks like its own."""
    for block, got in play(page, tmp_path):
        assert agrees(block.text, got, tolerance(page)), f"{block} shows\n{block.text}\nand there came\n{got}"
    assert alike(tmp_path / f"{page.stem}.png", PICTURES / f"{page.stem}.png")


def alike(made, shown):
    """Whether two pictures have one size, nearly, and the same greys in the large."""
    one, other = Image.open(made).convert("L"), Image.open(shown).convert("L")
    if any(abs(a - b) > 0.05 * b for a, b in zip(one.size, other.size)):
        return False
    pairs = zip(one.resize((24, 24)).tobytes(), other.resize((24, 24)).tobytes())
    return sum(abs(a - b) for a, b in pairs) / 24**2 < 12


def test_the_gallery_shows_every_story():
    """A picture that leads to it, and its place in the contents."""
    text = (ROOT / "docs/gallery.md").read_text()
    listed = re.findall(r"^```\{toctree\}\n(?::[^\n]*\n)*(.*?)^```$", text, re.M | re.S)
    assert sorted(listed[0].split()) == [f"gallery/{page.stem}" for page in STORIES]
    shown = re.findall(r"\[!\[[^]]+\]\(images/gallery/([\w-]+)\.png\)\]\(gallery/([\w-]+)\.md\)", text)
    assert sorted(shown) == [(page.stem, page.stem) for page in STORIES]
    assert len(STORIES) == 5


@each
def test_a_story_ends_in_its_picture(page):
    """Which is small, and told to those who do not see it."""
    last = prose(page).strip().splitlines()[-1]
    told = re.fullmatch(rf"!\[(.+)\]\(\.\./images/gallery/{page.stem}\.png\)", last)
    assert told is not None, last
    assert len(told[1]) > 20
    picture = PICTURES / f"{page.stem}.png"
    assert picture.stat().st_size < BYTES
    assert Image.open(picture).width <= BROAD
    assert f'"{page.stem}.png"' in "".join(block.text for block in blocks("python", pages=[page]))


def test_no_picture_is_left_over():
    """Each belongs to a story."""
    assert sorted(path.stem for path in PICTURES.iterdir()) == [page.stem for page in STORIES]


@each
def test_figures_of_the_text_stand_in_an_output_or_in_a_setting(page):
    """So a sentence cannot say what did not come out; it may round."""
    known = [n for block in blocks("text", "toml", "python", "sh", pages=[page]) for n in numbers(block.text)]
    text = re.sub(r"<!--.*?-->|\]\([^)]*\)", "", prose(page), flags=re.DOTALL)
    for figure in re.findall(r"(?<![\w.])\d*\.\d+(?![\w.]*\w)", text):
        digits = len(figure.partition(".")[2])
        assert any(abs(abs(n) - float(figure)) <= 0.5 * 10**-digits + 1e-9 for n in known), figure


@each
def test_its_commands_exist(page):
    """Those of `fedmerge` with these options, and few of others."""
    known = leaves()
    for words in commands([page]):
        assert words[0] in KNOWN, shlex.join(words)
        if words[0] == "fedmerge":
            end = next((i for i, word in enumerate(words) if word in ("|", "||", "2>&1", ">", "&&")), len(words))
            name = next(name for name in (" ".join(words[1:3]), words[1]) if name in known)
            known[name].make_context(name, words[1 + len(name.split()) : end]).close()


@each
def test_its_files_are_read_by_their_readers(page, tmp_path):
    """Campaigns by server and sites, suites as such, Python by Python; each block of TOML is a file."""
    for block in blocks("toml", "python", pages=[page]):
        name = named_file(block)
        if block.language == "python":
            compile(block.text, str(block), "exec")
            continue
        assert name, f"{block} has no name in its first line"
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)
        table = tomllib.loads(block.text)
        if "target_cases" in table:
            assert suite.read(str(path)).title == table["title"]
        elif "campaign" in table and table["net"]["name"] not in own_nets(page):
            read = plan.read(path)
            for site in read.residents:
                config.from_campaign(path, site, work=tmp_path / site)


def own_nets(page):
    """The nets that a story's own package brings."""
    tables = [tomllib.loads(block.text) for block in blocks("toml", pages=[page])]
    return {name for t in tables for name in t.get("project", {}).get("entry-points", {}).get("fedmerge.nets", {})}


@each
def test_what_a_story_names_in_code_type_is_no_empty_word(page):
    """Files in code type are written or made by a block."""
    said = "".join(block.text for block in blocks("sh", "toml", "python", "text", pages=[page]))
    for word in named(prose(page)):
        if FILE.match(f"# {word}\n") or word.endswith((".json", ".safetensors", ".html")):
            assert word in said, word


@pytest.mark.parametrize(
    ("shown", "got", "tolerance", "expected"),
    [
        ("Dice 0.71", "Dice 0.71", 0.0, True),
        ("Dice 0.71", "Dice 0.72", 0.0, False),
        ("Dice 0.71", "Dice 0.72", 0.01, True),
        ("Dice -0.71", "Dice 0.71", 0.05, False),
        ("14 of 18", "13 of 18", 0.5, False),  # whole numbers are whole
        ("a ... 0.5", "a b c 0.5", 0.0, True),
        ("a ... 0.5", "a b c 0.5 d", 0.0, False),
        ("a\n...\nd 0.5\n...\nf", "a b d 0.5 e f", 0.0, True),
        ("a\n...\nd 0.5\n...\nf", "a b d 0.6 e f", 0.0, False),
        ("a", "a a", 0.0, False),
        ("", "a", 0.0, False),
    ],
)
def test_what_is_shown_is_held_to_what_came_out(shown, got, tolerance, expected):
    """Word by word; dots stand for any words, and only decimals may be off."""
    assert agrees(shown, got, tolerance) is expected


def test_a_page_is_renewed_where_it_leaves_nothing_out(tmp_path):
    """A block with dots is the author's."""
    page = tmp_path / "a.md"
    page.write_text("```text\n0.1\n```\n\n```text\n0.1 ... 0.2\n```\n")
    first, second = blocks("text", pages=[page])
    told = [(first, "0.3\n"), (second, "0.4 0.5 0.6\n")]
    assert renewed(page.read_text(), told) == "```text\n0.3\n```\n\n```text\n0.1 ... 0.2\n```\n"
