"""A hospital's two doors: what a task may name, which policy line stands against it, and what never gets out."""

import shutil

import pytest
from flwr.app import Message
from small import campaign
from test_campaign import run

from fedmerge import tasks, transport, wire
from fedmerge.errors import CampaignStopped, ConfigError
from server.inprocess import InProcessGrid
from sites import config, inbound, target
from sites.app import app as client_app

KEY, DIGEST = "0" * 24, "sha256:" + "0" * 64


@pytest.fixture
def harbour(small, tmp_path):
    """The target's site, with an open policy."""
    return config.from_campaign(campaign(small), "harbour", work=tmp_path / "work")


def with_policy(small, name, lines, site="harbour"):
    """A campaign whose site has an open policy except for `lines`."""
    lists = dict.fromkeys(("roles", "campaigns", "nets", "labels", "trust", "receivers"), '["*"]')
    table = {**lists, "min_cases": "1", "max_bytes": '"*"', "max_contributions": '"*"', "weights": "true",
             "fisher": '"full"', "metrics": "true", "per_case_metrics": "true", **lines}  # fmt: skip
    text = campaign(small).read_text()
    own = f'[[site]]\nname = "{site}"'
    policy = "[site.policy]\n" + "".join(f"{key} = {value}\n" for key, value in table.items())
    head, tail = text.split(own)
    parts = tail.split("[[site]]", 1)
    path = small / f"{name}.toml"
    path.write_text(head + own + parts[0] + policy + ("[[site]]" + parts[1] if len(parts) > 1 else ""))
    return path


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key", "../../escaped"),
        ("key", "0" * 23 + "/"),
        ("key", 3),
        ("label", ".."),
        ("label", "a/b"),
        ("digests", ["../../../../escaped"]),
        ("digests", [DIGEST, "sha256:" + "0" * 63 + "/"]),
        ("ancestor", "/etc/passwd"),
    ],
)
def test_a_name_that_could_leave_the_working_folder_is_declined(harbour, field, value):
    """Keys, labels and digests become file names, so they are hexadecimal or plain words, nothing else."""
    with pytest.raises(inbound.Declined, match=f"harbour: the task's {field} expected"):
        inbound.check(harbour, "adapt", {field: value})
    inbound.check(harbour, "adapt", {"key": KEY, "label": "imm-mode+warm-up-seed0-chain0-n4", "digests": [DIGEST]})


def test_weights_that_are_not_what_their_digest_names_are_declined(harbour):
    """Bytes under another's name are not kept."""
    task = tasks.to_table(tasks.Receive((DIGEST,)))
    with pytest.raises(inbound.Declined, match="are not what their digest names"):
        target.receive(harbour, task, {DIGEST: b"hello"})
    assert not (harbour.work / "received").exists()


@pytest.mark.parametrize("action", ["receive", "contribute", "admit", "adapt", "pull", "finetune", "score"])
@pytest.mark.parametrize(
    ("line", "value"), [("campaigns", '["another"]'), ("nets", '["unet"]'), ("labels", '["ball"]'), ("roles", "[]")]
)
def test_the_policy_is_asked_by_every_task_and_not_by_the_roll_call_alone(small, tmp_path, action, line, value):
    """A server that leaves the roll call out meets the same lines."""
    site = "north" if action in ("contribute", "score") else "harbour"
    lines = {line: value if line != "labels" else '["something"]'}
    own = config.from_campaign(with_policy(small, "asked", lines, site), site, work=tmp_path)
    facts = {"campaign": "small", "net": {"settings": {"name": "isensee2017"}}}
    task = {"row": facts, "step": 0} if action == "pull" else facts
    with pytest.raises(inbound.Declined, match=f"policy line '{line}' does not list"):
        inbound.check(own, action, task)


def test_a_task_for_another_role_is_declined(harbour):
    """A target does not contribute, whoever asks."""
    with pytest.raises(inbound.Declined, match="'contribute' is for a source, and this site is a target"):
        inbound.check(harbour, "contribute", {})


def test_scores_that_were_made_under_an_open_policy_stay_when_it_closes(small, tmp_path):
    """A site whose policy now keeps metrics sends the phases it has finished without them."""
    run(with_policy(small, "open", {}), tmp_path, "none,t-imm")
    shutil.rmtree(tmp_path / "server/phases")
    results = run(with_policy(small, "open", {"metrics": "false"}), tmp_path, "none,t-imm")
    assert all((row["dice"], row["cases"], row["curve"]) == (None, [], []) for row in results["rows"])


