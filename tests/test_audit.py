"""`fedmerge audit`: the verdict on a home's log, and the page for a data-protection officer."""

import html.parser
import re

import pytest
from commandline import command
from consortia import NOW, approved, found, hospital

from fedmerge.cli import audit as command_audit
from fedmerge.errors import ConfigError
from fedmerge.trust import audit, dossier, keys
from fedmerge.trust.audit import SERVER, Log


@pytest.fixture
def homes(tmp_path):
    """(server, site) whose logs have seen each other."""
    server = found(tmp_path)
    joined = hospital(tmp_path, server)
    approved(server, joined)
    site = Log(joined.home.audit, keys.read_signing(joined.home.signing_key), "north", clock=lambda: NOW)
    coordinator = Log(server.audit, keys.read_signing(server.audit_key), SERVER, clock=lambda: NOW)
    told = {"purpose": "train.contribute", "campaign": "brain", "digest": "sha256:ab"}
    coordinator.append("out", "task", size=800, peer="north", **told)
    site.append("in", "task", size=800, peer=SERVER, peer_head=coordinator.head, **told)
    site.append("out", "contribution", size=240_000_000, peer=SERVER, **told)
    coordinator.append("in", "contribution", size=240_000_000, peer="north", peer_head=site.head, **told)
    site.append("refused", "<script>alert(1)</script>", peer=SERVER, reason="policy line 'campaigns' & no \"hearts\"")
    return server, joined.home


def test_both_sides_are_verified_and_witness_each_other(homes, capsys):
    """A home of either kind, or a copy of the other side's log; the exit code is 0."""
    server, site = homes
    assert command("audit", "verify", site.folder, server.folder) == 0
    assert command("audit", "verify", server.folder, site.folder) == 0
    assert command("audit", "verify", site.folder, server.audit) == 0
    shown = capsys.readouterr().out
    assert f"{site.audit}: all 3 lines are good; the head is " in shown
    assert shown.count("The other side saw 1 heads of north's log; all of them are there.") == 2
    assert "The other side saw 1 heads of server's log" in shown


def test_an_edited_line_ends_with_2_and_its_number(homes, capsys):
    """And so does a log whose last lines are gone, where the other side is asked."""
    server, site = homes
    whole = site.audit.read_bytes()
    site.audit.write_bytes(whole.replace(b'"size":240000000', b'"size":240'))
    assert command("audit", "verify", site.folder) == 2
    assert "line 2 is bad: its signature does not hold; the 1 before it are good." in capsys.readouterr().out
    site.audit.write_bytes(whole.splitlines(keepends=True)[0])
    assert command("audit", "verify", site.folder) == 0
    assert command("audit", "verify", site.folder, server.folder) == 2
    shown = capsys.readouterr().out
    assert re.search(r"server saw the head [0-9a-f]{16}… at 2025-06-15T15:06:40Z \(its line 4\): it is gone", shown)
    assert "1 of them are missing" in shown


def test_a_folder_that_is_no_home_is_told(tmp_path, capsys):
    """With its path."""
    assert command("audit", "verify", tmp_path) == 2
    assert "is neither a site's home nor a server's" in " ".join(capsys.readouterr().err.split())


def test_an_empty_log_is_no_bad_log(tmp_path, capsys):
    """A hospital that has just joined."""
    home = hospital(tmp_path, found(tmp_path)).home
    assert command("audit", "verify", home.folder) == 0
    assert command("audit", "show", home.folder, "--out", tmp_path / "page.html") == 0
    assert "the log is empty" in capsys.readouterr().out
    assert "Nothing has happened yet." in (tmp_path / "page.html").read_text()


