"""A contribution's card at its site and at the server: each from what that side has, and none of them sent."""

import shutil
from dataclasses import replace

import made_contributions
import pytest
from commandline import command
from small import campaign, hospitals

from fedmerge import acceptance, contribution_cards, results, tasks, wire
from server import inprocess, withdrawal
from server.app import app as server_app
from server.record import Witness
from sites.app import app as client_app


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The folder of a campaign whose second source lets less of its Fisher go than it keeps."""
    folder = tmp_path_factory.mktemp("run")
    plan = campaign(hospitals(folder / "data", cases=7))
    text = plan.read_text()
    begin = text.index('[[site]]\nname = "harbour"')
    policy = (
        'roles = ["source"]\ncampaigns = ["*"]\nnets = ["*"]\nlabels = ["*"]\nmin_cases = 2\nweights = true\n'
        'trust = ["*"]\nfisher = "none"\nreuse = "campaign"\nmax_contributions = "*"\nmax_bytes = "*"\n'
    )
    plan.write_text(f"{text[:begin]}[site.policy]\n{policy}{text[begin:]}")
    config = {"campaign": str(plan), "out": str(folder / "out"), "methods": "mean", "workers": 1}
    inprocess.run(server_app, client_app, config, 3, 1)
    return folder / "out"


def both(out, site):
    """The files of a site's contribution: its own, and the server's."""
    (own,) = (out / f"sites/{site}/contributions").glob("*.safetensors")
    return own, out / "server/contributions" / own.name


def test_each_side_has_a_card_of_what_lies_there(out):
    """Cases, training, digests as the results have them, and where the policy lets it be used."""
    made = {name for row in results.read(out)["rows"] for name in row.get("contributions", {}).values()}
    for site, use, here, there in (
        (
            "north",
            "in other runs of the consortium too",
            "diagonal, with labels sampled",
            "diagonal, with labels sampled",
        ),
        ("south", "when that run is resumed", "diagonal, with labels sampled", "ones in its place"),
    ):
        for path, fisher in zip(both(out, site), (here, there)):
            text, c = contribution_cards.path_of(path).read_text(), wire.read(path)
            for line in (
                f"# Contribution of {site}\n",
                f"| parameters | {sum(value.numel() for value in c.weights.values()):,} |",
                f"| Fisher | {fisher}",
                f"| digest of the file | `{acceptance.name_of(path)}` |",
                f"| site | {site}, 5 training cases |",
                "| campaign | small, chain 0, trust server |",
                "| training | plain, 6 steps of 2 cases |",
                f"| began from | `{c.parent}` |",
                f"Its site lets it be used {use}.",
                "Trained without noise",
            ):
                assert line in text
    assert {acceptance.name_of(both(out, site)[1]) for site in ("north", "south")} == made


def test_no_card_is_sent_and_none_holds_what_the_contribution_does_not(out):
    """The server's are made there; no case, no folder is named in any."""
    found = list(out.rglob("cards/*.md"))
    assert len(found) == 4
    cases = {case["case"] for row in results.read(out)["rows"] for case in row["cases"]} | {"north_0", "south_0"}
    for path in found:
        text = path.read_text()
        assert not any(case in text for case in cases)
        assert str(out.parent) not in text
    own, there = (contribution_cards.path_of(path).read_text() for path in both(out, "south"))
    assert own != there


def test_inspect_names_the_card(out, tmp_path, capsys):
    """Where there is one."""
    path = both(out, "north")[1]
    assert command("inspect", path) == 0
    assert str(contribution_cards.path_of(path)) in "".join(capsys.readouterr().out.split())
    alone = tmp_path / "a" / path.name
    alone.parent.mkdir()
    alone.write_bytes(path.read_bytes())
    assert command("inspect", alone) == 0
    assert "cards" not in capsys.readouterr().out


def test_noise_is_in_the_card_with_its_bound(out):
    """Of this training alone; without noise it says that there is no bound."""
    text = contribution_cards.path_of(both(out, "north")[0]).read_text()
    assert "epsilon" not in text
    asked = tasks.Contribute(
        key="k", campaign="small", chain=0, net=None, settings={"steps": 6}, seed=0, fisher="none", fisher_cases=0,
        ancestor="a", parent="b", threads=1, epsilon=4.0, delta=1e-5,
    )  # fmt: skip
    told = tasks.Trained(3, 6, 1.0, None, epsilon=3.21, delta=1e-5, noise_multiplier=1.0, rate=0.5)
    found = contribution_cards.markdown(made_contributions.contribution(), "sha256:x", asked, told, "never")
    assert "Trained with differential privacy: epsilon 3.21 at delta 1e-05 for each patient" in found
    assert "in the run that asked for it, and never again" in found
    plain = replace(asked, epsilon=0.0)
    assert "Trained without noise" in contribution_cards.markdown(
        made_contributions.contribution(), "sha256:x", plain, told, "never"
    )


def test_a_withdrawal_takes_the_card_along(out, tmp_path):
    """Nothing is left in the store that tells of it."""
    shutil.copytree(out, tmp_path / "runs/one/out")
    found = withdrawal.look(tmp_path / "runs", "north")
    (taken,) = found.taken
    card = contribution_cards.path_of(taken.path)
    assert card.exists()
    withdrawal.withdraw(found, tmp_path / "runs", "2030-01-02T03:04:05Z", Witness())
    assert not card.exists()
    assert not taken.path.exists()
