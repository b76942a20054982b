"""Campaigns with `trust = "target"`: the numbers of one with a trusted server, and a server with nothing to read."""

import json
import shutil
from dataclasses import replace

import pytest
from small import SITES, campaign
from test_campaign import bare, failing, run
from test_holding import three_sources

from fedmerge import seals, tasks, wire
from fedmerge.errors import CampaignStopped, ConfigError
from fedmerge.transport import Letter
from fedmerge.trust import audit, keys
from server import ground, holding, plan, withdrawal
from sites import config, correspondence, outbound, vouched
from sites.inbound import Declined
from sites.records import OPEN, Policy, Site
from sites.service import Service

ROW = tasks.Row(
    key="", label="", campaign="", method={}, net=None, channels=(), sources=(), digests=(), ancestor="", seed=0,
    net_seed=0, target_cases=2, ratios="", adapt=None, logits_lr=0.0, finetune={}, threads=1,
)  # fmt: skip
METHODS = "mean,imm-mode,t-imm,transfer:north,lwf+stitch"


@pytest.fixture(scope="module")
def both(small, tmp_path_factory):
    """Folder and results of one campaign with a trusted server, and of the same one sealed to the target."""
    found = {}
    for trust in ("server", "target"):
        out = tmp_path_factory.mktemp(trust)
        path = campaign(small, name=f"{trust}.toml", head=f'trust = "{trust}"')
        found[trust] = out, run(path, out, METHODS)
    return found


def phases(out, kind):
    """What the target answered of its rows, by the key of the row."""
    return {
        path.name.removesuffix(f"-{kind}.json"): json.loads(path.read_text())
        for path in (out / "server/phases").glob(f"*-{kind}.json")
    }


def test_the_same_chain_gives_the_same_weights_and_scores(both):
    """Rows bear the same keys, what is merged has the same digest in each, and every score is the same number."""
    for kind in ("adapted", "finetuned"):
        open_, sealed = (phases(both[trust][0], kind) for trust in ("server", "target"))
        assert open_
        assert {k: v["fused"] for k, v in open_.items()} == {k: v["fused"] for k, v in sealed.items()}
    assert bare(both["target"][1])["rows"] == bare(both["server"][1])["rows"]


def test_the_server_has_no_weights_and_no_ratios(both):
    """Sealed files and digests are all that lies at the server of the sources' models."""
    out, results = both["target"]
    assert not (out / "server/contributions").exists()
    assert not list(out.rglob("*.fused.safetensors"))
    assert results["ratios"] == results["forgetting"] == []
    sealed = sorted(path.name for path in (out / "server/sealed").rglob("*.sealed"))
    assert set(sealed) == {"contribution-harbour.sealed", "body-south.sealed", "contribution-south.sealed"}
    assert not list((out / "server").rglob("*-logits.safetensors"))


def test_ratios_and_scores_of_cases_are_kept_at_the_target(both):
    """The ratios that an open campaign's server writes down lie, number by number, at the target of a sealed one."""
    out, results = both["target"]
    kept = {path.stem: json.loads(path.read_text()) for path in (out / "sites/harbour/results/small").iterdir()}
    open_ = {line["method"]: line["groups"] for line in both["server"][1]["ratios"]}
    told = {one["method"]: one["ratios"]["groups"] for one in kept.values() if one["ratios"]}
    assert told == {name: open_[name] for name in told}
    assert "t-imm" in told
    scores = {row["method"]: row["cases"] for row in results["rows"] if row["stage"] == "fine-tuned"}
    assert {one["method"]: one["stages"]["fine-tuned"] for one in kept.values()} == scores


def test_side_by_side_too_and_with_all_that_a_target_does_alone(small, tmp_path):
    """Parallel, with rules that have no ratios, an initialisation of its own, the pooled reference, and `auto`."""
    methods = "ties,medmerge,pooled,auto"
    found = {}
    for trust in ("server", "target"):
        head = f'trust = "{trust}"\nschedule = "parallel"'
        found[trust] = run(campaign(small, name=f"side-{trust}.toml", head=head), tmp_path / trust, methods)
    assert bare(found["target"])["rows"] == bare(found["server"])["rows"]
    assert found["target"]["choices"] == found["server"]["choices"]


