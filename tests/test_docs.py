"""What the README and the pages say holds: commands and snippets run, files are read, tables agree with the code."""

import contextlib
import importlib.util
import inspect
import re
import shlex
import shutil
import tomllib
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

import click
import nibabel
import pytest
import torch
import typer
from safetensors.torch import save_file
from small import hospitals

from fedmerge import cli, measures, nets, results, tasks, transport
from fedmerge.bench import suite
from fedmerge.errors import ConfigError
from server import plan
from sites import config, phantom, records
from sites.records import OPEN, Data, Policy, Scanner, Selection

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
NETWORKED = ("run", "status", "stop", "results", "withdraw", "server", "site", "audit")  # these need a consortium
TARGETS = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block, and where it stands."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self):
        return f"{self.page.name}:{self.line}"


def blocks(*languages):
    """The fenced blocks of all pages in these languages."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            if match[1] in languages:
                found.append(Block(page, text[: match.start()].count("\n") + 1, match[1], match[2]))
    return found


def commands():
    """Each command of the shell blocks as words, in the order of the pages."""
    return [
        words
        for block in blocks("sh", "console")
        for line in block.text.replace("\\\n", " ").splitlines()
        if (words := shlex.split(line, comments=True))
    ]


def prose(page):
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def tables(page):
    """(heading, rows of cells) of each table of a page; a pipe in a cell is escaped."""
    found, heading = [], ""
    for part in re.split(r"\n\n+", prose(ROOT / page)):
        if part.startswith("#"):
            heading = part.lstrip("# ").replace("`", "")
        if part.startswith("|"):
            lines = part.strip().splitlines()
            found.append((heading, [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]))
    return found


def named(cell):
    """The words in code type of a cell."""
    return re.findall(r"`([^`]+)`", cell)


def keys(page, heading):
    """The keys in the first column of the tables under a heading."""
    return [key for title, rows in tables(page) if title == heading for row in rows for key in named(row[0])]


def only_campaign():
    """The campaign file of the README."""
    (found,) = [b.text for b in blocks("toml") if isinstance(tomllib.loads(b.text).get("campaign"), dict)]
    return found


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
            if words[0] != "fedmerge" or builds_in(words) or words[1] in NETWORKED or of_the_package(words):
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
    alone = {name for name in commands_of_the_line() if name.split()[0] not in NETWORKED}
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
    """A campaign by the server's plan and by each site, a hospital's own file by the site, a suite as a suite."""
    table = tomllib.loads(block.text)
    path = tmp_path / "file.toml"
    path.write_text(block.text)
    if "target_cases" in table:
        assert suite.read(str(path)).title == table["title"]
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_of_make_that_a_page_names_exist(page):
    """`make` and a word, in code type."""
    for target in re.findall(r"`make (\w+)`", page.read_text()):
        assert target in TARGETS


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
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


def commands_of_the_line(group=None, before=""):
    """Name -> command, of all commands and those of the groups (`server init`)."""
    group = group or typer.main.get_command(cli.app)
    found = {}
    for name, command in group.commands.items():
        nested = isinstance(command, click.Group)
        found |= commands_of_the_line(command, f"{before}{name} ") if nested else {f"{before}{name}": command}
    return found


def test_every_command_and_option_has_its_place_on_the_page():
    """No command, no option more or less than the command line has."""
    known = commands_of_the_line()
    assert sorted(title for title, _ in sections("docs/command.md")) == sorted(f"fedmerge {name}" for name in known)
    for title, _ in sections("docs/command.md"):
        command = known[title.removeprefix("fedmerge ")]
        options = {p.opts[0] for p in command.params if p.param_type_name == "option" and p.name != "help"}
        assert set(keys("docs/command.md", title)) == options, title


def networked():
    """The commands of the pages that need a consortium, as words after the program's name."""
    ours = [words[1:] for words in commands() if words[0] == "fedmerge" or words[0].endswith("/bin/fedmerge")]
    return [words for words in ours if words[0] in NETWORKED]


