"""The pages on methods and on the wire format say what the code does."""

import hashlib
import json
import re
import struct
from pathlib import Path

import pytest
import torch

from fedmerge import container, params, wire
from fedmerge.fusion import METHODS, OPTIONS
from fedmerge.fusion.rules import RULES

DOCS = Path(__file__).parent.parent / "docs"
GOLDEN = Path(__file__).parent / "golden"


def blocks(page, language):
    """The fenced blocks of a page."""
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def test_the_snippets_of_the_page_on_methods_run():
    """As they stand."""
    snippets = blocks("methods.md", "python")
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, "docs/methods.md", "exec"), {})  # noqa: S102


def test_the_table_of_methods_on_the_page_is_the_table_in_the_code():
    """Names, training, rules, grains, choosers, heads, norms and warm-up, row by row; and the options."""
    lines = [line for line in (DOCS / "methods.md").read_text().splitlines() if line.startswith("| `")]
    rows = [[cell.strip().strip("`") for cell in line.split("|")[1:-1]] for line in lines]
    options = [row[0] for row in rows if row[0].startswith("+")]
    assert options == [f"+{name}" for name in OPTIONS]
    rows = [row for row in rows if not row[0].startswith("+")]
    assert [row[0].removesuffix(":SITE") for row in rows] == list(METHODS)
    for row, method in zip(rows, METHODS.values()):
        assert row[1] == (method.training if method.sources not in ("none", "pooled", "candidates") else "")
        assert row[3] == (method.rule or "")
        assert row[4:6] == ([method.grain, method.chooser] if method.rule in RULES else ["", ""])
        assert row[6:8] == [f"{method.heads} / {method.norms}", "yes" if method.warm_up else "no"]


def test_the_example_of_the_wire_format_is_the_golden_file():
    """The page's header, with the golden file's numbers after it, is read as the golden file is."""
    (example,) = blocks("wire-format.md", "json")
    golden = (GOLDEN / "params-1.safetensors").read_bytes()
    size = struct.unpack("<Q", golden[:8])[0]
    assert json.loads(example) == json.loads(golden[8 : 8 + size])
    text = example.encode()
    read = wire.params_from_bytes(struct.pack("<Q", len(text)) + text + golden[8 + size :])
    assert read["a"].item() == 3.0
    assert read["b"].tolist() == [1.0, -0.5]


def test_the_keys_of_a_contribution_on_the_page_are_those_of_the_code():
    """All of them, in the golden file too."""
    text = (DOCS / "wire-format.md").read_text().split("exactly these keys:")[1].split("*Text*")[0]
    named = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    golden = container.read_header(GOLDEN / "contribution-1.safetensors")
    assert named == json.loads(golden.metadata["fedmerge"]).keys()


@pytest.mark.parametrize("number", [container.MAX_HEADER, container.MAX_DIMENSIONS, wire.MAX_NAME, wire.MAX_TEXT])
def test_the_limits_on_the_page_are_those_of_the_code(number):
    """Header, dimensions, names and text."""
    assert re.search(rf"\b{number}\b", (DOCS / "wire-format.md").read_text())


def test_a_digest_is_made_as_the_page_says():
    """Name, zero, shape as a tuple, zero, numbers; in the order of the names."""
    parts = b"a\0()\0" + struct.pack("<f", 3.0) + b"b\0(2,)\0" + struct.pack("<2f", 1.0, -0.5)
    made = params.digest({"b": torch.tensor([1.0, -0.5]), "a": torch.tensor(3.0)})
    assert made == "sha256:" + hashlib.sha256(parts).hexdigest()
