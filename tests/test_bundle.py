"""What code of the server's may run at a site: the digest, the list, and the gate in Flower's own process."""

import hashlib
import importlib
import io
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import agents
import pytest
from small import hospitals

from fedmerge import bundle
from fedmerge.errors import CampaignStopped, ConfigError, Refused
from fedmerge.trust import audit
from server.exchange import Exchange
from server.inprocess import InProcessGrid
from server.parts import Way
from sites import bundle as gates
from sites.home import Paths


def zipped(files, compression=zipfile.ZIP_DEFLATED):
    """A zip file of these names and texts."""
    data = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(data, "w", compression) as made:
        warnings.simplefilter("ignore")  # of a name given twice
        for name, text in files:
            made.writestr(name, text)
    return data.getvalue()


def spoiled(field, value):
    """A bundle whose header and directory say something else at a field (6: flags, 8: compression)."""
    data = bytearray(zipped([("a.py", "1")]))
    directory = data.index(b"PK\x01\x02")
    data[field], data[directory + field + 2] = value, value
    return bytes(data)


@pytest.fixture
def paths(tmp_path, monkeypatch):
    """A site's home with nothing on its list."""
    monkeypatch.delenv(gates.HASH, raising=False)
    return Paths(tmp_path)


@pytest.fixture
def runtime():
    """Flower's own module, as it was before and after the test."""
    module = importlib.import_module("flwr.supernode.runtime.run_clientapp")
    kept = dict(vars(module))
    yield module
    vars(module).update(kept)


def test_the_digest_is_of_names_and_contents_and_not_of_the_zip():
    """Order and compression change nothing; a letter in a name or in a file does."""
    files = [("sites/app.py", "a = 1"), ("server/app.py", "b = 2")]
    one = bundle.digest(zipped(files))
    assert bundle.digest(zipped(files[::-1], zipfile.ZIP_STORED)) == one
    assert bundle.digest(zipped([*files, (".info/CONTENT", "Flower's list")])) == one
    assert bundle.digest(zipped([("sites/app.py", "a = 2"), files[1]])) != one
    assert bundle.digest(zipped([("sites/apq.py", "a = 1"), files[1]])) != one


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"no zip", "expected a zip file"),
        (spoiled(8, 97), "compression method is not supported"),
        (spoiled(6, 1), "encrypted"),
        (zipped([("a.py", "1"), ("a.py", "2")]), "plain names, each once, got 'a.py'"),
        (zipped([("../a.py", "1")]), r"got '\.\./a\.py'"),
        (zipped([("/a.py", "1")]), "got '/a.py'"),
        (zipped([("a.py", "0" * (bundle.MAX_BYTES + 1))]), "at most 67108864 bytes of files"),
    ],
    ids=[
        "not a zip",
        "a compression that nobody knows",
        "a password",
        "a name twice",
        "out of the folder",
        "absolute",
        "a bomb",
    ],
)
def test_what_is_no_plain_bundle_has_no_digest(data, words):
    """Two files of one name, a way out of the folder or a bomb are refused before anything is unpacked."""
    with pytest.raises(Refused, match=words):
        bundle.digest(data)


def test_the_installed_version_makes_the_same_bundle_twice():
    """Flower's own build holds the two sides, and its digest does not depend on when or where it was made."""
    first = bundle.build()
    assert bundle.digest(first) == bundle.digest(bundle.build())
    names = zipfile.ZipFile(io.BytesIO(first)).namelist()
    assert {"pyproject.toml", "sites/app.py", "server/app.py"} <= set(names)


def test_a_listed_bundle_is_listed_until_it_is_taken_off(paths):
    """Allow, look, forbid; to forbid what is not there is an error."""
    digest = gates.allow(paths, zipped([("a.py", "1")]), "by mail, 3 May")
    assert gates.allowed(paths) == {digest: "by mail, 3 May"}
    gates.forbid(paths, digest)
    assert gates.allowed(paths) == {}
    with pytest.raises(ConfigError, match="expected one of none"):
        gates.forbid(paths, digest)


def test_a_list_of_another_form_is_an_error(paths):
    """A typing error in the list does not let everything in."""
    paths.allowed.write_text("bundle = ['sha256:1']")
    with pytest.raises(ConfigError, match="unknown key 'bundle'"):
        gates.allowed(paths)