def test_no_path_of_a_site_is_in_what_the_server_hears_of_a_failure(small, tmp_path):
    """Weights that became infinite are told with the site's name and a reference, not with the site's folder."""
    path = small / "wild.toml"
    text = campaign(small).read_text().replace("lr = 3e-3\nvalidate_every = 2", "lr = 1e39")
    path.write_text(text)
    with pytest.raises(CampaignStopped, match=r"harbour failed in train\.finetune") as stopped:
        run(path, tmp_path / "out", "none")
    assert str(tmp_path) not in str(stopped.value)
    assert str(tmp_path) not in (tmp_path / "out/server/ended.txt").read_text()


def test_a_message_of_another_form_gets_a_reference_and_no_word_more(small, tmp_path):
    """Whatever is thrown at a handler, the answer is an error with eight hexadecimal digits."""
    grid = InProcessGrid(client_app, {"campaign": str(campaign(small)), "out": str(tmp_path)}, 3)
    node = grid.get_node_ids()[0]
    for task in ({}, {"row": 3}, {"net": []}, {"key": KEY, "unknown": 1}, {"step": "x"}):
        (reply,) = grid.send_and_receive([Message(transport.pack(task), node, "train.contribute")])
        assert reply.has_error()
        assert str(tmp_path) not in reply.error.reason
        assert "Traceback" not in reply.error.reason


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('labels = { ball = [1] }\nbackground = [2]\npooled_labels = { ball = [1], cube = [2] }\ntest = 2',
         'labels = { ball = [1] }\nbackground = [2]\npooled_labels = { ball = [1], cube = [2] }\ntest = 2\ntrain = 3'),
        ("pooled_labels = { ball = [1], cube = [2] }", "pooled_labels = { ball = [2], cube = [1] }"),
        ("labels = { ball = [1] }\nbackground = [2]", "labels = { ball = [2] }\nbackground = [1]"),
        ('folder = "north"', 'folder = "north"\ncases = "0:7"'),
        ('folder = "north"', 'folder = "north"\nspacing_mm = [2.0, 2.0, 2.0]'),
        ('folder = "north"', 'folder = "north"\ncontrol = "shuffled-labels"'),
    ],
)  # fmt: skip
def test_every_setting_of_a_sites_data_is_part_of_its_identity(small, tmp_path, old, new):
    """A change of what a source trains on leaves no stored contribution in use, at the server or at the site."""
    path = small / "before.toml"
    text = campaign(small).read_text()
    assert old in text
    path.write_text(text)
    run(path, tmp_path, "mean,pooled")
    stored = set((tmp_path / "server/contributions").iterdir())
    path.write_text(text.replace(old, new, 1))
    run(path, tmp_path, "mean,pooled")
    made = {wire.read(p).site for p in set((tmp_path / "server/contributions").iterdir()) - stored}
    assert made >= {"north", "pooled"}


def test_a_source_that_starts_elsewhere_says_that_it_did_not(small, tmp_path):
    """Its contribution names the start that it was given, and is far from it."""
    path = small / "elsewhere.toml"
    text = campaign(small).read_text()
    path.write_text(text)
    run(path, tmp_path / "honest", "imm-mode")
    path.write_text(text.replace('folder = "south"', 'folder = "south"\ncontrol = "other-start"', 1))
    run(path, tmp_path / "other", "imm-mode")
    made = {}
    for name in ("honest", "other"):
        found_there = map(wire.read, (tmp_path / name / "server/contributions").iterdir())
        made[name] = {one.site: one for one in found_there}
    north, south, other = made["honest"]["north"], made["honest"]["south"], made["other"]["south"]
    assert other.parent == south.parent

    def far(one):
        return sum(float((one.weights[n] - north.weights[n]).square().sum()) for n in one.fisher)

    assert far(other) > 2 * far(south)


def test_more_cases_than_there_are_is_told_before_anything_is_trained(small, tmp_path):
    """The target's pool is known after the roll call."""
    with pytest.raises(ConfigError, match="harbour: expected 99 training cases, got 3 beside validation and test"):
        run(campaign(small), tmp_path, "t-imm", **{"target-cases": 99})
    assert not (tmp_path / "server/contributions").exists()


def test_a_list_of_cases_is_found_from_the_resolved_campaign_too(small, tmp_path):
    """A file of ids beside the campaign file is absolute in the run's own copy."""
    (small / "ids.txt").write_text("\n".join(f"north_{k:03d}" for k in range(6)))
    path = small / "listed.toml"
    path.write_text(campaign(small).read_text().replace('folder = "north"', 'folder = "north"\ncases = "ids.txt"'))
    first = run(path, tmp_path / "first", "mean")
    again = run(tmp_path / "first/campaign.toml", tmp_path / "again", "mean")
    assert [r["dice"] for r in again["rows"]] == [r["dice"] for r in first["rows"]]
