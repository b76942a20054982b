"""A hospital joins: whom it believes, what it keeps, and what its own console tells when the network says no."""

import json
import os

import pytest
from consortia import DAY, NOW, approved, fingerprint_of, found, hospital, open_door

from fedmerge import cli, sessions
from fedmerge.errors import ConfigError, Refused
from fedmerge.trust import audit, keys, request
from server import consortium
from sites import home as homes
from sites import joining, membership, reach


@pytest.fixture
def server(tmp_path):
    """A new consortium."""
    return found(tmp_path)


def modes(folder):
    """Path -> permissions of all that is in a folder."""
    return {str(p.relative_to(folder)): p.stat().st_mode & 0o777 for p in sorted(folder.rglob("*"))}


def test_keys_are_born_at_home_and_closed_to_others(server, tmp_path):
    """Three private keys of 0600 in two folders of 0700; what is sent holds none of them."""
    joined = hospital(tmp_path, server)
    found_modes = modes(joined.home.folder)
    assert joined.home.folder.stat().st_mode & 0o777 == 0o700
    assert (found_modes["private"], found_modes["node"]) == (0o700, 0o700)
    for name in ("private/signing.key", "private/sealing.key", "node/supernode.key"):
        assert found_modes[name] == 0o600
    sent = joined.home.request.read_text()
    assert request.from_text(sent) == joined.request
    assert "PRIVATE" not in sent
    assert joined.home == homes.open(joined.home.folder)
    assert (joined.home.name, joined.home.consortium, joined.home.epoch) == ("north", "tumours", 0)
    assert joined.roster is None
    assert "could not be reached" in joined.unreached


def test_joining_again_keeps_the_keys_and_asks_anew(server, tmp_path):
    """And the file that the hospital has filled in stays as it is."""
    first = hospital(tmp_path, server)
    first.home.site_file.write_text("# mine\n")
    second = hospital(tmp_path, server, now=NOW + 5, authority=None, fingerprint="", roles=("target",))
    assert second.request.roles == ("target",)
    assert second.request.made == NOW + 5
    for key in ("node_key", "signing_key", "sealing_key"):
        assert getattr(second.request, key) == getattr(first.request, key)
    assert first.home.site_file.read_text() == "# mine\n"


def test_new_keys_replace_all_three_and_the_log_goes_on(server, tmp_path):
    """The old signing key's last line names the new one; both verify the log, in this order only."""
    first = hospital(tmp_path, server)
    home = first.home
    old = keys.read_signing(home.signing_key)
    audit.Log(home.audit, old, "north").append("note", "before")
    second = hospital(tmp_path, server, new_keys=True)
    for key in ("node_key", "signing_key", "sealing_key"):
        assert getattr(second.request, key) != getattr(first.request, key)
    audit.Log(home.audit, keys.read_signing(home.signing_key), "north").append("note", "after")
    assert home.retired.read_text().split() == [first.request.signing_key]
    pair = old.public_key(), keys.read_signing(home.signing_key).public_key()
    report = audit.verify(home.audit, *pair)
    assert report.sound
    assert [line.what for line in report.lines] == ["before", "new signing key", "after"]
    assert second.request.signing_key in report.lines[1].reason
    assert modes(home.folder)["node/supernode.key"] == 0o600
    audit.Log(home.audit, old, "north").append("note", "by the old key again")
    assert audit.verify(home.audit, *pair).bad == 4


def test_keys_that_are_in_use_are_not_replaced(server, tmp_path):
    """While the site is up its agent signs with them; its folder stays as it is. Without --new-keys one may join."""
    home = hospital(tmp_path, server).home
    home.run.mkdir()
    before = home.signing_key.read_bytes()
    with sessions.alone(home.run / "state.json"):
        with pytest.raises(ConfigError, match="is up and uses its keys: stop"):
            hospital(tmp_path, server, new_keys=True)
        hospital(tmp_path, server)
    assert home.signing_key.read_bytes() == before
    hospital(tmp_path, server, new_keys=True)
    assert home.signing_key.read_bytes() != before


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "../x"}, "--name: a name is"),
        ({"name": "server"}, "--name: a name is"),
        ({"roles": ()}, "--role expected source or target, each once, got none"),
        ({"roles": ("source", "source")}, "--role expected"),
        ({"roles": ("director",)}, "--role expected source or target, each once, got director"),
    ],
)
def test_what_no_site_can_have_is_refused_before_anything_is_made(server, tmp_path, settings, sentence):
    """Names and roles."""
    with pytest.raises(ConfigError, match=sentence):
        joining.join(tmp_path / "home", "127.0.0.1:9", **({"name": "north", "now": NOW} | settings))
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("server_name", ["", "a b", "host:0", "host:70000", "host:x", "http://host", "host/path"])
def test_an_address_is_a_host_and_perhaps_a_port(tmp_path, server_name):
    """Anything else is told."""
    with pytest.raises(ConfigError, match="--server expected HOST or HOST:PORT"):
        joining.join(tmp_path / "home", server_name, "north", now=NOW)


