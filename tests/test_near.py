"""An adaptation beside the data that is interrupted goes on from its last checkpoint, with the same numbers."""

import json

import pytest
from small import campaign, hospitals

from fedmerge.errors import CampaignStopped
from server import inprocess
from server.app import app as server_app
from sites import near, progress, target
from sites.app import app as client_app


def run(folder, methods):
    """The tiny campaign, begun or gone on with; its rows without seconds."""
    config = {"campaign": str(campaign(folder)), "out": str(folder / "out"), "methods": methods, "workers": 1}
    inprocess.run(server_app, client_app, {**config, "resume": True}, 3, 1)
    found = json.loads((folder / "out/results.json").read_text())
    return [{**row, "seconds": 0} for row in found["rows"]], found["ratios"]


@pytest.mark.parametrize("method", ["t-imm", "imm-mode+warm-up"])
def test_an_adaptation_goes_on_where_it_was_interrupted(tmp_path, monkeypatch, method):
    """It dies in the fourth of four steps, with a checkpoint after each two: then steps three and four are done."""
    monkeypatch.setattr(near, "every", lambda steps: 2)
    done = []

    def report(who, what, step, total):
        if what.startswith("adapting"):
            done.append(step)
            if len(done) == 4:
                raise OSError("the power is off")
        progress.report(who, what, step, total)

    quiet = run(hospitals(tmp_path / "quiet"), method)
    monkeypatch.setattr(target, "report", report)
    broken = hospitals(tmp_path / "broken")
    with pytest.raises(CampaignStopped, match="harbour"):
        run(broken, method)
    assert list(broken.rglob("near-2.json"))
    assert run(broken, method) == quiet
    assert done == [1, 2, 3, 4, 3, 4]
    assert not list(broken.rglob("near-*"))
