"""What the page of a run says besides the results: test cases, audit logs, when and where it was made."""

from dataclasses import dataclass

from matplotlib.figure import Figure

from fedmerge.pages.cases import Packed


@dataclass(frozen=True)
class Images:
    """The test cases that a page shows; a page with images of patients stays where they are.

    Attributes:
        site: whose they are.
        synthetic: whether they were made, and are nobody's.
        run: which run's predictions these are, for readers.
        packed: volumes.
        methods: those whose predictions there are.
        labels: the names of 1..K.
        pictures: a figure in place of volumes, for a classification.
    """

    site: str
    synthetic: bool
    run: str
    packed: Packed | None = None
    methods: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    pictures: Figure | None = None


@dataclass(frozen=True)
class Around:
    """What a page says besides the results.

    Attributes:
        images: the test cases; None: the page has none.
        why_none: why it has none.
        heads: sentences on audit logs.
        made: when the page is made, for readers.
        niivue: NiiVue draws the test cases, where the browser can.
        own: the site whose home the results come from: cases have their own names there; empty elsewhere.
    """

    images: Images | None = None
    why_none: str = ""
    heads: tuple[str, ...] = ()
    made: str = ""
    niivue: bool = False
    own: str = ""
