"""A source's training with differential privacy in a campaign: plan, ledger, page, and what is refused."""

import json
import math
from dataclasses import replace

import pytest
import small
import torch

from fedmerge import fusion, nets, params, report, results, tasks, wire
from fedmerge.errors import ConfigError
from server import inprocess, plan, training
from server.app import app as server_app
from sites import budget, cases, config, private, source, wording
from sites.app import app as client_app
from sites.inbound import Declined
from sites.records import Landmarks

PATIENTS = 'patient = "(.*)"'
NOISY = "epsilon = 3.0\ndelta = 1e-3\ndp_clip = 0.5\nbatch_size = 2"
BUDGET = "[site.policy]\n" + "\n".join(
    [
        *(f'{key} = ["*"]' for key in ("roles", "campaigns", "nets", "labels")),
        'min_cases = 1\nweights = true\ntrust = ["server"]\nfisher = "full"\nmax_contributions = "*"\nmax_bytes = "*"',
        "epsilon = 3.0\ndelta = 1e-3\nmetrics = true",
    ]
)


pytestmark = pytest.mark.usefixtures("one_thread")


def write(folder, train=NOISY, *, head="", patient=PATIENTS, policy=""):
    """The small campaign whose sources know their patients, with lines for `[train]` and a policy for north."""
    path = small.campaign(folder, head=head)
    text = path.read_text().replace("steps = 6\nlr = 5e-3\nfisher_cases = 3\n", f"steps = 6\nlr = 5e-3\n{train}\n")
    for name in small.SITES:
        text = text.replace(f'folder = "{name}"\n', f'folder = "{name}"\n{patient}\n')
    first, rest = text.split('[[site]]\nname = "south"', 1)
    path.write_text(f'{first}{policy}\n[[site]]\nname = "south"{rest}')
    return path


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """Hospitals, and one campaign with differential privacy over them: folder and results."""
    folder = small.hospitals(tmp_path_factory.mktemp("hospitals"))
    path = write(folder, head='methods = ["mean"]', policy=BUDGET)
    inprocess.run(server_app, client_app, {"campaign": str(path), "out": str(folder / "out"), "seeds": "0"}, 3)
    return folder, results.read(folder / "out")


def test_a_campaign_tells_what_its_sources_promise(there):
    """A line a source: epsilon as asked for, the mechanism, and the sentence, which the page repeats."""
    _, found = there
    assert {line["site"] for line in found["privacy"]} == {"north", "south"}
    for line in found["privacy"]:
        assert 2.9 < line["epsilon"] <= 3.0
        assert (line["delta"], line["unit"]) == (1e-3, "patient")
        (training,) = line["trainings"]
        assert training["steps"] == 6
        assert training["rate"] == pytest.approx(2 / 6)
        assert any(line["sentence"] in remark for remark in report.remarks(found))
    assert all(row["status"] == "ok" for row in found["rows"])


def test_contributions_carry_ones_in_place_of_the_fisher(there):
    """Whatever the plan and the policy allow."""
    folder, _ = there
    files = list((folder / "out" / "server" / "contributions").glob("*.safetensors"))
    assert len(files) == 2
    for path in files:
        made = wire.read(path)
        assert made.fisher_labels == "flat"
        assert made.fisher
        assert all(torch.equal(value, torch.ones_like(value)) for value in made.fisher.values())


def test_the_ledger_has_each_training_once(there):
    """Written by the site, in the run's folder, marked as sent."""
    folder, _ = there
    for name in ("north", "south"):
        told = json.loads((folder / "out" / "sites" / name / "budget.json").read_text())
        (entry,) = told["entries"]
        assert entry["sent"]
        assert entry["campaign"] == "small"