def test_the_usual_port_is_understood(server, tmp_path):
    """Where the invitation has none."""
    made = joining.join(
        tmp_path / "north",
        "127.0.0.1",
        "north",
        authority=server.authority,
        fingerprint=fingerprint_of(server),
        now=NOW,
    )
    assert made.home.address == "127.0.0.1:8443"


def test_the_server_introduces_itself_and_its_fingerprint_decides(server, tmp_path):
    """With the fingerprint of the invitation; with a look at it; and never without either."""
    with open_door(server) as address:
        with pytest.raises(Refused, match="fingerprint was not confirmed"):
            joining.join(tmp_path / "a", address, "north", now=NOW)
        with pytest.raises(Refused, match="expected the fingerprint SHA256:AAAA"):
            joining.join(tmp_path / "a", address, "north", fingerprint="SHA256:AAAA", now=NOW)
        assert not (tmp_path / "a").exists()
        shown = []
        made = joining.join(tmp_path / "a", address, "north", confirm=lambda f: not shown.append(f), now=NOW)
        assert shown == [fingerprint_of(server)]
        other = joining.join(tmp_path / "b", address, "south", fingerprint=fingerprint_of(server), now=NOW)
    for one in (made, other):
        assert one.roster == consortium.current(server, NOW)
        assert (one.home.epoch, one.unreached) == (1, "")
        assert membership.last_roster(one.home, NOW) == one.roster


def test_somebody_in_the_middle_is_found(server, tmp_path):
    """Another authority of the same name, whether it introduces itself first or comes later."""
    impostor = found(tmp_path / "middle")
    with open_door(impostor) as address, pytest.raises(Refused, match="expected the fingerprint"):
        joining.join(tmp_path / "north", address, "north", fingerprint=fingerprint_of(server), now=NOW)
    joined = hospital(tmp_path, server)
    with open_door(impostor) as address:
        again = hospital(tmp_path, server)
        home = homes.remember(again.home, address=address)
        with pytest.raises(reach.Unreachable, match="certificate that the consortium's authority did not make"):
            membership.refresh_roster(home, NOW)
    with pytest.raises(Refused, match="has pinned the authority"):
        hospital(tmp_path, impostor, fingerprint="")
    joined.home.authority.write_bytes(impostor.authority.read_bytes())
    with pytest.raises(ConfigError, match="not the certificate that was pinned"):
        membership.refresh_roster(home, NOW)


def test_a_home_is_one_site_of_one_consortium(server, tmp_path):
    """Another name in the same folder is refused."""
    joined = hospital(tmp_path, server)
    with pytest.raises(ConfigError, match="is the home of north, not of south"):
        joining.join(joined.home.folder, "127.0.0.1:9", "south", now=NOW)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"nonsense", "front door's answer"),
        (b"{}", "expected authority and roster"),
        (b'{"authority": 7, "roster": {}}', "expected authority and roster"),
        (b'{"authority": "nonsense", "roster": {}}', "no certificate in PEM"),
    ],
)
def test_a_server_that_answers_something_else_is_refused(server, tmp_path, body, sentence):
    """Nothing is made."""
    with open_door(server, body) as address, pytest.raises(Refused, match=sentence):
        joining.join(tmp_path / "north", address, "north", fingerprint=fingerprint_of(server), now=NOW)
    assert not (tmp_path / "north").exists()


def test_without_an_answer_the_certificate_is_needed_as_a_file(tmp_path):
    """The sentence says so."""
    with pytest.raises(reach.Unreachable, match=r"could not be reached.*certs/ca.crt, and give it with --ca"):
        joining.join(tmp_path / "north", "127.0.0.1:9", "north", now=NOW)


def answer(server):
    """What the door says now."""
    return consortium.public_bytes(server)


def test_a_roster_that_goes_back_is_refused(server, tmp_path):
    """From the network, from the disk, and when the file is taken away."""
    joined = hospital(tmp_path, server)
    old = answer(server)
    membership.accept(joined.home, old, NOW)
    kept = joined.home.roster.read_bytes()
    approved(server, joined)
    seen = membership.accept(homes.open(joined.home.folder), answer(server), NOW)
    home = homes.open(joined.home.folder)
    assert (seen.epoch, home.epoch) == (2, 2)
    with pytest.raises(Refused, match="epoch 1 is older than the one seen, of epoch 2"):
        membership.accept(home, old, NOW)
    current = home.roster.read_bytes()
    home.roster.write_bytes(kept)
    with pytest.raises(Refused, match="is of epoch 1, and the roster of epoch 2 was seen"):
        membership.last_roster(home, NOW)
    assert membership.explain(home, NOW).state == "bad"
    home.roster.unlink()
    with pytest.raises(Refused, match="is missing, and the roster of epoch 2 was seen"):
        membership.last_roster(home, NOW)
    home.roster.write_bytes(current)
    assert membership.explain(home, NOW).member


