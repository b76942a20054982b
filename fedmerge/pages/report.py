"""The page of a run, for clinicians and physicists: one HTML file with everything in it."""

from html import escape

from fedmerge.pages import markup, viewer
from fedmerge.pages.around import Around
from fedmerge.pages.chapters import CHAPTERS
from fedmerge.results import Results

STYLE = (markup.FOLDER / "report.css").read_text(encoding="utf-8")


def html(results: Results, around: Around) -> str:
    """The page's text."""
    campaign = results["campaign"].get("campaign", results["campaign"])
    name = f"Campaign {campaign['name']}" if campaign.get("name") else "A campaign"
    chapters = [one for make in CHAPTERS for one in make(results, around) if one.body]
    links = "".join(f'<li><a href="#{one.name}">{escape(one.short)}</a></li>' for one in chapters)
    body = [
        f"<header><h1>{escape(name)}</h1>{_facts(results, around)}</header>",
        _notice(around, results),
        f'<nav aria-label="parts of this page"><ul>{links}</ul></nav>',
        *(markup.section(one.title, one.body, folded=one.folded, name=one.name) for one in chapters),
    ]
    volumes = around.images is not None and around.images.packed is not None
    scripts = viewer.scripts(niivue=around.niivue) if volumes else ()
    return markup.document(name, body, style=STYLE, scripts=scripts)


def _facts(results: Results, around: Around) -> str:
    sites = results.get("sites", [])
    roles = [(role, [site["name"] for site in sites if site["role"] == role]) for role in ("source", "target")]
    told = [f"{role}{'s' * (len(names) > 1)} {', '.join(names)}" for role, names in roles if names]
    made = results["environment"]
    told += [f"fedmerge {made['fedmerge']}", f"page made {around.made}" if around.made else ""]
    return f'<p class="facts">{escape("; ".join(fact for fact in told if fact))}</p>'


def _notice(around: Around, results: Results) -> str:
    """What the page contains; first of all whether it shows anybody's images."""
    cases = _names_of_cases(around, results)
    if around.images is None:
        why = f" {around.why_none[:1].upper()}{around.why_none[1:]}." if around.why_none else ""
        return f'<p class="notice">This page contains figures and no images.{escape(why)} {escape(cases)}</p>'
    if around.images.synthetic:
        return f'<p class="notice">The images on this page are synthetic: they show no patient. {escape(cases)}</p>'
    site = escape(around.images.site)
    return (
        f'<p class="notice patients" role="note"><strong>This page contains patients\' images: it must not leave '
        f"{site}.</strong> {escape(cases)} <code>--no-images</code> makes one without.</p>"
    )


def _names_of_cases(around: Around, results: Results) -> str:
    if not any(row["cases"] for row in results["rows"]):
        return "It has no score of a single case."
    if around.own or any("data" in site for site in results["campaign"].get("site", [])):
        return "Cases have the names that their files have at the site."
    return "Cases have pseudonyms."
