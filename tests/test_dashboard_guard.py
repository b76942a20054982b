"""Who may look at a dashboard: whoever has the secret, from this page, at this host; all others get one answer."""

import http.client
import re
import stat
import webbrowser
from pathlib import Path
from urllib.parse import urlsplit

import dashboards
import pytest
from commandline import command

from fedmerge.cli import dashboard
from fedmerge.dashboard import page, serving


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """A dashboard of a folder in which nothing has begun."""
    with dashboards.serve(tmp_path_factory.mktemp("run")) as application:
        yield application


def call(there, path=None, method="GET", host=None, **headers):
    """(status, headers, body) of a call with exactly these headers; `path`: below the secret place."""
    address = urlsplit(there.address)
    line = http.client.HTTPConnection(address.hostname, address.port, timeout=20)
    line.putrequest(method, address.path if path is None else path, skip_host=True, skip_accept_encoding=True)
    for value in (address.netloc,) if host is None else host:
        line.putheader("Host", value)
    for name, value in headers.items():
        line.putheader(name.replace("_", "-"), value)
    line.endheaders()
    answer = line.getresponse()
    told = answer.status, dict(answer.getheaders()), answer.read()
    line.close()
    return told


def cookie(there, **changes):
    """The header of a browser that has seen the page."""
    return {"Cookie": f"{serving.COOKIE}={there.known.token}", **changes}


def test_the_address_opens_the_page_and_a_cookie_does_afterwards(there):
    """The cookie is for this place, for no script, and for no call from another site."""
    address = urlsplit(there.address)
    status, headers, body = call(there, f"{address.path}?{address.query}")
    assert (status, b"<h1" in body) == (200, True)
    given = headers["set-cookie"].lower().replace(there.known.token.lower(), "TOKEN")
    assert sorted(given.split("; ")) == sorted(
        [f"{serving.COOKIE}=TOKEN", "httponly", "samesite=strict", f"path={address.path}"]
    )
    assert call(there, **cookie(there))[0] == 200
    assert call(there, f"{address.path}state", **cookie(there))[0] == 200


def test_the_page_holds_no_secret_and_nothing_of_a_run(there):
    """It is the same for everybody; what is in it is asked for."""
    body = call(there, **cookie(there))[2].decode()
    assert there.known.token not in body
    assert there.known.place not in body


def refused(there):
    """Calls that may not look: what is wrong with each, and the call."""
    place, token = urlsplit(there.address).path, there.known.token
    port = urlsplit(there.address).port
    yield "no secret", {}
    yield "no secret, for the state", {"path": f"{place}state"}
    yield "another secret", {"path": f"{place}?token={token[:-1]}", "Cookie": f"{serving.COOKIE}={token}x"}
    yield "the secret in the address of the state", {"path": f"{place}state?token={token}"}
    yield "another place", cookie(there, path=f"/{'0' * 16}/")
    yield "no place", cookie(there, path="/")
    yield "the place without its end", cookie(there, path=place.rstrip("/"))
    yield "another question", cookie(there, path=f"{place}log.txt")
    yield "a way out", cookie(there, path=f"{place}../../etc/passwd")
    yield "another name of the host", cookie(there, host=(f"evil.example:{port}",))
    yield "another port", cookie(there, host=("127.0.0.1:1",))
    yield "no port", cookie(there, host=("127.0.0.1",))
    yield "a run that there is not", cookie(there, path=f"{place}state?run=other")
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        yield method, cookie(there, method=method)
    for where in ("cross-site", "same-site"):
        yield f"a page that is {where}", cookie(there, path=f"{place}state", Sec_Fetch_Site=where)


def test_whoever_may_not_look_gets_one_and_the_same_answer(there):
    """Nothing tells what was wrong, not even whether the place is there."""
    answers = {}
    for what, asked in refused(there):
        status, headers, body = call(there, **asked)
        headers.pop("date", None)
        answers[what] = status, tuple(sorted(headers.items())), body
    assert len(answers) == 20
    assert set(answers.values()) == {answers["no secret"]}
    assert answers["no secret"][0] == 404
    assert not any("cookie" in name for name, _ in answers["no secret"][1])


def test_a_call_for_two_hosts_is_no_call(there):
    """It does not come to the application."""
    netloc = urlsplit(there.address).netloc
    assert call(there, **cookie(there, host=(netloc, "evil.example")))[0] == 400


def test_every_answer_forbids_what_a_page_does_not_need(there):
    """Nothing is kept, framed, guessed, or read by another origin; only the page's own script runs."""
    place = urlsplit(there.address).path
    for asked in (cookie(there), cookie(there, path=f"{place}state"), {}):
        headers = call(there, **asked)[1]
        assert {name: headers[name.lower()] for name in serving.HEADERS} == serving.HEADERS
        assert headers["cache-control"] == "no-store"
        assert not any(name.startswith("access-control") or name == "server" for name in headers)
    policy = call(there, **cookie(there))[1]["content-security-policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == "'self'"
    assert rules["frame-ancestors"] == "'none'"
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/=]{44}'", rules["script-src"])
    assert not re.search(r"""(href|src)="(?!data:,|#)|\son\w+=|style="[^"]*url""", page.html())


def test_the_server_listens_on_loopback_only(there):
    """No other address of this machine leads to it."""
    line = serving.listen(0)
    assert line.getsockname()[0] == "127.0.0.1"
    line.close()


def test_each_dashboard_has_a_place_and_a_secret_of_its_own():
    """256 bits; what was drawn once opens nothing else."""
    first, second = serving.Secrets(), serving.Secrets()
    assert first.token != second.token
    assert first.place != second.place
    assert len(first.token) >= 43


def test_a_browser_gets_the_address_by_a_file_that_nobody_else_reads(monkeypatch):
    """Arguments of programs are read by every user of the machine."""
    seen = []

    def look(address):
        path = Path(urlsplit(address).path)
        modes = [stat.S_IMODE(p.stat().st_mode) for p in (path, path.parent)]
        seen.append((address, modes, path.read_text()))

    monkeypatch.setattr(webbrowser, "open", look)
    with dashboard._opened("http://127.0.0.1:1/a/?token=SECRET"):
        pass
    ((address, modes, text),) = seen
    assert "SECRET" not in address
    assert modes == [0o600, 0o700]
    assert "url=http://127.0.0.1:1/a/?token=SECRET" in text
    assert not Path(urlsplit(address).path).exists()


def test_a_port_that_is_taken_is_a_sentence(tmp_path, capsys):
    """With what to do."""
    line = serving.listen(0)
    port = line.getsockname()[1]
    assert command("dashboard", tmp_path, "--port", port) == 2
    assert f"error: --port {port} on 127.0.0.1: Address already in use" in capsys.readouterr().err
    line.close()


@pytest.mark.parametrize(
    ("made", "words", "told"),
    [
        ("folder/other.txt", ["folder"], "is neither a run's folder nor a home"),
        ("file", ["file"], "expected the folder of a run, the home of a server or of a site"),
        ("", ["nowhere/run"], "expected the folder of a run, the home of a server or of a site"),
        ("run/log.txt", ["run", "--run", "first"], "--run is for a server's home"),
    ],
)
def test_what_cannot_be_shown_is_a_sentence(tmp_path, monkeypatch, capsys, made, words, told):
    """Before anything listens."""
    monkeypatch.chdir(tmp_path)
    if made:
        Path(made).parent.mkdir(exist_ok=True)
        Path(made).touch()
    assert command("dashboard", *words) == 2
    assert told in capsys.readouterr().err
