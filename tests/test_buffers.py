"""Batch norm in a campaign: refused by its layer's name, or re-estimated on the target's images."""

import pytest
from small import campaign, hospitals
from test_campaign import run
from torch import nn

from fedmerge import nets
from fedmerge.errors import NetError


class Small(nn.Module):
    """Two convs with a batch norm between them."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.body = nn.Conv3d(in_channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm3d(4)
        self.head = nn.Conv3d(4, out_channels, 1)

    def forward(self, x):
        """Logits."""
        return self.head(self.norm(self.body(x)).relu())


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Hospitals, and the net `batchy` in the table of nets."""

    def batchy(in_channels: int, out_channels: int, *, dims: int = 3) -> nn.Module:
        return Small(in_channels, out_channels)

    monkeypatch.setitem(nets.NETS, "batchy", batchy)
    folder = hospitals(tmp_path / "hospitals", cases=7)

    def write(head: str):
        path = campaign(folder, head=head)
        text = path.read_text().replace('name = "isensee2017"\nbase_filters = 2\ndepth = 2', 'name = "batchy"')
        path.write_text(text)
        return path

    return write


def test_a_net_with_running_statistics_is_refused_by_its_layers_name(small, tmp_path):
    """The plan's default stops before a step is trained, with the name of the batch norm."""
    with pytest.raises(NetError, match="norm"):
        run(small(""), tmp_path / "out", "t-imm")
    assert not (tmp_path / "out/server/contributions").exists()


def test_statistics_are_re_estimated_where_the_campaign_says_so(small, tmp_path):
    """With buffers = "re-estimate" all kinds of rows run, near and far agree, and the norm is no part of P."""
    near = run(small('buffers = "re-estimate"'), tmp_path / "near", "none,mean,t-imm")
    assert {r["status"] for r in near["rows"]} == {"ok"}
    assert set(near["ratios"][1]["groups"]) == {"body"}
    far = run(small('buffers = "re-estimate"\nfit = "far"'), tmp_path / "far", "t-imm")
    expected = next(r for r in near["ratios"] if r["method"] == "t-imm")["groups"]["body"]
    assert far["ratios"][0]["groups"]["body"] == pytest.approx(expected, abs=1e-6)
