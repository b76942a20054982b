"""A contribution's card, in Markdown: at its own site, and in the store of a server that reads it.

    contributions/KEY.safetensors    the contribution
    cards/KEY.md                     its card

It says what the contribution says of itself, what was asked for, and what the site answered: nothing that either side
does not have anyway, and no card is sent. Whoever finds the file in a backup years later knows what it is.
"""

from pathlib import Path

from fedmerge import __version__, acceptance, cards, tasks, whole, wire
from fedmerge.contribution import Contribution
from fedmerge.records import Settings

FISHER = {
    "sampled": "diagonal, with labels sampled from the model",
    "observed": "diagonal, with the cases' own labels (the empirical Fisher)",
    "flat": "ones in its place",
    "none": "none",
}
REUSE = {
    "never": "in the run that asked for it, and never again",
    "campaign": "when that run is resumed",
    "consortium": "in other runs of the consortium too",
}
EVIDENCE = (
    "No score of this model alone is kept here. `results.json` of a run has what the targets' policies tell of the "
    "models that were merged from it."
)
LIMITS = (
    "It is one hospital's part of a merge. It is no medical device, and by itself it was tested on nobody's patients.",
    "It knows the labels and the channels above, of this hospital's scanners and patients.",
    "The merge reads it through the net's own names: another net cannot take it.",
)


def path_of(contribution: Path) -> Path:
    """Where the card of a contribution's file is, or will be."""
    return contribution.parent.with_name("cards") / f"{contribution.stem}.md"


def write(contribution: Path, asked: tasks.Contribute, told: tasks.Trained, reuse: str) -> None:
    """Write the card of a contribution's file to its place; see `markdown`."""
    text = markdown(wire.read(contribution), acceptance.name_of(contribution), asked, told, reuse)
    whole.write(path_of(contribution), text)


def markdown(made: Contribution, digest: str, asked: tasks.Contribute, told: tasks.Trained, reuse: str) -> str:
    """The card of a contribution.

    Args:
        made: the contribution.
        digest: SHA-256 of its file, by which results and models name it.
        asked: the task that it was made for.
        told: what the site answered.
        reuse: the line of the site's policy.
    """
    net = ", ".join(
        f"{key} {value}" for key, value in made.net.items() if key not in ("name", "in_channels", "out_channels")
    )
    steps, batch = asked.settings["steps"], asked.settings.get("batch_size", Settings.batch_size)
    parts = [
        (
            "What it is",
            cards.table(
                [
                    ("net", f"{made.net.get('name')}: {net}"),
                    ("parameters", f"{sum(value.numel() for value in made.weights.values()):,}"),
                    ("Fisher", FISHER[made.fisher_labels]),
                    ("digest of the file", f"`{digest}`"),
                    ("reads", ", ".join(made.channels)),
                    ("labels", ", ".join(made.labels)),
                    ("written by", f"fedmerge {__version__}"),
                ]
            ),
        ),
        (
            "How it was made",
            cards.table(
                [
                    ("site", f"{made.site}, {made.cases} training cases"),
                    ("campaign", f"{asked.campaign}, chain {asked.chain}, trust {asked.trust}"),
                    ("training", f"{asked.way}, {steps} steps of {batch} cases"),
                    ("began from", f"`{made.parent}`"),
                    ("common ancestor", f"`{made.ancestor}`"),
                    ("key of the task", f"`{made.settings}`"),
                ]
            ),
        ),
        ("Privacy", [privacy(asked, told)]),
        ("Evidence", [EVIDENCE]),
        ("Limits", [f"- {line}" for line in LIMITS]),
        ("Licence", [f"None has been stated. Its site lets it be used {REUSE[reuse]}."]),
    ]
    body = "\n\n".join(f"## {title}\n\n" + "\n".join(lines) for title, lines in parts)
    return f"# Contribution of {made.site}\n\n{body}\n"


def privacy(asked: tasks.Contribute, told: tasks.Trained) -> str:
    """What the weights may tell of a patient, in a sentence or two."""
    if asked.private:
        return (
            f"Trained with differential privacy: epsilon {told.epsilon:.3g} at delta {told.delta:g} for each patient, "
            "for this training alone; what else the site has sent adds to it."
        )
    return (
        "Trained without noise: nothing bounds what the weights tell of one patient, and who holds a patient's images "
        "can try whether they were among the training cases."
    )
