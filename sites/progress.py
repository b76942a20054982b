"""How long loops at a site say where they are: log records that a command line may turn into bars."""

import logging

from fedmerge import stopping

_LOG = logging.getLogger("fedmerge.progress")


def report(who: str, what: str, done: int, total: int) -> None:
    """One record: `who` has finished `done` of `total` pieces of `what`.

    Raises:
        KeyboardInterrupt: as `stopping.look`.
    """
    stopping.look()
    facts = {"who": who, "what": what, "done": done, "total": total}
    _LOG.info("%s: %s %d/%d", who, what, done, total, extra=facts)
