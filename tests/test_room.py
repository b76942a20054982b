"""The estimate of a site's disk: enough for what a campaign really leaves, and not ten times too much."""

import json

import pytest
from small import campaign, hospitals
from test_campaign import run

from fedmerge import nets
from server import plan
from sites import room


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """(folder of the sites, parameters of the net, bytes of the label maps that the target tests on)."""
    folder = hospitals(tmp_path_factory.mktemp("hospitals"))
    path = campaign(folder)
    text = path.read_text().replace("base_filters = 2", "base_filters = 12")  # weights outweigh headers and logs
    path.write_text(text)
    out = tmp_path_factory.mktemp("run")
    run(path, out, "none,imm-mode,t-imm")
    net = nets.on_meta(plan.read(path).net, in_channels=1, out_channels=3)
    maps = sorted((folder / "harbour/labelsTr").iterdir())[:3]
    return out / "sites", sum(p.numel() for p in net.parameters()), sum(m.stat().st_size for m in maps)


@pytest.mark.parametrize(("site", "role"), [("north", "source"), ("south", "source"), ("harbour", "target")])
def test_a_campaign_needs_no_more_than_was_said(left, site, role):
    """What lies in the work folder afterwards is below the estimate and above a fifth of it."""
    sites, parameters, maps = left
    used = sum(path.stat().st_size for path in (sites / site).rglob("*") if path.is_file())
    said = room.needed_bytes(role, room.Load(parameters, sources=2, rows=3), maps)
    assert said / 5 < used < said, json.dumps({"used": used, "said": said})


def test_what_is_free_is_asked_of_the_folder_that_will_be_made(tmp_path):
    """A folder that is not there yet lies on its parent's disk."""
    assert room.free_bytes(tmp_path / "a/b/c") == pytest.approx(room.free_bytes(tmp_path), rel=0.01)
