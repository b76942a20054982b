"""A site whose clock is wrong: refused, told at both ends, and at work again once it is right."""

import re
import time

import pytest
from deployed import until
from disturbed import PATIENCE_S
from made_consortium import DAY, Consortium, signed

from fedmerge.trust import keys
from server import guests

OFF_S = {"north": 600, "harbour": -600}
WHERE = {"north": "ahead of", "harbour": "behind"}


def test_only_who_has_signed_a_call_is_named_with_its_refusal(tmp_path):
    """A wrong clock and a certificate that is over are that site's; a forged signature is nobody's."""
    made, (north, south, stranger) = Consortium(tmp_path / "server"), (keys.new_node() for _ in range(3))
    over = made.entry("south", south, made.now - 9 * DAY, made.now - DAY)
    made.publish(made.entry("north", north), over)
    door = guests.Guests(made.home.roster, made.authority)
    for headers, site, reason in (
        (signed(north, time.time() + 600), "north", r"the clock of north is \+600 s off"),
        (signed(north, time.time() - 600), "north", r"the clock of north is -600 s off"),
        (signed(south), "south", "the certificate of south is not valid now"),
        (signed(stranger, shown=north), "", "the signature is not north's"),
        (signed(stranger), "", "the key is not on the roster"),
    ):
        with pytest.raises(guests.Turned, match=reason) as turned:
            door.admit(headers)
        assert turned.value.site == site


@pytest.mark.slow
def test_a_clock_that_is_ten_minutes_off(consortium, undisturbed, table):
    """One site is ahead and one behind, in the middle of a campaign: both are told why, and it goes on."""
    consortium.submit()
    until(lambda: consortium.steps("north", "training")[-1:] > [120], PATIENCE_S, consortium)
    for site, off_s in OFF_S.items():
        consortium.kill_machine(site)
        consortium.clocks[site] = off_s
        consortium.start(site)
    for site, off_s in OFF_S.items():
        off = re.compile(rf"{site} .* refused: the clock of {site} is {'[+]' if off_s > 0 else '-'}(599|60\d) s off")
        until(lambda off=off: off.search(consortium.status()), PATIENCE_S, consortium)
        checked = consortium.command(site, "site", "check", "--home", consortium.sites[site].folder)
        assert re.search(rf"clock +error +this machine's clock is (599|60\d)\.\d s {WHERE[site]} the server's", checked)
        assert "synchronise the clock" in checked
    for site in OFF_S:
        consortium.kill_machine(site)
        del consortium.clocks[site]
        consortium.start(site)
    began = time.monotonic()
    back = re.compile(r"north (answers|is connected) again")
    until(lambda: back.search(consortium.log()), PATIENCE_S, consortium)
    table("a clock 600 s ahead, another 600 s behind", "training", "nothing", round(time.monotonic() - began))
    assert consortium.finished() == undisturbed