def test_a_bundle_that_is_not_listed_is_neither_unpacked_nor_loaded(paths, runtime):
    """Flower's functions behind the gate are not reached; in its place stands an app that answers with a sentence."""
    reached = []
    runtime.install_from_fab = lambda *a, **k: reached.append("unpacked")
    runtime.get_load_client_app_fn = lambda **k: lambda *a: reached.append("loaded")
    gates.gate(paths, runtime)
    data = zipped([("sites/app.py", "1")])
    runtime.install_from_fab(data, skip_prompt=True)
    load = runtime.get_load_client_app_fn()
    app = load("p/a", "1", hashlib.sha256(data).hexdigest())
    exchange = Exchange(InProcessGrid(app, {}, 1, names=("north",)), 10.0, Way(paths.folder))
    with pytest.raises(CampaignStopped) as told:
        exchange.roll_call(["north"], {}, 1.0)
    assert str(told.value) == (
        f"north failed in query.describe: the bundle {bundle.digest(data)} is not on this site's list; "
        "install the same version of fedmerge on both sides, or send the hospital the bundle, "
        "which `fedmerge site allow` lets in"
    )
    with pytest.raises(Refused, match="not the one that was checked"):
        load("p/a", "1", hashlib.sha256(b"another").hexdigest())
    assert reached == []
    assert gates.HASH not in os.environ


def test_a_listed_bundle_is_unpacked_and_loaded_and_no_other_with_it(paths, runtime, monkeypatch):
    """The digest is handed on for the agent; an older bundle that still lies about is not loaded in its place."""
    reached = []
    monkeypatch.setenv(gates.HASH, "")
    folder = paths.folder / "unpacked"

    def unpack(content, **options):
        reached.append("unpacked")
        if not folder.exists():  # as Flower does
            zipfile.ZipFile(io.BytesIO(content)).extractall(folder)
        return folder

    runtime.install_from_fab = unpack
    runtime.get_load_client_app_fn = lambda **k: lambda *a: reached.append("loaded")
    runtime.get_project_dir = lambda name, version, digest: folder if version == "1" else folder / ".." / "elsewhere"
    data = zipped([("sites/app.py", "1")])
    digest = gates.allow(paths, data, "")
    gates.gate(paths, runtime)
    runtime.install_from_fab(data, skip_prompt=True)
    load = runtime.get_load_client_app_fn()
    load("a", "1", hashlib.sha256(data).hexdigest())
    for version, content in (("1", b"older"), ("2", data)):
        with pytest.raises(Refused, match="not the one that was checked"):
            load("a", version, hashlib.sha256(content).hexdigest())
    assert reached == ["unpacked", "loaded"]
    for name in ("sites/app.py", "torch.py"):  # what an earlier message left has been changed, or added to
        (folder / name).write_text("2")
        runtime.install_from_fab(data, skip_prompt=True)
        assert [p.name for p in folder.rglob("*.py")] == ["app.py"]
        assert (folder / "sites/app.py").read_text() == "1"
    assert os.environ[gates.HASH] == digest


@pytest.mark.parametrize("moved", ["install_from_fab", "get_load_client_app_fn", "run_clientapp"])
def test_nothing_runs_where_flower_has_moved_its_functions(paths, runtime, monkeypatch, moved):
    """The gate fails closed: a function is gone, or Flower's own does not use it any more."""
    with monkeypatch.context() as patch:
        patch.delattr(runtime, moved)
        with pytest.raises(ConfigError, match="no bundle runs here"):
            gates.gate(paths, runtime)
    monkeypatch.setattr(runtime, "run_clientapp", lambda: None)
    with pytest.raises(ConfigError, match="no bundle runs here"):
        gates.gate(paths, runtime)


def test_the_agent_writes_down_that_a_bundle_was_refused(tmp_path, runtime):
    """What the gate turns away is a line of the audit log, with its digest."""
    small = hospitals(tmp_path / "hospitals", cases=1)
    home = agents.home(tmp_path, small, "north", agents.plan(small, tmp_path / "plan")[1]["north"])
    data = zipped([("sites/app.py", "1")])
    with agents.in_thread(home):
        gates.gate(home, runtime)
        runtime.install_from_fab(data, skip_prompt=True)
    (line,) = [line for line in audit.read(home.audit) if line.way == "refused"]
    assert line.reason == f"the bundle {bundle.digest(data)} is not allowed here"


def test_flowers_clientapp_unpacks_and_loads_by_the_names_that_the_gate_stands_at(runtime):
    """What the gate replaces are the globals that Flower's function really uses."""
    used = runtime.run_clientapp.__code__.co_names
    assert {"install_from_fab", "get_load_client_app_fn"} <= set(used)


def test_every_command_of_flowers_executor_is_ours(paths):
    """Whatever kind of task a server asks for, Flower's SuperExec finds our command, and only one of them opens."""
    from flwr.supercore.constant import TASK_TYPE_TO_COMMAND

    assert {gates.GATE, *gates.CLOSED} == set(TASK_TYPE_TO_COMMAND.values())
    folder = gates.commands(paths.folder / "bin")
    environment = {**os.environ, "PATH": f"{folder}:{Path(sys.executable).parent}", "FEDMERGE_SITE": str(paths.folder)}
    for name in gates.CLOSED:
        done = subprocess.run([folder / name, "--token", "x"], env=environment, capture_output=True, text=True)
        assert done.returncode == 2
        assert f"a site runs no {name}" in done.stderr
    done = subprocess.run([folder / gates.GATE, "--help"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0
    assert "Run a Flower ClientApp" in done.stdout