def test_a_campaign_that_stopped_goes_on_and_asks_nobody_twice(small, both, tmp_path):
    """A source fails when it is to seal: what was trained stays, and the same results come in the end."""
    path = campaign(small, name="again.toml", head='trust = "target"')
    with pytest.raises(CampaignStopped, match=r"south failed in query\.seal"):
        run(path, tmp_path, METHODS, failing("query.seal", 1))
    trained = {p: p.stat().st_mtime_ns for p in (tmp_path / "sites").glob("*/contributions/*")}
    assert trained
    results = run(path, tmp_path, METHODS)
    assert all(p.stat().st_mtime_ns == when for p, when in trained.items())
    assert bare(results)["rows"] == bare(both["target"][1])["rows"]


def mean_of(small, folder):
    """A sealed campaign of one row, whose target has lost what it received."""
    path = campaign(small, name="mean.toml", head='trust = "target"\nschedule = "parallel"')
    run(path, folder, "mean")
    shutil.rmtree(folder / "sites/harbour/received")
    sealed = {
        json.loads((p.parent / "made.json").read_text())["site"]: p for p in folder.rglob("contribution-*.sealed")
    }
    return path, sealed


@pytest.mark.parametrize("harm", ["flip", "cut", "swap", "old"])
def test_a_relay_that_changes_what_it_carries_is_found_out_and_leaves_nothing_open(small, tmp_path, harm):
    """One sentence whatever was done, and no byte of plaintext at the target."""
    path, sealed = mean_of(small, tmp_path)
    data = bytearray(sealed["north"].read_bytes())
    if harm == "flip":
        data[-1000] ^= 1
    elif harm == "cut":
        del data[-1000:]
    elif harm == "swap":
        data = bytearray(sealed["south"].read_bytes())
    else:  # a whole and honest one of another run
        (tmp_path / "server/phases/run.json").write_text(json.dumps({"run": "0" * 32}))
    sealed["north"].write_bytes(bytes(data))
    with pytest.raises(CampaignStopped, match=r"harbour: from (north|south): the sealed file could not be opened \["):
        run(path, tmp_path, "mean")
    assert not list((tmp_path / "sites/harbour/opened").glob("*"))


def test_a_target_with_new_keys_gets_everything_sealed_anew(small, tmp_path):
    """What was sealed to its old keys stops the campaign once; the next start has it sealed to the new ones."""
    path, _ = mean_of(small, tmp_path)
    for key in (tmp_path / "sites/harbour/keys").iterdir():
        key.unlink()
    with pytest.raises(CampaignStopped, match="the sealed file could not be opened"):
        run(path, tmp_path, "mean")
    assert run(path, tmp_path, "mean")["rows"]


def test_what_is_sealed_is_checked_by_the_target_as_an_honest_server_would(small, tmp_path):
    """Weights that went thirty times as far are held, by the target's measure and without a number."""
    path = three_sources(small, "wild.toml", 'trust = "target"\nschedule = "parallel"\nmax_change = 5.0')
    path.write_text(path.read_text().replace('folder = "south"', 'folder = "south"\ncontrol = "change-x30"'))
    with pytest.raises(CampaignStopped, match=r"south: weights that moved too far .*, as the target measured"):
        run(path, tmp_path, "mean")
    assert holding.undecided(tmp_path / "server") == ["south"]
    holding.release(tmp_path / "server", "south", "2030-01-02T03:04:05Z")
    changes = {one["site"]: one for one in run(path, tmp_path, "mean")["changes"]}
    assert {site: one["verdict"] for site, one in changes.items()} == {
        "north": "within", "south": "released", "west": "within"
    }  # fmt: skip
    assert all(one["change"] is None for one in changes.values())


