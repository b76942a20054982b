"""Fetching the signed roster every minute, so that a hospital knows how it stands even when the network refuses it.

python -m sites.watch HOME
"""

import argparse
import logging
import sys
import time
from pathlib import Path

from fedmerge.errors import FedmergeError
from sites import home as homes
from sites import membership

log = logging.getLogger("fedmerge.roster")

EVERY_S = 60.0


class Watch:
    """What was said last, so that each thing is said once."""

    def __init__(self) -> None:
        self._said = ""

    def look(self, folder: Path, now: float) -> None:
        """Fetch the roster, and say how the site stands when that has changed.

        Args:
            folder: the site's home.
            now: seconds since 1970.
        """
        try:
            home = homes.open(folder)
            membership.refresh_roster(home, now)
            sentence = membership.explain(homes.open(folder), now).sentence
        except (FedmergeError, OSError) as error:
            sentence = str(error)
        if sentence != self._said:
            log.info("%s", sentence)
            self._said = sentence


def main() -> int:
    """Fetch the roster every minute, until SIGTERM."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("home", type=Path, help="the site's home")
    folder = parser.parse_args().home
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    watch = Watch()
    while True:
        watch.look(folder, time.time())
        time.sleep(EVERY_S)


if __name__ == "__main__":
    sys.exit(main())
