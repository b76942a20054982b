"""The ledger of masked sums: one artefact, one sum; one mask, one artefact; and the same bytes when sent again."""

import multiprocessing

import pytest
import torch
from made_masks import EQUAL, NAMES, Model, ancestor, form, model, send

from fedmerge import whole
from fedmerge.errors import DataError, Refused
from fedmerge.privacy import ledger
from fedmerge.privacy.hello import UNIT

SHAPES = {"a.weight": (6, 2), "a.bias": (6,)}
BEGAN = ancestor(SHAPES)
EAST = model("east", BEGAN)


def entry(made, own=EAST):
    """Write the model into the ledger of the east, and take the key."""
    return ledger.enter(made.home("east"), ledger.artefact(own.weights, own.fisher, BEGAN), made.transcript, "east")


def test_the_same_model_is_sent_again_in_the_same_bytes(tmp_path):
    """A late site may; the ledger has one line, on the disk and closed to others, with all that it binds."""
    made = form(tmp_path, began=BEGAN)
    first, second = (send(made, "east", EAST).read_bytes() for _ in range(2))
    assert first == second
    home = made.home("east")
    (line,) = ledger.read(home)
    assert (line.run, line.group, line.weight) == ("r1", "g1", UNIT)
    assert (line.transcript, line.members, line.target) == (made.transcript.digest, NAMES, "harbour")
    assert home.stat().st_mode & 0o777 == 0o700
    assert ledger.key_file(home, "r1", "g1").stat().st_mode & 0o777 == 0o600


