"""The same campaign in one process: its file out of the hospitals' own files, and whether the numbers are the same.

    python same.py trust MODE CAMPAIGN.toml > plan.toml
    python same.py campaign CAMPAIGN.toml HOME HOME HOME > simulated.toml
    python same.py compare OUT OUT

`compare` takes the folder of the hospitals' run first, that of the simulation second.
"""

import json
import sys
import tomllib
from pathlib import Path

import tomli_w


def with_trust(mode, plan):
    """The coordinator's plan with another answer to who can read contributions, as TOML."""
    table = tomllib.loads(plan.read_text())
    table["campaign"]["trust"] = mode
    return tomli_w.dumps(table)


def campaign(plan, homes):
    """The coordinator's plan with the `data` and `policy` of each hospital's own site.toml, as TOML."""
    table = tomllib.loads(plan.read_text())
    files = {tomllib.loads((home / "site.toml").read_text())["site"]["name"]: home for home in homes}
    for site in table["site"]:
        home = files[site["name"]]
        own = tomllib.loads((home / "site.toml").read_text())
        site |= {"data": own["data"] | {"folder": str((home / own["data"]["folder"]).absolute())}}
        site |= {"policy": own["policy"]}
    return tomli_w.dumps(table)


def numbers(out):
    """What two runs of a campaign have in common: all but times, traffic, and the pseudonyms of cases."""
    found = json.loads((out / "results.json").read_text())
    rows = []
    for row in found["rows"]:
        dice = [case["dice"] for case in row["cases"]]
        kept = {key: value for key, value in row.items() if key not in ("seconds", "cases")}
        rows.append(kept | {"cases": sorted(map(str, dice))})
    return {"rows": rows, "ratios": found["ratios"], "forgetting": found["forgetting"]}


def sealed(out):
    """Whether nobody but the target could read a contribution, so that its ratios are at the target."""
    return json.loads((out / "results.json").read_text())["campaign"]["campaign"]["trust"] != "server"


def compare(deployed, simulated):
    """End with 1 and the first difference where two runs have not the same numbers.

    A simulation measures the sources' models on each other's tasks, too; hospitals do not show them to each other.
    """
    a, b = numbers(deployed), numbers(simulated)
    b["forgetting"] = [score for score in b["forgetting"] if score in a["forgetting"]]
    for part in a:
        if len(a[part]) != len(b[part]):
            sys.exit(f"{part}: {len(a[part])} in {deployed}, {len(b[part])} the same in {simulated}")
        for x, y in zip(a[part], b[part]):
            if x != y:
                sys.exit(f"{part} differ:\n  {x}\n  {y}")
    points = sum(len(row["curve"]) for row in a["rows"])
    if (
        not a["rows"]
        or not points
        or bool(a["ratios"]) == sealed(deployed)
        or any(row["status"] != "ok" for row in a["rows"])
    ):
        sys.exit(f"{deployed}: expected rows with curves and ratios, all ok, got {a}")
    print(
        f"the same to the last digit: {len(a['rows'])} rows with {points} points of their curves, "
        f"{len(a['ratios'])} sets of ratios, {len(a['forgetting'])} scores on the sources' own tasks"
    )


if __name__ == "__main__":
    word, *given = sys.argv[1:]
    paths = [Path(name) for name in given]
    if word == "trust":
        sys.stdout.write(with_trust(given[0], paths[1]))
    elif word == "campaign":
        sys.stdout.write(campaign(paths[0], paths[1:]))
    else:
        compare(*paths)