def test_a_source_seals_only_for_whom_its_policy_names(small, tmp_path):
    """Neither an open campaign nor another receiver gets what a policy wants to be sealed for one site."""
    lists = "".join(f'{key} = ["*"]\n' for key in ("roles", "campaigns", "nets", "labels"))
    own = (
        f'[site.policy]\n{lists}min_cases = 1\nweights = true\nmax_contributions = "*"\nmax_bytes = "*"\n'
        'fisher = "full"\nepsilon = inf\ntrust = ["target"]\nreceivers = ["harbour"]\n[[site]]\nname = "south"'
    )
    for trust, schedule, words in (
        ("server", "parallel", "policy line 'trust' does not list 'server'"),
        ("target", "chain", "policy line 'receivers' does not list 'south'"),
        ("target", "parallel", ""),
    ):
        path = campaign(small, name="own.toml", head=f'trust = "{trust}"\nschedule = "{schedule}"')
        path.write_text(path.read_text().replace('[[site]]\nname = "south"', own))
        if words:
            with pytest.raises(CampaignStopped, match=words):
                run(path, tmp_path / f"{trust}-{schedule}", "mean")
        else:
            policy = run(path, tmp_path / f"{trust}-{schedule}", "mean")["campaign"]["site"][0]["policy"]
            assert (policy["receivers"], policy["epsilon"]) == (["harbour"], "inf")


def test_a_row_takes_in_no_model_that_a_server_could_have_made(small, both, tmp_path):
    """What came in the clear is refused in a sealed row, and so is one source's model under another one's name."""
    shutil.copytree(both["target"][0] / "sites/harbour", tmp_path / "harbour")
    harbour = config.from_campaign(small / "target.toml", "harbour", work=tmp_path / "harbour")
    digests = {facts["site"]: path.stem for path in (tmp_path / "harbour/received").glob("*.json")
               if (facts := json.loads(path.read_text()))}  # fmt: skip
    names = {site: f"sha256:{stem}" for site, stem in digests.items()}

    def row(trust, **models):
        return replace(ROW, trust=trust, sources=tuple(models), digests=tuple(models.values()))

    vouched.check(harbour, row("target", **names))
    (tmp_path / "harbour/received" / f"{digests['north']}.json").unlink()  # as if it had come in the clear
    with pytest.raises(Declined, match=r"harbour: expected a model that north has sealed .* came in the clear"):
        vouched.check(harbour, row("target", **names))
    vouched.check(harbour, row("server", **names))
    with pytest.raises(Declined, match=r"harbour: expected a model that north has sealed .* is of south"):
        vouched.check(harbour, row("target", north=names["south"]))


def test_a_campaign_in_the_clear_before_it_changes_nothing(small, both, tmp_path):
    """The target has the same models already, and has them brought again, sealed."""
    run(campaign(small, name="first.toml", head='trust = "server"'), tmp_path, "mean")
    shutil.rmtree(tmp_path / "server")
    results = run(campaign(small, name="second.toml", head='trust = "target"'), tmp_path, METHODS)
    assert bare(results)["rows"] == bare(both["target"][1])["rows"]


def test_keys_that_a_policy_has_pinned_are_the_only_ones_that_are_sealed_to(tmp_path):
    """With the right fingerprint, however it is spelt; with another one nothing is sealed, whoever vouches for it."""
    harbour = Site("harbour", "target", None, OPEN, None, tmp_path / "harbour", simulation=True)
    told = correspondence.told(harbour)
    north = replace(harbour, name="north", role="source", work=tmp_path / "north")
    found = correspondence.peer(north, "harbour", told)
    assert found.fingerprint == keys.pair_fingerprint(told["signing"], told["sealing"])
    for pin in ("harbour", f"harbour {found.fingerprint}", f"harbour {found.fingerprint.lower().replace('-', ' ')}"):
        outbound.check_receiver(replace(north, policy=Policy(receivers=(pin,))), "harbour", found.fingerprint)
    other = correspondence.peer(north, "harbour", correspondence.told(replace(harbour, work=tmp_path / "other")))
    pinned = replace(north, policy=Policy(receivers=(f"harbour {found.fingerprint}",)))
    with pytest.raises(Declined, match="north: policy line 'receivers' names other keys of harbour than SHA256:"):
        outbound.check_receiver(pinned, "harbour", other.fingerprint)


