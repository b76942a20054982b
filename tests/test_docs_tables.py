"""The tables of the pages agree with the code: options, keys, defaults, choices, results, messages, bounds."""

import importlib.util
import inspect
import re
import tomllib
from dataclasses import MISSING, fields

import pytest
from commandline import leaves
from pages import ROOT, keys, named, only_campaign, sections, tables

from fedmerge import measures, nets, results, seals, sums, tasks, transport
from fedmerge.devices import Hardware
from fedmerge.errors import ConfigError
from server import plan
from sites import config, phantom, records
from sites.records import OPEN, Data, Policy, Scanner, Selection

CAMPAIGN = "docs/campaign-file.md"


def test_every_command_and_option_has_its_place_on_the_page():
    """No command, no option more or less than the command line has."""
    known = leaves()
    assert sorted(title for title, _ in sections("docs/command.md")) == sorted(f"fedmerge {name}" for name in known)
    for title, _ in sections("docs/command.md"):
        command = known[title.removeprefix("fedmerge ")]
        options = {p.opts[0] for p in command.params if p.param_type_name == "option" and p.name != "help"}
        assert set(keys("docs/command.md", title)) == options, title


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
    tables_of_their_own = {"net", "train", "adapt", "finetune", "evaluate", "members", "raw"}
    assert rows_of("[net]").keys() == {f.name for f in fields(plan.Plan)} - head - tables_of_their_own | {"name"}
    phases = rows_of("[train], [adapt], [finetune]").keys()
    for name in ("train", "adapt", "finetune"):
        more = {row[1].strip("`") for row in differing() if row[0] == f"`[{name}]`"}
        assert phases | more == accepted(tmp_path, f"[{name}]", plan.read)
    assert list(rows_of("[evaluate]")) == [f.name for f in fields(plan.Evaluate)]
    assert rows_of("[[site]]").keys() == accepted(tmp_path, "[[site]]", plan.read)
    assert rows_of("[site.data]").keys() == accepted(tmp_path, "[site.data]", north)
    for name, kind in (("policy", Policy), ("scanner", Scanner), ("hardware", Hardware)):
        assert list(rows_of(f"[site.{name}]")) == [f.name for f in fields(kind)]


def differing():
    """The rows of the second table on the phases: table, key, type, default, meaning."""
    return [rows for title, rows in tables(CAMPAIGN) if title == "[train], [adapt], [finetune]"][1]


@pytest.mark.parametrize(
    ("heading", "record", "column"),
    [
        ("[campaign]", plan.Plan, 1),
        ("[net]", plan.Plan, 1),
        ("[train], [adapt], [finetune]", plan.Stage, 1),
        ("[evaluate]", plan.Evaluate, 1),
        ("[site.data]", Data, 1),
        ("[site.policy]", Policy, 1),
        ("[site.policy]", OPEN, 2),
        ("[site.scanner]", Scanner, 1),
        ("[site.hardware]", Hardware, 1),
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
        ("[net]", "field", plan.FIELDS),
        ("[evaluate]", "measures", ("dice", *measures.EXTRAS)),
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
        ("measures", {key: one for one in measures.MEASURES.values() for key in (one.key, *one.more, *one.extras)}),
        ("traffic", results.TRAFFIC),
        ("timeline", results.TIMELINE),
        ("left_out", results.LEFT_OUT),
        ("changes", results.CHANGES),
        ("choices", results.CHOICES),
        ("admissions", results.ADMISSIONS),
        ("leave_one_out", results.LEAVE_ONE_OUT),
        ("privacy", results.PRIVACY),
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
            (record,) = {
                vars(module)[named(cell)[0]] for module in (tasks, seals, sums) if named(cell)[0] in vars(module)
            }
            assert inspect.isclass(record)


def benchmark(path):
    """A benchmark's module, imported and not run."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.parent.name}_{path.stem}", path)
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
    folder = ROOT / "benchmarks"
    for path in sorted([*folder.glob("*.py"), *folder.glob("*/__main__.py")]):
        module = benchmark(path)
        cases = getattr(module, "CASES", None)
        name = path.name if path.parent == folder else f"{path.parent.name}/"
        expected[name] = [case[-1] for case in cases.values()] if isinstance(cases, dict) else [module.BOUND]
    assert told == expected
