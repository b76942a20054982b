"""What the README and the pages say holds: commands and snippets run, files are read, links lead somewhere."""

import contextlib
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import nibabel
import pytest
import torch
from commandline import leaves
from pages import PAGES, README, ROOT, STORIES, blocks, commands, named, only_campaign, prose, tables
from safetensors.torch import save_file
from small import hospitals

from fedmerge import cli, results
from fedmerge.bench import suite
from server import plan
from sites import config
from sites.tables import data as read_data

NETWORKED = ("run", "status", "stop", "results", "withdraw", "server", "site", "audit")  # these need a consortium
ENDLESS = ("dashboard",)  # until somebody ends them
TARGETS = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """The folder in which the README's commands run: its own campaign file with shorter training, and tiny data."""
    folder = tmp_path_factory.mktemp("workshop")
    hospitals(folder / "data", cases=20)
    south = folder / "data/south"
    for image in sorted((south / "imagesTr").iterdir()):  # the README has this site in one folder a case
        case = south / image.name.removesuffix(".nii.gz")
        case.mkdir()
        image.rename(case / "T1.nii.gz")
        (south / "labelsTr" / image.name).rename(case / "label.nii.gz")
    for rest in ("imagesTr", "labelsTr"):
        (south / rest).rmdir()
    (south / "dataset.json").unlink()
    text = re.sub(r"^patch = \[[^]]*\]", "patch = [8, 8, 8]", only_campaign(), flags=re.MULTILINE)
    for key, value in (("steps", 2), ("validate_every", 2), ("base_filters", 2), ("depth", 2)):
        text = re.sub(rf"^{key} = \d+", f"{key} = {value}", text, flags=re.MULTILINE)
    (folder / "campaign.toml").write_text(text)
    shutil.copy(folder / "data/harbour/imagesTr/harbour_000.nii.gz", folder / "scan.nii.gz")
    (mine,) = [block.text for block in blocks("toml") if "target_cases" in tomllib.loads(block.text)]
    (folder / "mine.toml").write_text(mine)
    for name, seed in (("a", 0), ("b", 1), ("fisher-a", 2), ("fisher-b", 3)):
        g = torch.Generator().manual_seed(seed)
        save_file({"conv.weight": torch.rand(2, 1, 3, 3, generator=g)}, folder / f"{name}.safetensors")
    return folder


def matching(pattern):
    """The files that a shell would put in the place of a pattern."""
    return sorted(map(str, Path().glob(pattern)))


@pytest.fixture(scope="module")
def ran(workshop):
    """The commands of `fedmerge` that the pages have, run in their order in the workshop: words -> exit code."""
    codes = {}
    with contextlib.chdir(workshop):
        for words in commands():
            if (
                words[0] != "fedmerge"
                or builds_in(words)
                or words[1] in (*NETWORKED, *ENDLESS)
                or of_the_package(words)
            ):
                continue
            arguments = [name for word in words[1:] for name in (matching(word) if "*" in word else [word])]
            with pytest.raises(SystemExit) as ended:
                cli.main(arguments)
            codes[tuple(words)] = ended.value.code or 0
    return codes


def builds_in(words):
    """Whether a command runs the built-in campaign, which takes minutes."""
    return words[:3] == ["fedmerge", "simulate", "--out"]


def of_the_package(words):
    """Whether a command runs a suite of the package, which takes minutes."""
    return words[:2] == ["fedmerge", "bench"] and words[2] in suite.names()


def test_the_commands_of_fedmerge_run_as_they_stand(workshop, ran):
    """Each ends with code 0 and leaves what its --out names; together they are all that there are."""
    for words, code in ran.items():
        assert code == 0, shlex.join(words)
        if "--out" in words:
            assert (workshop / words[words.index("--out") + 1]).exists(), shlex.join(words)
    alone = {name for name in leaves() if name.split()[0] not in (*NETWORKED, *ENDLESS)}
    assert {words[1] for words in ran} == alone
    label, scan = (nibabel.load(workshop / path) for path in ("labels/scan.nii.gz", "scan.nii.gz"))
    assert label.shape == scan.shape
    assert (label.affine == scan.affine).all()


