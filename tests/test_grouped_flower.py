"""A campaign of masked sums through Flower's own runtime: the numbers of the in-process engine, under other masks."""

import pytest
from made_groups import THREE, consortium, model, plan
from test_flower import both


@pytest.mark.slow
def test_masked_sums_through_flowers_runtime_are_those_of_the_inprocess_engine(tmp_path):
    """Rows and the group's model are equal to the last digit; the messages share no word, since every key is fresh."""
    path = plan(consortium(tmp_path / "hospitals", THREE), [list(THREE)])
    (near, far), folders = both(tmp_path, path, "imm-mode,t-imm", nodes=4)
    assert near["rows"] == far["rows"]
    assert {row["status"] for row in near["rows"]} == {"ok"}
    assert model(folders[0], "group-1") == model(folders[1], "group-1")
    for site in THREE:
        here, there = (next((out / "server/summed").glob(f"*/{site}.masked")).read_bytes() for out in folders)
        assert len(here) == len(there)
        assert here[-4096:] != there[-4096:]