@pytest.mark.parametrize("words", networked(), ids=shlex.join)
def test_the_commands_between_hospitals_are_taken_as_they_stand(words):
    """Every word has its place: command, arguments, options. `examples/consortium.sh` runs most of them."""
    known = commands_of_the_line()
    name = next(name for name in (" ".join(words[:2]), words[0]) if name in known)
    known[name].make_context(name, list(words[len(name.split()) :])).close()


def test_a_hospital_has_joined_after_five_commands():
    """From an empty machine to a site that is up, as its runbook has it."""
    first = next(block for block in blocks("sh") if block.page.name == "runbook-hospital.md")
    lines = first.text.strip().splitlines()
    assert len(lines) <= 5
    words = [shlex.split(line) for line in lines]
    assert [" ".join(line[1:3]) for line in words[-3:]] == ["site join", "site check", "site up"]


def sections(page):
    """(heading, text) of a page's sections."""
    parts = re.split(r"^## (.*)$", prose(ROOT / page), flags=re.MULTILINE)[1:]
    return [(title.strip("`"), text) for title, text in zip(parts[::2], parts[1::2])]


CAMPAIGN = "docs/campaign-file.md"


def value(cell):
    """A cell of the column of defaults as the record has it: lists are tuples, `unset` is None."""
    if cell in ("*required*",):
        return MISSING
    if cell in ("*unset*", "no limit", '`["*"]`'):
        return None
    read = tomllib.loads(f"x = {cell.strip('`')}")["x"]
    return tuple(read) if isinstance(read, list) else read


def default(field):
    """What a record has where nothing is given."""
    return field.default_factory() if field.default_factory is not MISSING else field.default


def rows_of(heading, table=0):
    """Key -> the other cells, of one table under a heading of the page on campaign files."""
    found = [rows for title, rows in tables(CAMPAIGN) if title == heading][table]
    return {named(row[0])[0]: row[1:] for row in found}


def accepted(tmp_path, header, read):
    """The keys that a reader says it knows, when `header` has one that it does not."""
    path = tmp_path / "file.toml"
    path.write_text(only_campaign().replace(f"\n{header}", "\n" + header.partition(" ")[0] + "\nnonsense = 1", 1))
    with pytest.raises(ConfigError, match="nonsense") as told:
        read(path)
    return set(re.findall(r"\w+", re.search(r"known (?:keys )?are (.*)$", str(told.value))[1]))


def north(path):
    """The site north of a campaign file."""
    return config.from_campaign(path, "north", work=path.parent)


def test_the_page_has_the_keys_that_the_readers_accept(tmp_path):
    """All of them, and no other: each reader lists what it knows when it meets a key that it does not."""
    head = accepted(tmp_path, "[campaign]", plan.read)
    assert rows_of("[campaign]").keys() == head
    tables_of_their_own = {"net", "train", "adapt", "finetune", "members", "raw"}
    assert rows_of("[net]").keys() == {f.name for f in fields(plan.Plan)} - head - tables_of_their_own | {"name"}
    phases = rows_of("[train], [adapt], [finetune]").keys()
    for name in ("train", "adapt", "finetune"):
        more = {row[1].strip("`") for row in differing() if row[0] == f"`[{name}]`"}
        assert phases | more == accepted(tmp_path, f"[{name}]", plan.read)
    assert rows_of("[[site]]").keys() == accepted(tmp_path, "[[site]]", plan.read)
    assert rows_of("[site.data]").keys() == accepted(tmp_path, "[site.data]", north)
    for name, kind in (("policy", Policy), ("scanner", Scanner)):
        assert list(rows_of(f"[site.{name}]")) == [f.name for f in fields(kind)]


def differing():
    """The rows of the second table on the phases: table, key, type, default, meaning."""
    return [rows for title, rows in tables(CAMPAIGN) if title == "[train], [adapt], [finetune]"][1]


