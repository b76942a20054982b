"""Bad sources on purpose: what they send is well-formed, and what was meant."""

import pytest
import torch
from small import campaign, hospitals

from fedmerge import params, results, wire
from server import inprocess
from server.app import app as server_app
from sites import poison, records
from sites.app import app as client_app


def sent(folder, control, methods="imm-mode"):
    """What south sends, with a control or without, and the results of the tiny campaign."""
    path = campaign(folder, name=f"{control}.toml", head="max_change = 5.0")
    if control:
        path.write_text(path.read_text().replace('folder = "south"', f'folder = "south"\ncontrol = "{control}"'))
    out = folder / f"out-{control}"
    inprocess.run(server_app, client_app, {"campaign": str(path), "out": str(out), "methods": methods, "workers": 1}, 3)
    made = {c.site: c for c in map(wire.read, (out / "server/contributions").iterdir())}
    return made["north"], made["south"], results.read(out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The hospitals."""
    return hospitals(tmp_path_factory.mktemp("poison"))


@pytest.fixture(scope="module")
def clean(folder):
    """Without a control."""
    return sent(folder, "")


def test_the_controls_are_those_that_a_file_may_name():
    """And two that are no matter of what is sent."""
    assert {*records.CONTROLS} == {*poison.CONTROLS, "shuffled-labels", "other-start"}


def test_without_a_control_nothing_changes(clean):
    """The very same record."""
    north, south, _ = clean
    start = params.split(north.weights, south.fisher)[0]
    assert poison.poisoned(None, south, start, 0) is south
    assert poison.poisoned("shuffled-labels", south, start, 0) is south


def test_a_change_thirty_times_as_far_is_noticed(folder, clean):
    """From where it started, head and Fisher as they were; with two sources it is reported, and the rows go on."""
    north, south, _ = clean
    _, far, found = sent(folder, "change-x30")
    for name in south.fisher:
        expected = north.weights[name] + 30 * (south.weights[name] - north.weights[name])
        torch.testing.assert_close(far.weights[name], expected)
    heads = [name for name in south.weights if name not in south.fisher]
    assert all(torch.equal(far.weights[name], south.weights[name]) for name in heads)
    assert params.digest(far.fisher) == params.digest(south.fisher)
    (told,) = [one for one in found["changes"] if one["site"] == "south"]
    before = next(one for one in clean[2]["changes"] if one["site"] == "south")
    assert told["verdict"] == "reported"
    assert told["change"] == pytest.approx(30 * before["change"], rel=1e-4)
    assert {row["status"] for row in found["rows"]} == {"ok"}


@pytest.mark.parametrize(("control", "size"), [("random-giant", 1e20), ("random-flat", 1.0)])
def test_random_weights_have_the_spread_of_trained_ones(folder, clean, control, size):
    """Tensor by tensor, and nothing else of them; the server takes them in, since they are well-formed."""
    _, south, _ = clean
    _, drawn, found = sent(folder, control)
    assert all((value == size).all() for value in drawn.fisher.values())
    for name, value in south.weights.items():
        if value.numel() > 200:
            assert drawn.weights[name].std().item() == pytest.approx(value.std().item(), rel=0.25)
            alike = torch.corrcoef(torch.stack([drawn.weights[name].flatten(), value.flatten()]))[0, 1]
            assert abs(alike) < 0.3
    assert {row["status"] for row in found["rows"]} == {"ok"}