class Reader(html.parser.HTMLParser):
    """The words of a page, what it loads from elsewhere, and whether every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.words, self.loads, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        """One tag."""
        self.loads += [value for name, value in attributes if name in ("src", "href", "action")]
        self.loads += [tag] if tag in ("script", "img", "link", "iframe") else []
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        """Its end."""
        assert self.open.pop() == tag

    def handle_data(self, data):
        """What is read."""
        self.words += data.split()


def test_the_page_tells_what_left_and_loads_nothing(homes, tmp_path):
    """Kind, purpose, campaign, receiver, size, refusals, policy and verdict; nothing of others is taken for HTML."""
    server, site = homes
    out = tmp_path / "page.html"
    assert command("audit", "show", site.folder, "--out", out, "--witness", server.folder) == 0
    text = out.read_text()
    page = Reader(text)
    words = " ".join(page.words)
    assert (page.loads, page.open) == ([], [])
    assert "url(" not in text
    assert "Audit log of the site north" in words
    assert "The log is whole. Each of its 3 lines" in words
    assert "The other side saw 1 heads of north's log; all of them are there." in words
    assert "a trained model: its weights, and how much each of them matters contribution" in words
    assert "training on this site's cases, for the consortium train.contribute brain server 1 240.0 MB" in words
    assert "<script>alert(1)</script> policy line 'campaigns' & no \"hearts\"" in words
    assert "No weights leave." in words
    assert keys.fingerprint(keys.read_signing(site.signing_key).public_key().public_bytes_raw()) in words


def test_the_page_of_a_bad_log_says_so_first(homes, tmp_path):
    """It is written all the same, and the command ends with 2; an earlier page is kept unless it may be replaced."""
    server, site = homes
    out, whole = tmp_path / "page.html", site.audit.read_bytes()
    site.audit.write_bytes(whole.replace(b'"size":240000000', b'"size":240'))
    assert command("audit", "show", site.folder, "--out", out) == 2
    assert "changed or damaged: line 2 is bad." in " ".join(Reader(out.read_text()).words)
    site.audit.write_bytes(whole.splitlines(keepends=True)[0])
    assert command("audit", "show", site.folder, "--out", out, "--witness", server.folder) == 2
    assert "changed or damaged" in out.read_text()
    words = ("audit", "show", site.folder, "--out", out, "--witness", server.folder, "--overwrite")
    assert command(*words) == 2
    assert "Lines of the log are gone." in " ".join(Reader(out.read_text()).words)
    assert 'class="verdict bad"' in out.read_text()


def test_what_is_alike_is_one_row_and_every_line_is_listed(tmp_path):
    """A hundred steps of a fit are one row of the summary, with first and last moment and the sum of bytes."""
    path, key, now = tmp_path / "audit.jsonl", keys.new_signing(), [NOW]
    log = Log(path, key, "harbour", clock=lambda: now[0])
    for _ in range(100):
        now[0] += 60
        log.append("out", "gradient", "train.pull", 12_000_000, "sha256:ab", SERVER, campaign="brain")
    cover = dossier.Cover("harbour", "tumours", "SHA256:AAAA", NOW)
    words = " ".join(Reader(dossier.page(audit.verify(path, key.public_key()), cover)).words)
    assert "2025-06-15 15:07:40 UTC to 2025-06-15 16:46:40 UTC how a model's weights should change" in words
    assert "train.pull brain server 100 1.2 GB" in words
    assert words.count("12.0 MB") == 100


def test_the_servers_page_is_about_the_server(homes, tmp_path):
    """The same page for the coordinator's log, with the epochs of the roster as events."""
    server, _ = homes
    assert command("audit", "show", server.folder, "--out", tmp_path / "page.html") == 0
    words = " ".join(Reader((tmp_path / "page.html").read_text()).words)
    assert "Audit log of the server of tumours" in words
    assert "roster epoch 2 approved north as source" in words
    assert "policy says" not in words


def test_a_site_whose_file_cannot_be_read_has_a_page_without_policy(homes):
    """The log counts."""
    _, site = homes
    site.site_file.write_text("nonsense")
    assert command_audit.book_of(site.folder).policy == ()
    with pytest.raises(ConfigError):
        command_audit.book_of(site.private)
