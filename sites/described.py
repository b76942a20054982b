"""What a site's folder was read as, in a sentence: cases, patients, modalities, what the values of its maps mean."""

from collections import Counter

from fedmerge.errors import DataError
from sites import cases, labels
from sites.looking import Tally
from sites.records import Site


def layout(site: Site, seen: Tally) -> str:
    """The sentence.

    Args:
        site: whose folder.
        seen: what `preflight.check` saw in the files.

    Raises:
        FedmergeError: the folder is not there or holds nothing, or `cases` does not fit it.
    """
    complete, problems = cases.scan(site.data)
    if "" in problems:
        raise DataError(problems[""])
    found = complete if problems else cases.select(complete, site.data.cases)
    patients = {one.patient for one in found}
    who = "" if None in patients else f" of {_count(len(patients), 'patient')}"
    words = [
        f"{_count(len(found), 'case')}{who} in the layout '{site.data.layout}'",
        "modalities " + ", ".join(cases.modalities(site.data)),
    ]
    if problems:
        words[0] += f", and {len(problems)} that cannot be used"
    if site.data.layout == "classes":
        groups = Counter(one.group for one in found)
        words.append("pictures " + ", ".join(f"{count} {name}" for name, count in groups.items()))
    elif seen.values:
        words.append("label values " + "; ".join(_meanings(site, seen.values)))
    return f"{site.name}: " + "; ".join(words)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _meanings(site: Site, values: set[int]) -> list[str]:
    """Label by label the values that the maps hold, then those that are background, then those that nobody declared."""
    left = set(values)
    told = []
    for name, own in site.data.labels.items():
        if here := left.intersection(own):
            told.append(f"{labels.in_words(here)} {name}")
        left -= here
    background = left.intersection((0, *site.data.background))
    told += [f"{labels.in_words(background)} background"] if background else []
    return told + ([f"{labels.in_words(left - background)} not declared"] if left - background else [])
