"""The coordinator's side: founding, approving, renewing, replacing, revoking."""

import json

import pytest
from commandline import command
from consortia import DAY, NOW, approved, asked, fingerprint_of, found, hospital

from fedmerge.errors import ConfigError, Refused
from fedmerge.trust import audit, keys, request
from server import consortium
from server import home as homes
from sites import joining


@pytest.fixture
def server(tmp_path):
    """A new consortium."""
    return found(tmp_path)


def files(folder):
    """Path -> permissions of all that is in a folder."""
    return {str(p.relative_to(folder)): p.stat().st_mode & 0o777 for p in sorted(folder.rglob("*"))}


def test_a_founded_home_is_whole_and_its_keys_are_closed(server):
    """Every file of the page is there, secrets are 0600 in a folder of 0700; the record has what was asked for."""
    modes = files(server.folder)
    assert server.folder.stat().st_mode & 0o777 == 0o700
    secrets = {name: mode for name, mode in modes.items() if name.startswith("keys/")}
    assert secrets.keys() == {
        f"keys/{n}" for n in ("ca.key", "server.key", "roster.key", "audit.key", "superexec.secret")
    }
    assert set(secrets.values()) == {0o600}
    assert {"certs/ca.crt", "certs/server.crt", "certs/roster.crt", "roster.json", "rosters/1.json"} <= modes.keys()
    assert (server.name, server.hosts, server.port, server.superlink_port) == ("tumours", ("127.0.0.1",), 8443, 0)
    assert homes.open(server.folder) == server
    first = consortium.current(server, NOW)
    assert (first.epoch, first.entries, first.previous) == (1, (), "")
    assert first.policy["policy"]["weights"] is True


def test_a_consortium_is_founded_only_once(server):
    """A folder that holds something stays as it is, also where founding fails half-way."""
    before = files(server.folder)
    with pytest.raises(ConfigError, match="founded only once"):
        found(server.folder.parent)
    assert files(server.folder) == before


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "a b"}, "--name: a name is"),
        ({"hosts": ()}, "--host expected the name"),
        ({"hosts": ("fed_example",)}, "--host: a host is a DNS name"),
        ({"hosts": ("10.0.0.256",)}, "--host: a host is a DNS name"),
        ({"port": 0}, "--port expected a port from 1"),
        ({"superlink_port": 65536}, "--superlink-port expected a port from 0"),
    ],
)
def test_what_no_consortium_can_have_is_refused_before_anything_is_made(tmp_path, settings, sentence):
    """Names, hosts, ports; nothing is left behind."""
    with pytest.raises(ConfigError, match=sentence):
        found(tmp_path, **settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "it has no consortium.toml; see fedmerge server init"),
        ("nonsense", "is not TOML"),
        ('name = "a"\nhosts = ["b"]\nmore = 1', "unknown key 'more'"),
        ('name = "a"\nhosts = "b"', "'hosts' expected a list"),
        ('hosts = ["b"]', "a name is up to 64"),
        ('name = "a"\nhosts = ["b"]\nport = "8443"', "'port' expected a port"),
    ],
)
def test_a_folder_that_is_no_home_is_told_with_what_is_wrong(tmp_path, text, sentence):
    """The file and the key are named."""
    if text is not None:
        (tmp_path / "consortium.toml").write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        homes.open(tmp_path)


def test_a_home_is_found_by_option_environment_or_folder(server, monkeypatch, tmp_path):
    """In this order; without any, the sentence names all three."""
    monkeypatch.delenv(homes.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="give --server FOLDER, or set FEDMERGE_SERVER"):
        homes.find(None)
    assert homes.find(server.folder) == server
    monkeypatch.chdir(server.folder)
    assert homes.find(None) == server
    monkeypatch.setenv(homes.VARIABLE, str(tmp_path / "elsewhere"))
    with pytest.raises(ConfigError, match="elsewhere is no server's home"):
        homes.find(None)


