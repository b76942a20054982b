"""Whole campaigns on tiny hospitals: near = far, resumed = uninterrupted, one net for both sides, and who sees what."""

import json
import logging
from contextlib import ExitStack
from pathlib import Path

import agents
import pytest
import torch
from flwr.app import Error, Message
from flwr.clientapp import ClientApp
from safetensors.torch import load_file
from small import campaign

from fedmerge import fusion, labelfiles, params, transport, wire
from fedmerge.errors import CampaignStopped, ConfigError, Refused
from server import inprocess
from server.app import app as server_app
from sites.app import app as client_app

ALL = "none,transfer,mean,imm-mode,imm-mode+warm-up,random-ratios,t-imm,t-imm-kernel,pooled"


def run(path: Path, out: Path, methods: str = "t-imm", app: ClientApp = client_app, **config):
    """Run a campaign in this process and read its results."""
    nodes = config.pop("nodes", 3)
    node_configs, names = config.pop("node_configs", ()), config.pop("names", ())
    settings = {"campaign": str(path), "out": str(out), "methods": methods, "seeds": "0", **config}
    workers = int(config.get("workers", 1))
    inprocess.run(server_app, app, {"workers": workers, **settings}, nodes, workers, node_configs, names)
    return json.loads((out / "results.json").read_text())


def bare(results):
    """Results without what differs between two runs of the same numbers: times and traffic."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in results["rows"]]
    return {"rows": rows, "ratios": results["ratios"], "forgetting": results["forgetting"]}


def failing(kind: str, site: int, label: str = "", text: str = "a secret") -> ClientApp:
    """The sites' own app, except that one site's handler of one kind of message raises (once)."""
    app, armed = ClientApp(), [True]

    def handler(name):
        def handle(message, context):
            task = message.content.config_records["task"]["json"]
            if armed and name == kind and context.node_config["partition-id"] == site and label in str(task):
                armed.clear()
                return Message(Error(code=2, reason=text), reply_to=message)
            return client_app(message, context)

        return handle

    for name in transport.KINDS:
        category, action = name.split(".")
        getattr(app, category)(action)(handler(name))
    return app


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """Every method once, in one thread, without interruption."""
    out = tmp_path_factory.mktemp("whole")
    return out, run(campaign(small), out, ALL)


def test_every_method_has_its_rows_and_the_same_budget(whole):
    """Ten rows end at nine target steps each, whatever they spend on adaptation; curves begin at step 0."""
    _, results = whole
    methods = fusion.expand(ALL.split(","), ("north", "south"))
    last = {row["method"]: row for row in results["rows"] if row["stage"] == "fine-tuned"}
    assert list(last) == [m.name for m in methods]
    for method in methods:
        row = last[method.name]
        assert (row["target_steps"], row["status"], row["target_cases"]) == (9, "ok", 2)
        steps = [step for step, _ in row["curve"]]
        assert steps[0] == 0
        assert steps[-1] == 9
        assert steps == sorted(set(steps))
        stages = [r["stage"] for r in results["rows"] if r["method"] == method.name]
        assert stages == (["start", "adapted", "fine-tuned"] if method.warm_up else ["start", "fine-tuned"])


def test_ratios_of_a_fit_move_and_sum_to_one(whole):
    """T-IMM leaves equal ratios behind; each layer's ratios, and each kernel's, sum to 1."""
    _, results = whole
    found = {r["method"]: r for r in results["ratios"]}
    for values in found["t-imm"]["groups"].values():
        assert sum(values) == pytest.approx(1, abs=1e-6)
    assert any(abs(v[0] - 0.5) > 0.01 for v in found["t-imm"]["groups"].values())
    for north, south in found["t-imm-kernel"]["groups"].values():
        assert [a + b for a, b in zip(north, south)] == pytest.approx([1] * len(north), abs=1e-6)
    assert all(v == [0.5, 0.5] for v in found["imm-mode"]["groups"].values())


def test_the_servers_merged_model_is_the_targets(whole):
    """P as the server fused it equals P in the target's adapted net, bit for bit."""
    out, _ = whole
    rows = {json.loads(p.read_text())["fused"]: p.parent for p in (out / "sites/harbour/rows").glob("*/adapted.json")}
    for method in ("t-imm", "t-imm-kernel", "random-ratios", "imm-mode+warm-up"):
        fused, info = wire.read_model(out / f"models/harbour/{method}-seed0-chain0-n2.fused.safetensors")
        adapted = load_file(rows[params.digest(fused)] / "adapted.safetensors")
        assert info["method"] == method
        assert all(torch.equal(adapted[name], value) for name, value in fused.items())
        assert adapted.keys() > fused.keys()


