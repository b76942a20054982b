"""What campaign files of tests have in common: a tiny net, a few steps, a source and a target."""

MEMBERS = """\
[[site]]
name = "north"
role = "source"
[[site]]
name = "harbour"
role = "target"
"""


def trainings(*, patch=(8, 8, 8), depth=2, net="", train="steps = 2", adapt="steps = 2", finetune="steps = 2"):
    """The tables of the net and of its trainings; `net` is a line more of its table."""
    return f"""\
[net]
name = "isensee2017"
base_filters = 2
depth = {depth}
patch = {list(patch)}
{net}
[train]
{train}
[adapt]
{adapt}
[finetune]
{finetune}
"""