def test_the_target_witnesses_the_senders_log(small, both, tmp_path):
    """The header's head is a line of the target's own log, so that who seals cannot write its log anew unnoticed."""
    shutil.copytree(both["target"][0] / "sites", tmp_path / "sites")
    record = next(p for p in (both["target"][0] / "server/sealed").glob("*/made.json") if "north" in p.read_text())
    facts, key = json.loads(record.read_text()), record.parent.name
    logs = {name: audit.Log(tmp_path / f"{name}.jsonl", keys.new_signing(), name) for name in ("north", "harbour")}
    path = small / "target.toml"
    sites = {name: config.from_campaign(path, name, work=tmp_path / "sites" / name) for name in SITES}
    told = {name: correspondence.told(site) for name, site in sites.items()}
    described = {name: (1, tuple(site.data.labels)) for name, site in sites.items()}
    net = ground.divide(plan.read(path), described)["north"]
    found = wire.read(sites["north"].work / "contributions" / f"{key}.safetensors")

    def answer(kind, name, task, **payload):
        service = Service(lambda: sites[name], log=logs[name])
        return service.answer(kind, Letter(tasks.to_table(task), payload, to=name)).payload

    for _ in range(2):  # the second time there is a line before it
        shutil.rmtree(sites["north"].work / "sealed", ignore_errors=True)
        seal = seals.Seal("small", facts["run"], key, "contribution", "harbour", net, told["harbour"])
        sealed = answer("query.seal", "north", seal)
    asked = seals.Open(
        "small", facts["run"], "north", key, facts["digest"], net, found.ancestor, found.parent, "sampled",
        keys=told["north"],
    )  # fmt: skip
    answer("query.open", "harbour", asked, **sealed)
    witnessed = audit.witnessed(logs["north"].path, logs["harbour"].path, "north")
    assert (witnessed.heads, witnessed.missing) == (1, ())
    logs["north"].path.write_text(logs["north"].path.read_text().splitlines(keepends=True)[0])  # the rest is cut off
    assert len(audit.witnessed(logs["north"].path, logs["harbour"].path, "north").missing) == 1


def test_a_withdrawal_finds_what_nobody_can_read(small, both, tmp_path):
    """Sealed files of the site go, and what was trained from it is named by digest."""
    home = tmp_path / "runs/one"
    shutil.copytree(both["target"][0], home / "out")
    shutil.copy(small / "target.toml", home / "campaign.toml")
    found = withdrawal.look(tmp_path / "runs", "north")
    assert {one.path.name for one in found.taken} == {
        "made.json", "contribution-harbour.sealed", "body-south.sealed", "contribution-south.sealed",
    }  # fmt: skip
    kinds = {(heir.kind, heir.what) for heir in found.heirs}
    assert ("contribution", "of south, trained from it") in kinds
    assert ("fine-tuned model", "t-imm-seed0-chain0-n2") in kinds


@pytest.mark.parametrize(
    ("head", "methods", "words"),
    [
        ('fit = "far"', "t-imm", "fit = 'far' merges at the server"),
        ("", "fedavg", "fedavg averages at the server, and with trust = 'target'"),
    ],
)
def test_what_needs_a_server_that_reads_is_refused_by_the_plan(small, head, methods, words):
    """Before anybody has trained."""
    path = campaign(small, name="refused.toml", head=f'trust = "target"\nmethods = ["{methods}"]\n{head}')
    with pytest.raises(ConfigError, match=words):
        plan.read(path)