@pytest.mark.parametrize(
    ("heading", "record", "column"),
    [
        ("[campaign]", plan.Plan, 1),
        ("[train], [adapt], [finetune]", plan.Stage, 1),
        ("[site.data]", Data, 1),
        ("[site.policy]", Policy, 1),
        ("[site.policy]", OPEN, 2),
        ("[site.scanner]", Scanner, 1),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_defaults_on_the_page_are_those_of_the_code(heading, record, column):
    """Key by key."""
    own = {"name": "the file's name", "lr": "differs, see below", "cases": '`"all"`', "layout": '`"msd"`'}
    if heading == "[site.policy]":
        own = {}
    for field in fields(record):
        if (cells := rows_of(heading).get(field.name)) is None:
            continue
        if cells[column] == own.get(field.name):
            assert default(field) in (MISSING, Selection())
            continue
        expected = default(field) if inspect.isclass(record) else getattr(record, field.name)
        assert value(cells[column]) == expected, field.name


def test_the_defaults_that_differ_between_the_phases_are_those_of_the_code():
    """Exactly what each phase's own class says."""
    kinds = {"`[train]`": plan.Train, "`[adapt]`": plan.Adapt, "`[finetune]`": plan.Finetune}
    for name, kind in kinds.items():
        told = {row[1].strip("`"): value(row[3]) for row in differing() if row[0] == name}
        assert told == {key: getattr(kind, key) for key in kind.__annotations__}


def test_the_settings_of_the_nets_on_the_page_are_those_of_the_code():
    """Net by net, keys and defaults."""
    rows = [rows for title, rows in tables(CAMPAIGN) if title == "[net]"][1]
    for name, make in nets.NETS.items():
        told = {row[1].strip("`"): value(row[2]) for row in rows if row[0] == f"`{name}`"}
        parameters = inspect.signature(make).parameters.values()
        assert told == {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert named(rows_of("[net]")["name"][2]) == list(nets.NETS)


@pytest.mark.parametrize(
    ("heading", "key", "choices"),
    [
        *(("[campaign]", key, choices) for key, choices in plan.CHOICES.items()),
        ("[[site]]", "role", records.ROLES),
        ("[site.data]", "layout", records.LAYOUTS),
        ("[site.data]", "control", records.CONTROLS),
        ("[site.policy]", "fisher", records.FISHER),
        ("[site.policy]", "reuse", records.REUSE),
    ],
)
def test_the_choices_on_the_page_are_those_of_the_code(heading, key, choices):
    """The words that a key takes."""
    assert re.findall(r'"([^"]+)"', rows_of(heading)[key][0]) == list(choices)


def test_the_profiles_of_phantoms_are_on_the_page():
    """All of them."""
    assert set(phantom.PROFILES) <= set(named(rows_of("[site.data]")["phantom"][2]))


@pytest.mark.parametrize(
    ("heading", "form"),
    [
        ("The file", results.TOP),
        ("rows", results.ROW),
        ("ratios", results.RATIOS),
        ("forgetting", results.FORGETTING),
        ("measures", {key: one for one in measures.MEASURES.values() for key in (one.key, *one.more)}),
        ("traffic", results.TRAFFIC),
        ("left_out", results.LEFT_OUT),
        ("changes", results.CHANGES),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_form_of_the_results_is_on_the_page(heading, form):
    """Every key that a reader may rely on, and no other."""
    assert set(keys("docs/results.md", heading)) == form.keys()


def test_the_messages_on_the_page_are_those_of_the_code():
    """Message types of the records' module and of the transport; the records exist."""
    rows, carrying = (rows for title, rows in tables("docs/protocol.md") if title == "A message")
    told = {named(row[0])[0] for row in rows}
    assert told | {named(row[0])[0] for row in carrying} == set(transport.KINDS)
    assert not told & {named(row[0])[0] for row in carrying}
    assert told == set(re.findall(r"^((?:query|train|evaluate)\.\w+)", tasks.__doc__, re.MULTILINE))
    for row in rows:
        for cell in row[1:]:
            assert inspect.isclass(getattr(tasks, named(cell)[0]))


def benchmark(name):
    """A benchmark's module, imported and not run."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_bounds_of_the_benchmarks_on_the_page_are_those_of_the_code():
    """Every benchmark has its line, with the bound that it prints."""
    rows = next(rows for title, rows in tables("docs/performance.md") if title == "Performance")
    told = {}
    for row in rows:
        told.setdefault(named(row[0])[0], []).append(float(row[3]))
    expected = {}
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        module = benchmark(path.stem)
        cases = getattr(module, "CASES", None)
        expected[path.name] = [case[-1] for case in cases.values()] if isinstance(cases, dict) else [module.BOUND]
    assert told == expected