def test_approving_makes_an_epoch_and_writes_it_down(server, tmp_path):
    """Roster, history chained by digests, kept request, audit line."""
    joined = hospital(tmp_path, server)
    first, entry = consortium.current(server, NOW), approved(server, joined, days=30)
    second = consortium.current(server, NOW)
    assert second.entries == (entry,)
    assert (second.epoch, second.previous) == (2, first.digest)
    assert (entry.since, entry.until) == (NOW, NOW + 30 * DAY)
    assert (server.rosters / "2.json").read_bytes() == server.roster.read_bytes()
    assert (server.requests / "north-2.json").read_bytes() == joined.home.request.read_bytes()
    report = audit.verify(server.audit, keys.signing_of(second.audit_key, "it"))
    assert report.sound
    assert [(line.what, line.reason) for line in report.lines] == [
        ("roster epoch 1", "founded"),
        ("roster epoch 2", "approved north as source"),
    ]
    assert report.lines[1].digest == second.digest


def test_another_fingerprint_than_the_hospitals_is_refused(server):
    """One wrong letter, none at all, that of another request."""
    (text, made), (_, other) = asked(server), asked(server)
    wrong = made.fingerprint[:-1] + ("A" if made.fingerprint[-1] != "A" else "B")
    for told in (wrong, "", other.fingerprint, made.fingerprint[:-1]):
        with pytest.raises(Refused, match="not the hospital's request, or not its newest one"):
            consortium.approve(server, text, told, now=NOW)
    assert consortium.current(server, NOW).epoch == 1
    consortium.approve(server, text, made.fingerprint.lower().replace("-", " "), now=NOW)


def refuse(server, sentence, text, made, **more):
    """Approving is refused with the sentence, and the roster stays."""
    before = server.roster.read_bytes()
    with pytest.raises((Refused, ConfigError), match=sentence):
        consortium.approve(server, text, made.fingerprint, now=NOW, **more)
    assert server.roster.read_bytes() == before


def test_a_request_for_another_consortium_or_authority_is_refused(server):
    """The pinned authority tells that somebody stood between hospital and coordinator."""
    refuse(server, "asks to join hearts, this is tumours", *asked(server, consortium="hearts"))
    refuse(server, "has pinned another authority", *asked(server, authority=keys.fingerprint(b"another")))
    refuse(server, "no site can be called 'server'", *asked(server, site="server"))
    refuse(server, "a name is up to 64", *asked(server, site="../../etc"))


def test_a_name_is_not_taken_by_other_keys_unless_they_replace_the_old_ones(server):
    """Rotation is approve again, on purpose; the old keys are remembered and never come back."""
    (first, one), (second, two) = asked(server), asked(server)
    consortium.approve(server, first, one.fingerprint, now=NOW)
    refuse(server, "with other keys; if the hospital has made new ones, approve with --replace", second, two)
    consortium.approve(server, second, two.fingerprint, replaces=True, now=NOW + 1)
    known = consortium.current(server, NOW)
    assert known.find("north").node_key == two.node_key
    assert [(gone.name, gone.why, gone.signing_key) for gone in known.past] == [("north", "replaced", one.signing_key)]
    refuse(server, "keys that were replaced", first, one, replaces=True)


def test_nobody_joins_with_the_keys_of_another_site(server, tmp_path):
    """Not even with the private halves: one key, one name."""
    joined = hospital(tmp_path, server)
    approved(server, joined)
    both = (keys.read_signing(joined.home.signing_key), keys.read_node(joined.home.node_key))
    same = request.JoinRequest(**{**vars(joined.request), "site": "south"})
    refuse(server, "south shows the keys of north", request.to_text(same, *both), same)


def test_approving_again_renews(server, tmp_path):
    """The same keys, a new end, fewer roles; nobody left."""
    joined = hospital(tmp_path, server, roles=("source", "target"))
    approved(server, joined, days=10)
    entry = approved(server, joined, days=20, roles=("target",), now=NOW + 9 * DAY)
    assert (entry.roles, entry.until) == (("target",), NOW + 29 * DAY)
    known = consortium.current(server, NOW)
    assert (known.entries, known.past, known.epoch) == ((entry,), (), 3)
    refuse(
        server,
        "offers the roles source, target, not 'director'",
        joined.home.request.read_bytes(),
        joined.request,
        roles=("director",),
    )
    refuse(server, "--days expected 1 or more, got 0", joined.home.request.read_bytes(), joined.request, days=0)


