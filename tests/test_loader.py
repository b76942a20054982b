"""Batches that are made ahead of the step that wants them."""

import pytest
import torch

from fedmerge.loader import Ahead


def test_batches_made_ahead_are_those_asked_for():
    """In order, after a jump, once each, none past the end; an error comes out where its batch is asked for."""
    made = []

    def make(step):
        made.append(step)
        if step == 4:
            raise ValueError("bad case")
        return torch.tensor([step]), torch.tensor([-step])

    ahead = Ahead(make, torch.device("cpu"), steps=8)
    assert [int(ahead(step)[0]) for step in (0, 1, 6, 7)] == [0, 1, 6, 7]
    assert sorted(made) == [0, 1, 2, 6, 7]
    ahead(3)
    with pytest.raises(ValueError, match="bad case"):
        ahead(4)
    ahead.close()
