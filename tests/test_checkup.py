"""`fedmerge site check`: a hospital that is well is green; what is wrong is a line of its own, with its remedy."""

import json
import os
import re
import time

import consortia
import pytest
from consortia import DAY, NOW
from made_plans import MEMBERS, trainings
from test_site_preflight import image, label, put

from fedmerge import cli
from fedmerge.cli import site_check
from fedmerge.trust import keys
from server import consortium
from sites import bundle, checkup
from sites import home as homes

SITE = """\
[site]
name = "north"
role = "{role}"
work = "private/work"
{users}
[data]
folder = "cases"
labels = {{ front = [1], back = [2] }}
test = 1
[policy]
roles = ["source"]
campaigns = ["first"]
nets = ["isensee2017"]
labels = ["front", "back"]
min_cases = 1
weights = true
trust = ["server"]
max_contributions = 1
max_bytes = 100_000_000
"""
BUNDLE = b"what `flwr build` would make"


@pytest.fixture(autouse=True)
def _no_build(monkeypatch):
    """The bundle of the installed version takes seconds to build; the list of bundles is real."""
    monkeypatch.setattr(checkup.bundles, "build", lambda: BUNDLE)
    monkeypatch.setattr(checkup.bundles, "digest", lambda data: f"sha256:{len(data):064d}")


def found(folder, now=NOW):
    """A consortium that has agreed on two labels."""
    home = consortia.found(folder, now=now)
    home.policy_template.write_text('[labels]\nfront = "the front half"\nback = "the back half"\n')
    consortium.publish(home, now)
    return home


@pytest.fixture
def server(tmp_path):
    """A consortium that has agreed on two labels."""
    return found(tmp_path)


def write_site(home, *, role="source", users=""):
    """The hospital's own file, filled in."""
    home.site_file.write_text(SITE.format(role=role, users=users))


def well(folder, server, now=NOW):
    """A hospital that has joined, was approved, has three cases, and has filled in its file."""
    made = consortia.hospital(folder, server, now=now)
    consortia.approved(server, made, now=now)
    for k, case in enumerate(("p-visit1", "q-visit1", "r-visit1")):
        put(made.home.folder / "cases", case, img=image(k), lab=label())
    (made.home.folder / "cases/dataset.json").write_text(json.dumps({"modality": {"0": "T1"}}))
    write_site(made.home)
    bundle.allow(made.home, BUNDLE, "installed")
    return made


@pytest.fixture
def joined(tmp_path, server):
    """A hospital that is well."""
    return well(tmp_path, server)


def look(joined, server, *, now=NOW, clock=None, asked=None, body=None):
    """The lines of a check at `now` against a door whose clock shows `clock` (the same, unless given)."""
    with consortia.open_door(server, body, lambda: now if clock is None else clock) as address:
        home = homes.remember(joined.home, address=address)
        return checkup.check(home, asked, now=lambda: now + 0.5)  # a date has whole seconds


def only(lines, check):
    """The one line of a check."""
    (line,) = [line for line in lines if line.check == check]
    return line


def test_a_hospital_that_is_well_is_green(joined, server):
    """But for the one user, which is said in red and is no error; the policy is read out key by key."""
    lines = look(joined, server)
    assert {(line.check, line.result) for line in lines if line.result != "ok"} == {("users", "off")}
    assert [line.check for line in lines if not line.check.startswith("policy: ")] == [
        "site.toml", "hardware", "data", "layout", "preparation", "geometry", "labels", "disk", "front door", "clock",
        "roster", "membership", "permissions", "policy file", "keys", "users", "bundles",
    ]  # fmt: skip
    assert only(lines, "roster").found == "epoch 3, signed 2025-06-15 (0 days ago), 1 on it; its signature holds"
    assert only(lines, "membership").found == "north is on the roster of epoch 3 as source until 2026-06-15"
    assert only(lines, "policy: weights").found == "The weights of a model that it trained may leave."


def test_every_line_that_is_not_green_has_a_remedy(joined, server):
    """Also where everything is wrong at once."""
    joined.home.private.chmod(0o755)
    joined.home.allowed.unlink()
    (joined.home.folder / "cases/dataset.json").unlink()
    for path in (joined.home.folder / "cases/labelsTr").iterdir():
        path.unlink()
    consortium.revoke(server, "north", NOW)
    lines = look(joined, server, clock=NOW - 3600)
    bad = [line for line in lines if line.result != "ok"]
    assert {"data", "clock", "membership", "permissions", "users", "bundles"} <= {line.check for line in bad}
    assert all(line.remedy for line in bad)


@pytest.mark.parametrize(
    ("ahead", "result"),
    [(0, "ok"), (2, "ok"), (4, "warning"), (10, "error"), (600, "error"),
     (-30, "ok"), (-90, "warning"), (-270, "error"), (-600, "error")],
)  # fmt: skip
def test_the_clock_is_held_against_the_window_of_node_authentication(joined, server, ahead, result):
    """Which is 305 s for a clock that is behind, and 5 s for one that is ahead."""
    line = only(look(joined, server, clock=NOW - ahead), "clock")
    assert line.result == result
    if result != "ok":
        assert f"{abs(ahead)}" in line.found
        assert ("ahead of" if ahead > 0 else "behind") in line.found


