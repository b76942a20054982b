"""The colours of labels, of sites and of phases, as the page's variables; all of them stand here."""

LABELS = (
    "#e69f00", "#56b4e9", "#cc79a7", "#d55e00", "#009e73", "#0072b2", "#f0e442", "#8b5cf6",
    "#e11d48", "#14b8a6", "#a3e635", "#f97316", "#818cf8", "#f472b6", "#facc15",
)  # fmt: skip
"""Seen on grey images by day and by night, so they do not follow the page; Okabe and Ito's come first."""

SITES = tuple(f"var(--c{i})" for i in range(10))
PHASES = {
    "training": "var(--c0)",
    "contribution": "var(--c0)",
    "adaptation": "var(--c4)",
    "admission": "var(--c4)",
    "far step": "var(--c4)",
    "fine-tuning": "var(--c1)",
    "forgetting": "var(--c3)",
}
OTHER = "var(--grey)"


def label(k: int) -> str:
    """Of label k, from 1."""
    return LABELS[(k - 1) % len(LABELS)]


def site(k: int) -> str:
    """Of the k-th site, from 0."""
    return SITES[k % len(SITES)]


def phase(what: str) -> str:
    """Of a line of the timeline."""
    return PHASES.get(what, OTHER)