def test_what_a_run_leaves(whole):
    """Results, table, figures, models with their metadata, predictions on the input's grid, the campaign, a log."""
    out, results = whole
    for name in (
        "results.json",
        "results.md",
        "learning_curves.png",
        "ratios.png",
        "paired.png",
        "campaign.toml",
        "log.txt",
    ):
        assert (out / name).stat().st_size > 0
    weights, info = wire.read_model(out / "models/harbour/t-imm-seed0-chain0-n2.fine-tuned.safetensors")
    assert (info["labels"], info["patch"], info["sources"]) == (["ball", "cube"], [8, 8, 8], ["north", "south"])
    assert any(name.startswith("") for name in weights)
    cases = {c["case"] for r in results["rows"] for c in r["cases"]}
    written = {p.name for p in (out / "sites/harbour/predictions/t-imm-seed0-chain0-n2").iterdir()}
    assert written == {f"{case}.nii.gz" for case in cases}
    for name, text in labelfiles.files(["ball", "cube"]).items():
        assert (out / "sites/harbour/predictions" / name).read_text() == text


def test_forgetting_asks_each_source_with_its_own_head(whole):
    """Each source's own weights on its own task score what the site itself reaches; every merge has a row too."""
    _, results = whole
    pairs = {(f["weights"], f["task"]) for f in results["forgetting"]}
    assert {("north", "north"), ("south", "north"), ("t-imm", "south"), ("imm-mode", "north")} <= pairs
    assert all(0 <= f["dice"] <= 1 for f in results["forgetting"])


def test_rows_in_two_threads_are_the_rows_in_one(small, whole, tmp_path):
    """Conversations that go on at the same time change no digit."""
    _, results = whole
    assert bare(run(campaign(small), tmp_path, ALL, workers=2)) == bare(results)


@pytest.mark.parametrize("method", ["t-imm", "t-imm-kernel", "imm-mode+warm-up"])
def test_far_is_near(small, whole, tmp_path, method):
    """Gradients by message give the ratios, curves and scores of the fit beside the data, to 1e-6."""
    _, near = whole
    path = campaign(small, name=f"far-{method}.toml", head='fit = "far"')
    far = run(path, tmp_path, method)
    expected = next(r for r in near["ratios"] if r["method"] == method)["groups"]
    for name, values in far["ratios"][0]["groups"].items():
        torch.testing.assert_close(torch.tensor(values), torch.tensor(expected[name]), rtol=0, atol=1e-6)
    for row in far["rows"]:
        same = next(r for r in near["rows"] if (r["method"], r["stage"]) == (method, row["stage"]))
        assert row["dice"] == pytest.approx(same["dice"], abs=1e-6)
        assert [v for p in row["curve"] for v in p] == pytest.approx([v for p in same["curve"] for v in p], abs=1e-6)
    steps = next(t for t in far["traffic"] if t["what"] == "far step" and t["from"] == "server")
    assert steps["messages"] == 5  # four steps, and the last merged weights


def test_a_far_target_never_holds_a_contribution(small, tmp_path):
    """With fit = "far" what the target received is the ancestor alone."""
    run(campaign(small, name="far.toml", head='fit = "far"'), tmp_path, "t-imm,mean")
    (received,) = (tmp_path / "sites/harbour/received").iterdir()
    with pytest.raises(Refused):
        wire.from_bytes(received.read_bytes())