def test_a_server_that_is_down_leaves_the_last_roster_and_says_so(joined, server):
    """The door is an error, the roster is yellow, what it says of the site still holds."""
    look(joined, server)
    home = homes.remember(joined.home, address="127.0.0.1:9", epoch=3)
    lines = checkup.check(home, now=lambda: NOW + 2 * DAY)
    assert only(lines, "front door").result == "error"
    roster = only(lines, "roster")
    assert roster.result == "warning"
    assert "(2 days ago)" in roster.found
    assert only(lines, "membership").result == "ok"
    assert not [line for line in lines if line.check == "clock"]


@pytest.mark.parametrize(
    ("days", "result", "words"),
    [(334, "ok", "as source until"), (336, "warning", "as source until"), (366, "error", "was on the roster")],
)
def test_an_entry_that_ends_within_thirty_days_is_yellow_and_then_red(joined, server, days, result, words):
    """The dates are those of the signed roster; the remedy is to be approved again."""
    line = only(look(joined, server, now=NOW + days * DAY), "membership")
    assert line.result == result
    assert words in line.found
    if result != "ok":
        assert "approve request.json again" in line.remedy


def test_a_revoked_site_is_told_here_what_the_network_does_not_tell(joined, server):
    """With the day, and how to come back."""
    consortium.revoke(server, "north", NOW + DAY)
    line = only(look(joined, server, now=NOW + 2 * DAY), "membership")
    assert line.result == "error"
    assert "revoked on 2025-06-16" in line.found
    assert "--new-keys" in line.remedy


def test_a_role_that_the_roster_does_not_have_is_an_error(joined, server):
    """Both sides are named."""
    write_site(joined.home, role="target")
    lines = [line for line in look(joined, server) if line.check == "membership"]
    assert [line.result for line in lines] == ["ok", "error"]
    assert lines[1].found == "the roster has north as source, [site] in site.toml says target"


def test_a_roster_that_was_edited_is_not_believed(joined, server):
    """One letter of the signed body; the last verified roster stays."""
    look(joined, server)
    body = consortium.public_bytes(server).replace(b'"source"', b'"target"')
    lines = [line for line in look(joined, server, body=body) if line.check == "roster"]
    assert [line.result for line in lines] == ["error", "warning"]
    assert "changed after it was signed" in lines[0].found


def test_a_roster_that_goes_back_is_not_believed(joined, server):
    """A revoked site could be let in again by an old one."""
    old = consortium.public_bytes(server)
    consortium.publish(server, NOW)
    look(joined, server)
    lines = [line for line in look(joined, server, body=old) if line.check == "roster"]
    assert lines[0].result == "error"
    assert "older than the one seen" in lines[0].found


def test_another_authority_than_the_pinned_one_is_not_used(joined, server, tmp_path):
    """Whoever replaces the file does not get the site to talk to another server."""
    other = consortia.found(tmp_path / "other")
    joined.home.authority.write_bytes(other.authority.read_bytes())
    lines = look(joined, server)
    assert only(lines, "authority").result == "error"
    assert "pinned" in only(lines, "authority").found
    assert not [line for line in lines if line.check == "front door"]


