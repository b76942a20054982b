"""The door in: what a task may name, and whether the site's policy takes part in it at all.

Names in a task become files in the site's working folder, so they are checked letter by letter before anything else.
"""

import re
from collections.abc import Iterator
from typing import Any

from fedmerge import nets
from fedmerge.errors import ConfigError, Refused
from sites.records import Site

KEY = re.compile(r"[0-9a-f]{24}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")
RUN = re.compile(r"|[0-9a-f]{32}")
NAMES = {
    "key": KEY, "run": RUN, "digest": DIGEST, "after": DIGEST, "ancestor": DIGEST, "parent": DIGEST, "digests": DIGEST,
    "before": DIGEST, "label": LABEL,
}  # fmt: skip
ROLE = {
    "mask": "source", "sum": "target",
    "contribute": "source", "seal": "source", "open": "target", "judge": "target", "pooled": "target",
    "admit": "target", "adapt": "target", "pull": "target", "finetune": "target",
}  # fmt: skip


class Declined(Refused):
    """A refusal whose sentence may leave the site: it speaks of the policy and of the task, never of a file."""


def check(site: Site, action: str, task: dict[str, Any]) -> None:
    """Refuse a task that names impossible things, or that the site's policy does not take part in.

    Args:
        site: who is asked.
        action: the second half of the message type, such as `"contribute"`.
        task: the task as it came; a task of one step holds its row under `row`.

    Raises:
        Declined: says which name or which line of the policy.
    """
    facts = task.get("row", task)
    if not isinstance(facts, dict):
        raise Declined(f"{site.name}: the task's row expected a table, got {type(facts).__name__}")
    for field, pattern in NAMES.items():
        values = facts.get(field, [])
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str) or not pattern.fullmatch(value):
                raise Declined(f"{site.name}: the task's {field} expected {pattern.pattern}, got {str(value)[:80]!r}")
    step = task.get("step", 0)
    if not isinstance(step, int) or step < 0:
        raise Declined(f"{site.name}: the task's step expected a whole number, got {str(step)[:80]!r}")
    _allow(site, action, facts)


def _allow(site: Site, action: str, facts: dict[str, Any]) -> None:
    """The lines of the policy on roles, campaigns, labels and nets."""
    policy = site.policy
    wanted = ROLE.get(action, site.role)
    if wanted != site.role:
        raise Declined(f"{site.name}: '{action}' is for a {wanted}, and this site is a {site.role}")
    _listed(site, "roles", policy.roles, site.role)
    _listed(site, "campaigns", policy.campaigns, facts.get("campaign"))
    for label in site.data.labels:
        _listed(site, "labels", policy.labels, label)
    for settings in _nets(facts):
        check_net(site, settings)


def check_net(site: Site, settings: dict[str, Any]) -> None:
    """Refuse a net that the policy does not list, or whose package is another one here. Nothing of it is imported.

    Raises:
        Declined: names the net, and what of its package was expected and is here.
    """
    name, asked = settings.get("name"), settings.get("package", "")
    _listed(site, "nets", site.policy.nets, name)
    try:
        here = nets.stamp(name) if isinstance(name, str) else ""
    except ConfigError as error:
        raise Declined(f"{site.name}: {error}") from None
    if asked != here:
        want, got = (f"of {text}" if text else "of no other package" for text in (str(asked)[:200], here))
        raise Declined(f"{site.name}: the net '{name}' expected {want}, and the one here is {got}")


def _nets(facts: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - a task as it came
    """The settings of every net that a task names, however deep: of the site, and of those whose files it opens."""
    if isinstance(facts, dict):
        if isinstance(settings := facts.get("settings"), dict) and ("name" in settings or "in_channels" in facts):
            yield settings
        for value in facts.values():
            yield from _nets(value)


def _listed(site: Site, line: str, allowed: tuple[str, ...] | None, value: Any) -> None:  # noqa: ANN401 - as it came
    if allowed is not None and value not in allowed:
        raise Declined(f"{site.name}: policy line '{line}' does not list '{value}'")