@pytest.mark.parametrize(
    ("kind", "site", "label", "kept"),
    [
        ("train.contribute", 1, "", 1),
        ("train.adapt", 2, "t-imm-seed0", 2),
        ("train.finetune", 2, "t-imm-seed0", 2),
        ("evaluate.score", 0, "", 2),
    ],
)
def test_a_stopped_campaign_names_the_site_keeps_what_it_has_and_resumes(
    small, whole, tmp_path, kind, site, label, kept
):
    """Whatever phase breaks, the second start ends with the numbers of an uninterrupted run."""
    _, uninterrupted = whole
    name = ("north", "south", "harbour")[site]
    with pytest.raises(CampaignStopped, match=f"{name} failed in {kind}"):
        run(campaign(small), tmp_path, ALL, failing(kind, site, label))
    stored = sorted((tmp_path / "server/contributions").iterdir())
    assert len(stored) >= kept
    before = {p: p.stat().st_mtime_ns for p in stored}
    assert bare(run(campaign(small), tmp_path, ALL)) == bare(uninterrupted)
    assert all(p.stat().st_mtime_ns == time for p, time in before.items())


def test_a_far_fit_resumes_in_the_middle(small, whole, tmp_path):
    """A link that breaks at the third step costs no step: the fit ends where the near fit ends."""
    _, near = whole
    path = campaign(small, name="far-resumed.toml", head='fit = "far"')
    with pytest.raises(CampaignStopped):
        run(path, tmp_path, "t-imm", failing("train.pull", 2, '"step": 2'))
    far = run(path, tmp_path, "t-imm")
    expected = next(r for r in near["ratios"] if r["method"] == "t-imm")["groups"]
    for name, values in far["ratios"][0]["groups"].items():
        assert values == pytest.approx(expected[name], abs=1e-6)


def test_another_run_reuses_contributions_whose_inputs_are_the_same(small, whole, tmp_path, caplog):
    """`--from` finds both contributions again; with another training length none fits."""
    earlier, results = whole
    caplog.set_level(logging.INFO, "fedmerge")
    again = run(campaign(small), tmp_path / "again", "t-imm", reuse=str(earlier))
    assert caplog.text.count("contribution taken from the store") == 2
    assert [r["dice"] for r in again["rows"]] == [r["dice"] for r in results["rows"] if r["method"] == "t-imm"]
    caplog.clear()
    longer = campaign(small, name="longer.toml")
    longer.write_text(longer.read_text().replace("steps = 6", "steps = 7"))
    run(longer, tmp_path / "longer", "t-imm", reuse=str(earlier))
    assert "taken from the store" not in caplog.text


def test_a_chain_starts_from_the_site_before_and_parallel_sites_from_the_ancestor(small, whole, tmp_path):
    """The parent's digest is the first site's P and norms in a chain, and the ancestor's side by side."""
    out, _ = whole

    def by_site(folder):
        found = [wire.read(p) for p in (folder / "server/contributions").iterdir()]
        return {c.site: c for c in found if c.fisher}

    chain = by_site(out)
    body = params.split(chain["north"].weights, chain["south"].fisher)[0]
    assert chain["north"].parent == chain["north"].ancestor == chain["south"].ancestor
    assert chain["south"].parent == params.digest(body)
    run(campaign(small, name="parallel.toml", head='schedule = "parallel"'), tmp_path, "mean")
    beside = by_site(tmp_path)
    assert beside["north"].parent == beside["south"].parent == beside["south"].ancestor


def test_a_fisher_covers_filters_and_norms_but_no_head(whole):
    """A contribution's Fisher has the names of P and of the norm parameters; weights have all names."""
    out, _ = whole
    for path in (out / "server/contributions").iterdir():
        c = wire.read(path)
        heads = [name for name in c.weights if name not in c.fisher]
        assert c.site == "pooled" or (heads and all(c.weights[h].shape[0] == 2 for h in heads))


