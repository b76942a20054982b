"""The dashboards of a real consortium while a campaign runs: the coordinator's, and a hospital's own."""

import browser
import dashboards
import pytest
from browser import until
from deployed import Deployment
from test_dashboard_browser import PATIENCE_S, points, says, simulation

from server import runs


@pytest.fixture
def deployment(tmp_path):
    """A server and three hospitals, all up."""
    made = Deployment(tmp_path, whole=simulation(tmp_path / "data", steps=600))
    made.join_all()
    made.start_all()
    try:
        yield made
    finally:
        made.stop()


@pytest.mark.slow
def test_coordinator_and_hospital_each_see_their_own_view(deployment):
    """The coordinator sees who works and what moved, and no curve of a source; the source sees its training."""
    runs.submit(deployment.server, deployment.plan, "small", {"methods": "none,t-imm"})
    with (
        browser.chromium() as chromium,
        dashboards.serve(deployment.server.folder) as ours,
        dashboards.serve(deployment.sites["north"].folder) as theirs,
        dashboards.page(chromium, ours.address) as (coordinator, complaints),
        dashboards.page(chromium, theirs.address) as (hospital, more),
    ):
        bar = '.card[data-state="working"] progress:visible'
        until(hospital, lambda: hospital.locator(bar).count(), PATIENCE_S)
        until(coordinator, lambda: coordinator.locator(bar).count(), PATIENCE_S)
        assert "north, which trains for the consortium" in says(coordinator, "words")
        until(hospital, lambda: points(hospital) > 1, PATIENCE_S)
        assert coordinator.locator("#chart polyline").count() == 0
        assert "online" in coordinator.locator(".card").first.inner_text()
        assert "is on the roster" in says(hospital, "facts")
        until(coordinator, lambda: says(coordinator, "state").startswith("done"), PATIENCE_S)
        until(coordinator, lambda: points(coordinator) > 1, PATIENCE_S)
        assert coordinator.locator('input[value="validation"]').is_checked()
        assert "harbour: t-imm, seed 0, chain 0" in says(coordinator, "legend")
        assert "a trained model" in says(hospital, "left-table")
        assert coordinator.locator("#left").is_hidden()
    assert (complaints, more) == ([], [])
