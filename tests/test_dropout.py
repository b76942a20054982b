"""Dropout from a generator of its own: the share, the mean, and which kinds there are."""

import pytest
import torch
from torch import nn

from fedmerge import dropout
from fedmerge.errors import NetError


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout2d])
def test_dropout_keeps_its_share_and_its_mean(kind):
    """With p = 0.25 a quarter is zero and the rest is 4/3; whole channels where the kind says so."""
    layers = nn.Sequential(kind(0.25))
    generator = torch.Generator().manual_seed(0)
    with dropout.drawn_from(dropout.active(layers), generator):
        y = layers(torch.ones(40, 50, 4, 4))
    assert {round(v, 4) for v in y.unique().tolist()} == {0.0, 1.3333}
    assert y.mean().item() == pytest.approx(1, abs=0.05)
    if kind is nn.Dropout2d:
        assert torch.equal(y, y[..., :1, :1].expand_as(y))
    assert "forward" not in vars(layers[0])


def test_dropout_of_an_unknown_kind_is_refused():
    """Alpha dropout draws from the global generator, and the run could not be resumed."""
    with pytest.raises(NetError, match="'0' is a AlphaDropout"):
        dropout.active(nn.Sequential(nn.AlphaDropout(0.1)))