def test_a_stored_contribution_stands_in_for_a_sites_training(small, whole, tmp_path):
    """A file gives the numbers of the training that made it; one from another ancestor is refused by name."""
    out, results = whole
    files = {wire.read(p).site: p for p in (out / "server/contributions").iterdir()}
    given = campaign(small, name="given.toml", south=f'contribution = "{files["south"]}"')
    again = run(given, tmp_path / "a", "t-imm")
    assert [r["dice"] for r in again["rows"]] == [r["dice"] for r in results["rows"] if r["method"] == "t-imm"]
    other = campaign(small, name="other.toml", head="seed = 5", south=f'contribution = "{files["south"]}"')
    with pytest.raises(Refused, match=r"south: ancestor expected sha256:.*, got sha256:"):
        run(other, tmp_path / "b", "t-imm")
    wrong = campaign(small, name="wrong.toml", south=f'contribution = "{files["north"]}"')
    with pytest.raises(Refused, match=r"south: expected this site's contribution .* got that of 'north'"):
        run(wrong, tmp_path / "c", "t-imm")


def test_a_given_ancestor_of_another_net_is_refused(small, whole, tmp_path):
    """[net] weights of a wider net: the file, the tensor, expected and got; of this net: it is the ancestor."""
    out, _ = whole
    model = out / "models/harbour/t-imm-seed0-chain0-n2.fine-tuned.safetensors"
    path = campaign(small, name="ancestor.toml")
    path.write_text(path.read_text().replace("depth = 2", f'depth = 2\nweights = "{model}"'))
    results = run(path, tmp_path / "a", "mean")
    assert results["campaign"]["net"]["weights"] == str(model)
    path.write_text(path.read_text().replace("base_filters = 2", "base_filters = 4"))
    with pytest.raises(Refused, match=r"fine-tuned\.safetensors: a checkpoint of another net: '.*' expected shape"):
        run(path, tmp_path / "b", "mean")


def test_a_policy_line_stands_against_what_it_forbids(small, tmp_path):
    """Weights that may not leave stop the campaign with the policy's line; unreceived merges leave no row."""
    text = campaign(small).read_text()
    path = small / "policy.toml"
    closed = (
        '[site.policy]\nroles = ["*"]\ncampaigns = ["*"]\nnets = ["*"]\nlabels = ["*"]\ntrust = ["*"]\nmin_cases = 1\n'
    )
    path.write_text(text.replace('[[site]]\nname = "south"', f'{closed}weights = false\n[[site]]\nname = "south"'))
    with pytest.raises(
        CampaignStopped, match=r"north failed in train\.contribute: north: policy line 'weights = false'"
    ):
        run(path, tmp_path / "a")


def test_a_policy_that_was_tightened_holds_for_what_was_made_before(small, tmp_path):
    """A contribution that left yesterday does not leave again today, when the policy forbids it."""
    text = campaign(small).read_text()
    lists = "".join(f'{key} = ["*"]\n' for key in ("roles", "campaigns", "nets", "labels", "trust"))
    loose = f'[site.policy]\n{lists}min_cases = 1\nmax_bytes = "*"\n'
    own = f'{loose}max_contributions = 1\nfisher = "full"\nweights = true\n[[site]]\nname = "south"'
    path = small / "tightened.toml"
    path.write_text(text.replace('[[site]]\nname = "south"', own))
    run(path, tmp_path, "mean")
    path.write_text(path.read_text().replace("weights = true", "weights = false"))
    for stored in (tmp_path / "server/contributions").iterdir():
        stored.unlink()
    with pytest.raises(CampaignStopped, match="policy line 'weights = false'"):
        run(path, tmp_path, "mean")
    path.write_text(path.read_text().replace("weights = false", "weights = true"))
    run(path, tmp_path, "mean")  # the same contribution again is not a second one
    path.write_text(path.read_text().replace("steps = 6", "steps = 7"))
    with pytest.raises(CampaignStopped, match="policy line 'max_contributions = 1': 1 have left"):
        run(path, tmp_path, "mean")