def test_labels_are_those_that_travel_in_the_roster(joined, server):
    """The consortium calls it Front."""
    server.policy_template.write_text('[labels]\nFront = "the front half"\nback = "the back half"\n')
    consortium.publish(server, NOW)
    line = only(look(joined, server), "labels")
    assert line.result == "error"
    assert "the label 'front' is spelt 'Front' at the consortium" in line.found


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('role = "source"', 'role = "sauce"', "expected source or target, got 'sauce'"),
        ("min_cases = 1", "min_case = 1", "unknown key 'min_case'"),
        ('name = "north"', 'name = "south"', "has the name 'south', and this is the home of 'north'"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_the_rest_is_looked_at(joined, server, before, after, words):
    """The network, the keys and the users do not depend on it."""
    joined.home.site_file.write_text(joined.home.site_file.read_text().replace(before, after))
    lines = look(joined, server)
    assert only(lines, "site.toml").result == "error"
    assert words in only(lines, "site.toml").found
    assert only(lines, "front door").result == "ok"
    assert only(lines, "keys").result == "ok"


def test_a_key_that_is_not_the_one_that_was_sent_is_an_error(joined, server):
    """As after half a restored backup."""
    joined.home.node_key.unlink()
    keys.keep_node(joined.home.node_key, keys.new_node())
    line = only(look(joined, server), "keys")
    assert line.result == "error"
    assert f"{joined.home.node_key} is another key than request.json has" in line.found


def test_an_open_key_is_an_error_of_permissions(joined, server):
    """With the command that closes it."""
    joined.home.signing_key.chmod(0o644)
    line = only(look(joined, server), "permissions")
    assert (line.result, line.remedy) == ("error", f"chmod 600 {joined.home.signing_key}")


def test_the_installed_versions_bundle_has_to_be_on_the_list(joined, server, monkeypatch):
    """None, another one, this one, this one and another."""
    assert only(look(joined, server), "bundles").result == "ok"
    monkeypatch.setattr(checkup.bundles, "build", lambda: BUNDLE + b" of the next version")
    other = only(look(joined, server), "bundles")
    assert other.result == "warning"
    assert "others may run, but not that of the installed version" in other.found
    bundle.allow(joined.home, BUNDLE + b" of the next version", "next")
    assert ", and 1 other:" in only(look(joined, server), "bundles").found
    joined.home.allowed.unlink()
    assert "none may run yet" in only(look(joined, server), "bundles").found


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give files to another user")
def test_two_users_are_green_where_each_has_its_own(joined, server):
    """The names come from [users]."""
    write_site(joined.home, users='[users]\nagent = "root"\nnode = "nobody"\n')
    line = only(look(joined, server), "users")
    assert line.result in ("ok", "warning")
    assert line.found.startswith("agent is root, node is nobody")
    assert {line.result for line in look(joined, server) if line.check == "permissions"} == {"error"}
    for path in (joined.home.node, *joined.home.node.rglob("*")):
        os.chown(path, 65534, -1)
    assert only(look(joined, server), "permissions").result == "ok"


CAMPAIGN = (
    '[campaign]\nname = "{name}"\n' + trainings(train="steps = 6", adapt="steps = 4", finetune="steps = 5") + MEMBERS
)


@pytest.fixture
def command(tmp_path, capsys, monkeypatch):
    """Run the command at a hospital that joined today, beside a server that is up: (exit code, stdout)."""
    now = time.time()
    server = found(tmp_path, now)
    joined = well(tmp_path, server, now)
    monkeypatch.setenv("COLUMNS", "300")

    def run(*words):
        with consortia.open_door(server, clock=time.time) as address:
            home = homes.remember(joined.home, address=address)
            with pytest.raises(SystemExit) as ended:
                cli.main(["site", "check", "--home", str(home.folder), *map(str, words)])
        return ended.value.code or 0, capsys.readouterr().out

    return run, joined.home


def test_the_command_prints_the_table_and_counts(command):
    """Code 0 without an error; the separation is said at the end too."""
    run, _ = command
    code, printed = run()
    assert code == 0
    assert re.search(r"^ ?data +ok +3 cases in ", printed, re.MULTILINE)
    assert re.search(r"^ ?users +off +the separation is off: .* name two users", printed, re.MULTILINE)
    assert printed.endswith("north: 0 errors, 0 warnings; the separation is off.\n")


def test_one_user_for_both_is_red(command, monkeypatch):
    """What a terminal shows: the word `off` in bold red."""
    run, _ = command
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    _, printed = run()
    (line,) = [line for line in printed.splitlines() if "the separation is off: " in line]
    assert "\x1b[1;31moff" in line


def test_the_command_ends_with_2_where_there_is_an_error(command):
    """An open key, say."""
    run, home = command
    home.signing_key.chmod(0o640)
    code, printed = run()
    assert code == 2
    assert f"chmod 600 {home.signing_key}" in printed
    assert "north: 2 errors" in printed  # nor is such a key read


@pytest.mark.parametrize(("name", "code"), [("first", 0), ("second", 2)])
def test_a_campaign_of_the_coordinator_is_held_against_site_and_policy(command, tmp_path, name, code):
    """The patch and the disk are the campaign's, and a name that the policy does not list is an error."""
    run, _ = command
    path = tmp_path / "campaign.toml"
    path.write_text(CAMPAIGN.format(name=name))
    ended, printed = run("--campaign", path)
    assert ended == code
    assert f"campaign {name}" in printed
    assert "the net sees 8 x 8 x 8 voxels" in printed
    assert "1 sources, 1 rows" in printed
    assert ("does not list 'second'" in printed) == (name == "second")


def test_a_simulation_may_name_its_labels_by_a_table(tmp_path):
    """What is asked of a site are the table's labels, not the letters of its name."""
    data = '[site.data]\nfolder = "brains"\nlayout = "brats"\nlabels = "brats"\n'
    path = tmp_path / "campaign.toml"
    path.write_text(CAMPAIGN.format(name="first").replace('role = "source"', 'role = "source"\n' + data) + data)
    parts = ("necrosis", "oedema", "enhancing")
    assert site_check.asked(path).labels == {"north": parts, "harbour": parts}


def test_a_folder_that_is_no_home_is_a_sentence(tmp_path, capsys):
    """With the command that makes one."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["site", "check", "--home", str(tmp_path)])
    assert ended.value.code == 2
    assert "see fedmerge site join" in capsys.readouterr().err