def asked(folder, path, **changes):
    """The task that trains north, and its payload."""
    site = config.from_campaign(path, "north", work=folder)
    settings = {"name": "isensee2017", "base_filters": 2, "depth": 2}
    made = nets.build(settings, in_channels=1, out_channels=2, seed=0)
    net = tasks.Net(settings, 1, ("ball",), (8, 8, 8), fusable=tuple(params.shapes(made)))
    start = params.of(made)
    task = tasks.Contribute(
        key="0" * 24, campaign="small", chain=0, net=net, settings={"steps": 2, "lr": 1e-3}, seed=0, fisher="sampled",
        fisher_cases=1, ancestor=params.digest(start), parent=params.digest(start), threads=1, precision="float32",
    )  # fmt: skip
    return site, {**tasks.to_table(task), **changes}, {"start": wire.params_to_bytes(start)}


def test_a_training_without_noise_is_refused_where_there_is_a_budget(there, tmp_path):
    """Before anything is trained."""
    folder, _ = there
    path = write(folder, policy=BUDGET)
    site, task, payload = asked(tmp_path, path)
    with pytest.raises(Declined, match="policy line 'epsilon = 3'"):
        source.contribute(site, task, payload)
    assert not (tmp_path / "contributions").exists()


def test_a_noisy_training_takes_no_landmarks(there, tmp_path):
    """They are of all patients at once: the noise bounds what one patient's gradient tells, and not what these do."""
    folder, _ = there
    site, task, payload = asked(tmp_path, write(folder, policy=BUDGET), epsilon=2.5, delta=1e-3, dp_clip=1.0)
    landmarks = Landmarks((1.0, 99.0), "nonzero", 30, (("T1", (0.0, 100.0)),))
    standard = replace(site, data=replace(site.data, landmarks=landmarks))
    with pytest.raises(Declined, match="north: 'landmarks' are taken over all patients at once"):
        source.contribute(standard, task, payload)
    assert budget.entries(site) == []


def test_a_training_beyond_the_budget_is_refused_and_one_within_is_spent_once(there, tmp_path):
    """Sent again from its file it costs nothing; no loss leaves, and the epsilon that was asked for is told."""
    folder, _ = there
    path = write(folder, policy=BUDGET)
    noisy = {"epsilon": 2.5, "delta": 1e-3, "dp_clip": 1.0}
    site, task, payload = asked(tmp_path, path, **noisy)
    first, data = source.contribute(site, task, payload)
    again, same = source.contribute(site, task, payload)
    assert first["loss"] is None
    assert 2.4 < first["epsilon"] == again["epsilon"] <= 2.5
    assert data["contribution"].read_bytes() == same["contribution"].read_bytes()
    assert len(budget.entries(site)) == 1
    with pytest.raises(Declined, match=r"2\.5 is spent, 2\.5 is asked for"):
        source.contribute(site, {**task, "key": "1" * 24}, payload)