def test_no_metric_leaves_a_target_whose_policy_keeps_them(small, tmp_path):
    """With metrics = false: no Dice, no learning curve, no loss, and the campaign runs all the same."""
    text = campaign(small).read_text()
    path = small / "silent.toml"
    silent = (
        '[site.policy]\nroles = ["*"]\ncampaigns = ["*"]\nnets = ["*"]\nlabels = ["*"]\nweights = true\n'
        'trust = ["server"]\nfisher = "full"\nmin_cases = 1\nmax_bytes = "*"\nmax_contributions = "*"\n'
    )
    path.write_text(text.replace("[[site]]", f"{silent}[[site]]").replace(silent, "", 1) + silent)
    results = run(path, tmp_path, "none,t-imm")
    assert all((row["dice"], row["cases"], row["curve"]) == (None, [], []) for row in results["rows"])
    assert results["forgetting"] == []


def test_without_validation_cases_the_last_step_is_kept(small, tmp_path):
    """No validation, no early stopping: what is fine-tuned is not the untrained start, and there is no curve."""
    path = small / "unvalidated.toml"
    path.write_text(campaign(small).read_text().replace("validate = 2", "validate = 0"))
    results = run(path, tmp_path, "none")
    start, end = results["rows"]
    assert start["cases"] != end["cases"]
    assert end["curve"] == []
    assert end["target_steps"] == 9


def test_steps_that_patience_saved_are_not_counted(small, tmp_path):
    """A fine-tuning that stops early reports the steps that it made."""
    path = small / "patient.toml"
    path.write_text(campaign(small).read_text().replace("lr = 3e-3", "lr = 1e-9\npatience = 1"))
    (_, end) = run(path, tmp_path, "none")["rows"]
    assert end["target_steps"] == end["curve"][-1][0] < 9


def test_pooled_without_pooled_labels_is_one_sentence_before_any_training(small, tmp_path):
    """The reference needs the other labels at every source; nothing is trained when they are missing."""
    path = small / "unpooled.toml"
    path.write_text(campaign(small).read_text().replace("pooled_labels = { ball = [1], cube = [2] }\n", "", 1))
    with pytest.raises(ConfigError, match=r"north.*pooled_labels"):
        run(path, tmp_path, "pooled")
    assert not (tmp_path / "server/contributions").exists()


def test_a_sites_exception_text_stays_at_the_site(small, tmp_path):
    """A damaged file stops the campaign before training; the server learns a reference, the site's log the file."""
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(small, copy)
    bad = copy / "south/imagesTr/south_003.nii.gz"
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(
        CampaignStopped, match=r"south failed in query\.describe: the log of south has the reason"
    ) as stopped:
        run(campaign(copy), tmp_path / "out")
    assert "south_003" not in str(stopped.value)
    assert "south_003" in (tmp_path / "out/sites/south/site.log").read_text()
    assert not (tmp_path / "out/server/contributions").exists()


def test_a_deployed_campaign_shows_no_case_id_and_keeps_the_model_at_home(small, tmp_path, monkeypatch):
    """With each site's own agent: pseudonyms in the results, no fine-tuned model, no forgetting, no id in any file
    of the server's.
    """
    monkeypatch.setenv("FEDMERGE_BUNDLE", agents.BUNDLE)
    path, data = agents.plan(small, tmp_path / "plan")
    homes = agents.homes(tmp_path / "homes", small, data)
    configs = [{"agent": str(home.socket)} for home in homes.values()]
    with ExitStack() as stack:
        for home in homes.values():
            stack.enter_context(agents.in_thread(home))
        results = run(path, tmp_path / "out", "none,t-imm", node_configs=configs, names=tuple(homes))
    cases = {c["case"] for row in results["rows"] for c in row["cases"]}
    assert len(cases) == 3
    assert all(case.startswith("case-") for case in cases)
    assert not list((tmp_path / "out").rglob("*.fine-tuned.safetensors"))
    assert results["forgetting"] == []
    for file in (tmp_path / "out").rglob("*"):
        assert file.is_dir() or not any(
            f"{name}_00".encode() in file.read_bytes() for name in ("north", "south", "harbour")
        )