def test_what_a_run_leaves_is_what_the_readme_lists(workshop, ran):
    """Every file and folder of the list is there after the README's own campaign, and the results have the form."""
    (listed,) = [rows for title, rows in tables("README.md") if title == "Your own data"]
    for name in [name for row in listed for name in named(row[0])]:
        assert (workshop / "runs/first" / name.replace("TARGET", "harbour")).exists(), name
    assert {row["seed"] for row in results.read(workshop / "runs/seeds")["rows"]} == {0, 1}


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_the_python_of_the_pages_runs(block, tmp_path, monkeypatch):
    """As it stands, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    space = {}
    exec(compile(block.text, str(block), "exec"), space)  # noqa: S102
    if block.page == README:
        assert space["merged"].keys() == set(space["shared"])
        assert any((value != 0).any() for value in space["logits"].values())


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_the_toml_of_the_pages_is_read_by_its_readers(block, tmp_path):
    """A campaign by the server's plan and each site, a hospital's own file or its data by the site, a suite as such."""
    table = tomllib.loads(block.text)
    path = tmp_path / "file.toml"
    path.write_text(block.text)
    if "target_cases" in table:
        assert suite.read(str(path)).title == table["title"]
        return
    if list(table.get("site", ())) == ["data"]:
        data = table["site"]["data"]
        assert read_data(data, block.page, tmp_path).layout == data["layout"]
        return
    if "campaign" not in table:
        assert config.from_file(path).name == table["site"]["name"]
        return
    read = plan.read(path)
    assert [m.role for m in read.members] == ["source", "source", "target"]
    for name in read.residents:
        config.from_campaign(path, name, work=tmp_path / name)


def test_every_other_command_of_the_pages_is_one_that_exists():
    """Targets of the Makefile, extras of the package, benchmarks, and a plain Flower run."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for words in commands():
        match words:
            case ["make", target]:
                assert target in TARGETS
            case ["pip", "install", "-e", where]:
                assert where.removeprefix(".[").removesuffix("]") in project["optional-dependencies"]
            case ["python", script]:
                assert (ROOT / script).is_file(), script
            case ["python", "-m", module]:
                assert (ROOT / module.replace(".", "/") / "__main__.py").is_file(), module
            case ["python3", "-m", "venv", _]:
                pass
            case [pip, "install", wheel] if pip.endswith("/bin/pip"):
                assert wheel == f"fedmerge-{project['version']}-py3-none-any.whl"
            case ["flwr", "run", ".", *options]:
                assert options == ["--stream"]
            case _ if builds_in(words):
                assert shlex.join(words) in (ROOT / "Makefile").read_text()
            case [program, *_] if program == "fedmerge" or program.endswith("/bin/fedmerge"):
                pass
            case _:
                pytest.fail(f"nobody checks the command {shlex.join(words)}")


@pytest.mark.parametrize("page", [*PAGES, *STORIES], ids=lambda page: page.name)
def test_targets_of_make_that_a_page_names_exist(page):
    """`make` and a word, in code type."""
    for target in re.findall(r"`make (\w+)`", page.read_text()):
        assert target in TARGETS


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, *STORIES], ids=lambda page: page.name)
def test_links_between_files_lead_somewhere(page):
    """Files exist, headings too; a picture may be awaited."""
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), link
        assert not anchor or anchor in anchors(path), link


@pytest.mark.parametrize("listing", ["README.md", "docs/index.md"])
def test_every_page_is_listed(listing):
    """In the README and in the index of the documentation."""
    text = (ROOT / listing).read_text()
    for page in PAGES[1:]:
        assert page.name in text or page.name == "index.md", page.name


def networked():
    """The commands of the pages that need a consortium, as words after the program's name."""
    ours = [words[1:] for words in commands() if words[0] == "fedmerge" or words[0].endswith("/bin/fedmerge")]
    return [words for words in ours if words[0] in (*NETWORKED, *ENDLESS)]


@pytest.mark.parametrize("words", networked(), ids=shlex.join)
def test_the_commands_between_hospitals_are_taken_as_they_stand(words):
    """Every word has its place: command, arguments, options. `examples/consortium.sh` runs most of them."""
    known = leaves()
    name = next(name for name in (" ".join(words[:2]), words[0]) if name in known)
    known[name].make_context(name, list(words[len(name.split()) :])).close()


def test_a_hospital_has_joined_after_five_commands():
    """From an empty machine to a site that is up, as its runbook has it."""
    first = next(block for block in blocks("sh") if block.page.name == "runbook-hospital.md")
    lines = first.text.strip().splitlines()
    assert len(lines) <= 5
    words = [shlex.split(line) for line in lines]
    assert [" ".join(line[1:3]) for line in words[-3:]] == ["site join", "site check", "site up"]