def test_who_is_revoked_is_off_the_roster_and_comes_back_with_new_keys_only(server, tmp_path):
    """The date stays, so that the hospital's own console can tell it."""
    joined = hospital(tmp_path, server)
    approved(server, joined)
    made = consortium.revoke(server, "north", NOW + 5)
    assert (made.epoch, made.entries) == (3, ())
    assert (made.left("north").why, made.left("north").ended) == ("revoked", NOW + 5)
    refuse(
        server, "keys that were revoked on 2025-06-15; .* --new-keys", joined.home.request.read_bytes(), joined.request
    )
    with pytest.raises(ConfigError, match="no site 'north' is on the roster; its sites are none"):
        consortium.revoke(server, "north", NOW)
    again = hospital(tmp_path, server, new_keys=True)
    assert approved(server, again).name == "north"


def test_a_home_from_a_backup_goes_on_after_what_hospitals_have_seen(server):
    """Its next epoch is a later one, with the policy template of today."""
    server.policy_template.write_text('[labels]\ntumour = "all of it"\n')
    made = consortium.publish(server, NOW, after=41)
    assert (made.epoch, made.policy) == (42, {"labels": {"tumour": "all of it"}})
    server.policy_template.write_text("when = 2027-01-15")
    with pytest.raises(ConfigError, match="a value that a roster cannot carry"):
        consortium.publish(server, NOW)
    assert consortium.current(server, NOW).epoch == 42


def test_an_edited_roster_is_found_at_home_too(server):
    """Nothing is signed on top of it."""
    server.roster.write_text(server.roster.read_text().replace('"epoch": 1', '"epoch": 2'))
    with pytest.raises(Refused, match="changed after it was signed"):
        consortium.publish(server, NOW)


def test_the_door_gives_authority_and_signed_roster(server):
    """What everybody may have, in one answer."""
    told = json.loads(consortium.public_bytes(server))
    assert told["authority"] == server.authority.read_text()
    assert told["roster"] == json.loads(server.roster.read_bytes())


def test_the_commands_found_approve_show_and_revoke(tmp_path, capsys, monkeypatch):
    """The printed invitation is a command that joins; every step says what it did."""
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "server"
    assert command("server", "init", folder, "--name", "tumours", "--host", "127.0.0.1", "--port", "9") == 0
    invited = capsys.readouterr().out.strip().splitlines()[-1].split()
    assert invited[:3] == ["fedmerge", "site", "join"]
    words = [word.replace("NAME", "north") for word in invited[1:]]
    assert command(*words, "--home", tmp_path / "north", "--ca", folder / "certs/ca.crt") == 0
    shown = capsys.readouterr()
    assert "no roster yet: 127.0.0.1:9 could not be reached" in " ".join(shown.err.split())
    fingerprint = next(line.split()[-1] for line in shown.out.splitlines() if "telephone" in line)
    request_file = tmp_path / "north/request.json"
    assert command("server", "approve", request_file, "--server", folder, "--fingerprint", "SHA256:AAAA") == 2
    assert "it is not the hospital's request" in capsys.readouterr().err
    assert command("server", "approve", request_file, "--server", folder, "--fingerprint", fingerprint) == 0
    shown = capsys.readouterr().out
    assert "north takes part as source until" in shown
    assert "its registry follows" in shown
    assert command("server", "roster", "--server", folder) == 0
    assert "epoch 2" in capsys.readouterr().out
    assert command("server", "revoke", "north", "--server", folder) == 0
    assert "the roster has epoch 3" in capsys.readouterr().out
    assert command("server", "roster", "--server", folder, "--publish") == 0
    shown = capsys.readouterr().out
    assert "revoked" in shown
    assert "epoch 4" in shown


def test_the_fingerprint_is_asked_for_and_compared(server, tmp_path, monkeypatch, capsys):
    """What is typed counts; an empty line approves nothing."""
    joined = hospital(tmp_path, server)
    answers = iter(["", joined.request.fingerprint])
    monkeypatch.setattr("typer.prompt", lambda *_, **__: next(answers))
    words = ("server", "approve", joined.home.request, "--server", server.folder)
    assert command(*words) == 2
    assert "the hospital told none" in capsys.readouterr().err
    assert command(*words) == 0


def test_both_sides_agree_on_port_and_names(server):
    """They never import each other, so their constants are held together here."""
    assert joining.PORT == homes.PORT
    assert joining.NAME.pattern == homes.NAME.pattern
    assert consortium.invitation(server, "north") == (
        f"fedmerge site join --server 127.0.0.1:8443 --ca-fingerprint {fingerprint_of(server)} --name north"
    )