def test_a_crash_while_training_is_spent_and_goes_on(there, tmp_path, monkeypatch):
    """The ledger has it before the first step; what begins again under its key is not spent again."""
    folder, _ = there
    site, task, payload = asked(tmp_path, write(folder, policy=BUDGET), dp_noise=4.0, delta=1e-3, dp_clip=1.0)

    def crash(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(private.dpsgd, "train", crash)
    with pytest.raises(KeyboardInterrupt):
        source.contribute(site, task, payload)
    assert [entry.sent for entry in budget.entries(site)] == [False]
    monkeypatch.undo()
    source.contribute(site, task, payload)
    assert [entry.sent for entry in budget.entries(site)] == [True]


def test_patients_that_nobody_knows_cannot_be_protected(there, tmp_path):
    """Ids that do not tell the patient; the sentence names the key that would."""
    folder, _ = there
    path = write(folder, patient="")
    site, task, payload = asked(tmp_path, path, epsilon=3.0, delta=1e-3, dp_clip=1.0)
    with pytest.raises(Declined, match=r"`patient` of \[data\]"):
        source.contribute(site, task, payload)


def test_all_cases_of_a_patient_are_one_unit(there, tmp_path):
    """Eight cases of one patient are one."""
    folder, _ = there
    path = write(folder, patient='patient = "(.*)_00[0-9]"')
    site, _, _ = asked(tmp_path, path)
    found = cases.load(site, cases.find(site.data), patch=(8, 8, 8))
    assert [len(person) for person in private.patients(site, found)] == [8]


def test_numbers_that_protect_nobody_are_refused(there, tmp_path):
    """A negative noise, and a delta of one; the sentence may leave."""
    folder, _ = there
    path = write(folder, policy=BUDGET)
    for numbers in ({"dp_noise": 1.0, "delta": 1.0}, {"dp_noise": 1.0, "delta": 1e-3, "dp_clip": 0.0},
                    {"epsilon": 1.0, "dp_noise": -1.0, "delta": 1e-3, "dp_clip": 1.0}):  # fmt: skip
        site, task, payload = asked(tmp_path, path, **numbers)
        with pytest.raises(Declined, match="expected"):
            source.contribute(site, task, payload)
    assert budget.entries(site) == []


def test_a_budget_without_a_delta_is_told_before_any_campaign(there, tmp_path):
    """`fedmerge site check` shows the policy's line in yellow."""
    path = write(there[0], policy=BUDGET.replace("delta = 1e-3", "delta = 0.0"))
    assert "delta" in wording.obstacles(config.from_campaign(path, "north", work=tmp_path))
    assert "delta" not in wording.obstacles(config.from_campaign(path, "south", work=tmp_path))


def test_a_digest_of_protected_files_cannot_be_tested_against_a_guess(there, tmp_path):
    """It is keyed where there is a budget, and what it was where there is none."""
    folder, _ = there
    site = config.from_campaign(write(folder, policy=BUDGET), "north", work=tmp_path)
    digest = "sha256:" + "0" * 64
    assert private.digest(site, digest) != digest
    assert private.digest(site, digest) == private.digest(site, digest)
    south = config.from_campaign(write(folder, policy=BUDGET), "south", work=tmp_path)
    assert private.digest(south, digest) == digest


@pytest.mark.parametrize(
    ("train", "sentence"),
    [
        (f"{NOISY}\ndp_noise = 1.0", "either epsilon or dp_noise"),
        (f'{NOISY}\nfisher = "observed"', "fisher: no Fisher leaves"),
        (f"{NOISY}\nfisher_cases = 3", "fisher_cases: no Fisher leaves"),
        (f"{NOISY}\nvalidate_every = 2", "validate_every expected 0"),
        (f"{NOISY}\nvalidate_every = 0\npatience = 2", "patience expected 0"),
        (f"{NOISY}\nclip_norm = 1.0", "clip_norm expected 0"),
        (NOISY.replace("delta = 1e-3", "delta = 0.0"), "delta expected"),
        (NOISY.replace("dp_clip = 0.5", "dp_clip = 0.0"), "dp_clip expected"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(there, train, sentence):
    """With file, table and key."""
    with pytest.raises(ConfigError, match=rf"small\.toml: \[train\].*{sentence}"):
        plan.read(write(there[0], train))


@pytest.mark.parametrize("method", ["ewc", "fedavg", "fedprox", "fedavg-fisher"])
def test_methods_that_would_release_more_are_refused(there, method):
    """EWC looks at Fishers, federated averaging releases a model each round."""
    with pytest.raises(ConfigError, match=f"{method} does not go with differential privacy"):
        plan.read(write(there[0], head=f'methods = ["{method}"]'))


def test_a_task_without_noise_keeps_the_name_that_it_had(there):
    """What was stored before there was any differential privacy goes on being found."""
    _, table, _ = asked(there[0], write(there[0]))
    later = ("epsilon", "delta", "dp_clip", "dp_noise", "trust", "run", "sealed", "keys", "epoch")
    old = {k: v for k, v in table.items() if k not in later}
    task = tasks.from_table(tasks.Contribute, table, "server")
    assert training._key(task, "data") == training.key(data="data", **{**old, "campaign": "", "threads": 0})
    noisy = tasks.from_table(tasks.Contribute, {**table, "dp_noise": 1.0}, "server")
    assert training._key(noisy, "data") != training._key(task, "data")


def test_the_rows_of_methods_are_known(there):
    """The names above are methods; else the refusals would not be about privacy."""
    assert {fusion.method(name, ("north",)).name for name in ("ewc", "fedavg")} == {"ewc", "fedavg"}
    assert math.isinf(config.OPEN.epsilon)
