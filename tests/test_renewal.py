"""Certificates that end: a warning in time, new ones under the same authority, and nothing to do at a hospital."""

import ssl

import httpx
import pytest
from consortia import DAY, NOW, approved, found, hospital, open_door

from fedmerge import cli
from fedmerge.errors import ConfigError, Refused
from fedmerge.trust import audit, certificates
from server import consortium, renewal
from sites import home as homes
from sites import joining

YEARS = 365.25 * DAY


@pytest.fixture
def server(tmp_path):
    """A new consortium."""
    return found(tmp_path)


def ends(path):
    """When a certificate ends, in days after the moment of the tests."""
    return (certificates.dates_of(certificates.read(path.read_bytes(), "it"))[1] - NOW) / DAY


@pytest.mark.parametrize(
    ("days", "told"),
    [(1700, []), (1767, ["ends on 2030-06-15", "ends on 2030-06-15"]), (1827, ["has ended on 2030-06-15"] * 2)],
)
def test_the_end_is_said_sixty_days_before(server, days, told):
    """Of the server's and the roster's certificate, each with its remedy."""
    found = renewal.warnings(server, NOW + days * DAY)
    assert len(found) == len(told)
    assert all(words in line for words, line in zip(told, found))
    assert all(line.endswith("fedmerge server renew, then start `server up` again") for line in found)


@pytest.mark.parametrize("later", [1780, 1900])
def test_a_renewal_is_good_for_hospitals_that_know_the_authority_only(server, tmp_path, later):
    """Before and after the end: the same keys, five years more, and a hospital takes the next roster as always."""
    joined = hospital(tmp_path, server)
    approved(server, joined, days=3000)
    joining.membership.accept(joined.home, consortium.public_bytes(server), NOW)
    keys_before = {path.name: path.read_bytes() for path in server.keys.iterdir()}
    now = NOW + later * DAY
    if later > 1826:
        with pytest.raises(Refused, match="the roster's certificate was valid until"):
            consortium.current(server, now)
    made = renewal.renew(server, now)
    until = min(later + 1826, 3650)  # the authority's own end
    assert (made.epoch, round((made.until - NOW) / DAY)) == (3, until)
    assert [round(ends(path)) for path in (server.server_certificate, server.roster_certificate)] == [until] * 2
    assert {path.name: path.read_bytes() for path in server.keys.iterdir()} == keys_before
    assert renewal.warnings(server, now) == []
    home = homes.open(joined.home.folder)
    joining.membership.accept(home, consortium.public_bytes(server), now)
    assert joining.explain(homes.open(home.folder), now).member
    assert [line.what for line in audit.read(server.audit)][-2:] == ["roster epoch 3", "certificates renewed"]


def test_a_client_that_trusts_the_authority_takes_the_renewed_certificate(server):
    """By TLS, as a hospital's node does it."""
    renewal.renew(server, NOW + 100 * DAY)
    trusted = ssl.create_default_context(cafile=server.authority)
    with open_door(server) as address:
        assert httpx.get(f"https://{address}/v1/roster", verify=trusted, trust_env=False).status_code == 200


def test_no_certificate_outlives_the_authority(server):
    """In its last years a renewal lasts as long as it does; then only a new consortium helps, and that is said."""
    renewal.renew(server, NOW + 9 * YEARS)
    assert ends(server.server_certificate) == ends(server.authority) == 3650
    with pytest.raises(ConfigError, match="until 2035-06-13, and no new ones can last longer"):
        renewal.renew(server, NOW + 9.5 * YEARS)
    assert renewal.warnings(server, NOW + 3600 * DAY) == [
        "the authority's certificate ends on 2035-06-13: found a new consortium, which every hospital joins"
    ]


def test_server_up_warns_before_it_starts(server, monkeypatch, capsys):
    """A line each on stderr, for a terminal or the journal."""
    monkeypatch.setattr("time.time", lambda: NOW + 1780 * DAY)
    monkeypatch.setattr("server.up.up", lambda *_: None)
    with pytest.raises(SystemExit):
        cli.main(["server", "up", "--server", str(server.folder)])
    told = " ".join(capsys.readouterr().err.split())
    assert "warning: the server's certificate ends on 2030-06-15: fedmerge server renew" in told
    assert "warning: the certificate of the roster's key ends on 2030-06-15" in told


def test_the_command_says_until_when_and_status_warns(server, monkeypatch, capsys):
    """`status` has the remedy; after `renew` the line is gone."""
    monkeypatch.setattr("time.time", lambda: NOW + 1780 * DAY)
    for words, there in ((["status"], True), (["server", "renew"], False), (["status"], False)):
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, "--server", str(server.folder)])
        assert not ended.value.code
        told = capsys.readouterr().out
        assert ("warning: the server's certificate ends on 2030-06-15: fedmerge server renew" in told) is there
        if words[-1] == "renew":
            assert told == "The certificates are valid until 2035-04-30; the roster has epoch 2.\n"