OTHERWISE = {
    "group": {"group": "g2"},
    "run": {"run": "r2"},
    "weight": {"weights": {**EQUAL, "east": UNIT // 2}},
    "another's weight": {"weights": {**EQUAL, "south": UNIT // 2}},
    "company": {"weights": dict.fromkeys(("east", "north", "west"), UNIT)},
}


@pytest.mark.parametrize("other", OTHERWISE)
def test_a_second_opening_is_refused(tmp_path, other):
    """Under another group, run or weight, or with other hellos of the same names: the line stays the only one."""
    made = form(tmp_path, began=BEGAN)
    entry(made)
    again = form(tmp_path, began=BEGAN, **OTHERWISE[other])
    with pytest.raises(Refused, match=r"this model has entered group g1 of run r1 .* enters one sum only"):
        entry(again)
    assert len(ledger.read(made.home("east"))) == 1


EDITS = {
    "a head": lambda m: Model({**m.weights, "head.weight": torch.zeros(2)}, m.fisher),
    "a number of one tensor": lambda m: Model({**m.weights, "a.bias": m.weights["a.bias"] + 1e-7}, m.fisher),
    "the Fisher": lambda m: Model(m.weights, {name: value * 2 for name, value in m.fisher.items()}),
    "no Fisher": lambda m: Model(m.weights, {}),
    "all weights, not the Fisher": lambda m: Model({name: v * 1.5 for name, v in m.weights.items()}, m.fisher),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_that_needs_no_training_does_not_make_another_model(tmp_path, edit):
    """One tensor, of weights or Fisher, that was in a sum before is enough."""
    made = form(tmp_path, began=BEGAN)
    entry(made)
    with pytest.raises(Refused, match="enters one sum only"):
        entry(form(tmp_path, began=BEGAN, run="r2"), EDITS[edit](EAST))


def test_another_training_is_another_model(tmp_path):
    """It enters the next run, also where it shares what tells nothing: a frozen layer, a flat Fisher, zeros."""
    frozen = {"a.bias": BEGAN["a.bias"], "zeros": torch.zeros(4)}
    began = {**BEGAN, "zeros": torch.ones(4)}
    flat = {name: torch.ones_like(value) for name, value in began.items()}
    for run in ("r1", "r2"):
        own = Model({**model(run, began).weights, **frozen}, flat)
        made = form(tmp_path, began=began, run=run)
        ledger.enter(made.home("east"), ledger.artefact(own.weights, own.fisher, began), made.transcript, "east")
    assert [line.run for line in ledger.read(tmp_path / "homes/east")] == ["r1", "r2"]


def test_a_mask_hides_one_model_only(tmp_path):
    """A second model under the same hellos would be their difference in the clear; under new ones it is refused too."""
    made = form(tmp_path, began=BEGAN)
    entry(made)
    other = model("west", BEGAN)
    with pytest.raises(Refused, match=r"another model has entered .* a mask hides one model only"):
        entry(made, other)
    with pytest.raises(Refused, match="a mask hides one model only"):
        entry(form(tmp_path, began=BEGAN, weights={**EQUAL, "south": UNIT // 2}), other)


def test_a_key_that_was_forgotten_comes_back_for_no_one(tmp_path):
    """After the run nothing can be sent again, no new key is made for it, and the line stays."""
    made = form(tmp_path, began=BEGAN)
    entry(made)
    ledger.forget(made.home("east"), "r1", "g1")
    with pytest.raises(Refused, match="was forgotten"):
        entry(made)
    with pytest.raises(Refused, match="is over"):
        ledger.begin(made.home("east"), "r1", "g1")
    assert len(ledger.read(made.home("east"))) == 1


def test_every_run_and_group_has_a_key_of_its_own(tmp_path):
    """Fresh, and the same one at every call; names that run together are told apart."""
    pairs = [("r1", "g1"), ("r1", "g2"), ("r2", "g1"), ("r1g", "1"), ("r", "1g1")]
    found = [ledger.begin(tmp_path, *pair).public_bytes_raw() for pair in pairs]
    assert len(set(found)) == len(pairs)
    assert found == [ledger.begin(tmp_path, *pair).public_bytes_raw() for pair in pairs]


def test_a_transcript_with_another_key_than_the_kept_one_is_refused(tmp_path):
    """Whoever said hello in this site's name has no mask from it; a stranger to the transcript has none either."""
    made = form(tmp_path, began=BEGAN)
    ledger.begin(tmp_path / "elsewhere", "r1", "g1")
    artefact = ledger.artefact(EAST.weights, EAST.fisher, BEGAN)
    with pytest.raises(Refused, match="expected the one kept here"):
        ledger.enter(tmp_path / "elsewhere", artefact, made.transcript, "east")
    with pytest.raises(Refused, match="there is no key"):
        ledger.enter(tmp_path / "nowhere", artefact, made.transcript, "east")
    with pytest.raises(Refused, match="west is no member"):
        ledger.enter(made.home("east"), artefact, made.transcript, "west")
    assert ledger.read(tmp_path / "elsewhere") == ()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format":"x","entries":[]}', '{"entries":[{"run":"r"}]}', '{"entr'])
def test_a_damaged_ledger_stops_everything(tmp_path, text):
    """Rather nothing than a second opening: no key is given out."""
    made = form(tmp_path, began=BEGAN)
    (made.home("east") / ledger.FILE).write_text(text)
    with pytest.raises(DataError, match="no ledger of masked sums"):
        entry(made)


def test_what_could_not_be_written_gives_no_key(tmp_path, monkeypatch):
    """A full disk: the error comes through, and the ledger is as it was."""
    made = form(tmp_path, began=BEGAN)

    def full(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(whole, "write", full)
        with pytest.raises(OSError, match="no space"):
            entry(made)
    assert ledger.read(made.home("east")) == ()
    assert entry(made).public_key() is not None


def _race(folder, group, barrier, answers):
    made = form(folder, began=BEGAN, group=group)
    barrier.wait()
    try:
        entry(made)
        answers.put(group)
    except Refused:
        answers.put("")


def test_of_two_processes_one_opens(tmp_path):
    """Two groups ask for the same model at the same moment."""
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(2), context.Queue()
    both = [context.Process(target=_race, args=(tmp_path, group, barrier, answers)) for group in ("g1", "g2")]
    for one in both:
        one.start()
    found = sorted(answers.get(timeout=60) for _ in both)
    for one in both:
        one.join()
    assert found[0] == ""
    assert found[1] in ("g1", "g2")
    assert [line.group for line in ledger.read(tmp_path / "homes/east")] == [found[1]]


def test_the_digest_of_an_artefact_knows_names_numbers_and_kinds():
    """Weights for Fisher, another name, another number: another artefact; the head and the order do not count."""
    weights, fisher = {name: EAST.weights[name] for name in BEGAN}, EAST.fisher
    one = ledger.artefact(EAST.weights, fisher, BEGAN)
    assert one == ledger.artefact(dict(reversed(weights.items())), fisher, BEGAN)
    swapped = ledger.artefact(fisher, weights, BEGAN)
    assert swapped.digest != one.digest
    assert swapped.tensors == one.tensors
    assert len(one.tensors) == 4