def test_two_rosters_of_one_epoch_are_refused(server, tmp_path):
    """A coordinator that shows different rosters to different hospitals is found by whoever sees both."""
    joined = hospital(tmp_path, server)
    approved(server, joined)
    membership.accept(joined.home, answer(server), NOW)
    home = homes.open(joined.home.folder)
    (server.rosters / "1.json").replace(server.roster)  # the coordinator goes back, and on in another direction
    approved(server, joined, days=9)
    with pytest.raises(Refused, match="two rosters of epoch 2"):
        membership.accept(home, answer(server), NOW)


def test_edited_roles_are_found_at_home(server, tmp_path):
    """In the file of the last roster."""
    joined = hospital(tmp_path, server)
    approved(server, joined)
    membership.accept(joined.home, answer(server), NOW)
    home = homes.open(joined.home.folder)
    table = json.loads(home.roster.read_bytes())
    table["body"]["entries"][0]["roles"] = ["target"]
    home.roster.write_text(json.dumps(table))
    told = membership.explain(home, NOW)
    assert (told.state, told.member) == ("bad", False)
    assert "changed after it was signed" in told.sentence


def standing(server, joined, now=NOW):
    """What the hospital's console says with the newest roster."""
    membership.accept(homes.open(joined.home.folder), answer(server), now)
    return membership.explain(homes.open(joined.home.folder), now)


def test_the_console_tells_what_the_network_does_not(server, tmp_path):
    """Never seen, unknown, member, near its end, expired, early, revoked, not approved anew, member again."""
    joined = hospital(tmp_path, server)
    assert membership.explain(joined.home, NOW).state == "no roster"
    told = standing(server, joined)
    assert (told.state, told.sentence) == ("unknown", "north is not on the roster of epoch 1")
    entry = approved(server, joined, days=40)
    told = standing(server, joined)
    assert (told.state, told.remedy) == ("member", "")
    assert told.sentence == "north is on the roster of epoch 2 as source until 2025-07-25"
    assert standing(server, joined, NOW + 11 * DAY).state == "ending"
    assert "until 2025-07-25" in standing(server, joined, entry.until).sentence
    assert standing(server, joined, entry.until).state == "expired"
    assert standing(server, joined, NOW - 60).state == "early"
    consortium.revoke(server, "north", NOW + DAY)
    told = standing(server, joined)
    assert (told.state, told.member) == ("revoked", False)
    assert told.sentence == "north was revoked on 2025-06-16, says the roster of epoch 3"
    again = hospital(tmp_path, server, new_keys=True)
    assert standing(server, again).sentence.endswith("its new keys are not approved")
    approved(server, again)
    assert standing(server, again).member


def test_new_keys_that_are_not_approved_are_told(server, tmp_path):
    """The roster still has the old ones."""
    approved(server, hospital(tmp_path, server))
    again = hospital(tmp_path, server, new_keys=True)
    told = standing(server, again)
    assert told.state == "other keys"
    assert "--replace" in told.remedy


def test_the_command_asks_whether_the_fingerprint_is_right(server, tmp_path, capsys, monkeypatch):
    """No leaves nothing; yes joins, and prints what to do next."""
    said = iter([False, True])
    monkeypatch.setattr("typer.confirm", lambda *_, **__: next(said))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(homes.VARIABLE, raising=False)
    with open_door(server) as address:
        for code in (2, 0):
            with pytest.raises(SystemExit) as ended:
                cli.main(["site", "join", "--server", address, "--name", "north", "--role", "target"])
            assert (ended.value.code or 0) == code
            assert (tmp_path / "north").exists() is (code == 0)
    shown = capsys.readouterr().out
    assert fingerprint_of(server) in shown
    assert request.from_text((tmp_path / "north/request.json").read_bytes()).fingerprint in shown


def test_replaced_keys_keep_their_owner(server, tmp_path, monkeypatch):
    """Root joins again for the two users of the home: what was the node's stays the node's."""
    if os.geteuid() != 0:
        pytest.skip("only root may give files away")
    home = hospital(tmp_path, server).home
    os.chown(home.node_key, 65534, 65534)
    hospital(tmp_path, server, new_keys=True)
    assert (home.node_key.stat().st_uid, home.node_key.stat().st_gid) == (65534, 65534)
