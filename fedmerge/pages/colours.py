"""The colours of sites and of phases, as the page's variables; those of labels are `fedmerge.colours`."""

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


def site(k: int) -> str:
    """Of the k-th site, from 0."""
    return SITES[k % len(SITES)]


def phase(what: str) -> str:
    """Of a line of the timeline."""
    return PHASES.get(what, OTHER)
