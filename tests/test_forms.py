"""What a record takes from the other side, and the sentence for each thing that it does not."""

import pytest

from fedmerge import tasks
from fedmerge.errors import Refused

TRAINED = {"cases": 3, "steps": 6, "seconds": 1.5, "loss": 0.25}
SCORES = [{"case": "case-0", "dice": {"ball": 0.5, "cube": None}}]
FINETUNED = {"curve": [[0, 0.1], [5, None]], "fused": "sha256:0", "best_step": 5, "steps": 5, "seconds": 2.0,
             "start": None, "finetuned": SCORES}  # fmt: skip
LEFT = {"score": 0.5, "without": {"north": 0.4}}
ADMISSION = {"admitted": ["north"], "scores": {"north": 0.5, "south": None}, "steps": 40, "seconds": 1.0}
DESCRIPTION = {"site": "north", "role": "source", "labels": ["ball"], "channels": ["T1"], "train": 3, "pool": 3,
               "validate": 0, "test": 2, "by_patient": True, "data": "d", "device": "cpu", "simulation": False,
               "receive_fused": False, "reuse": "never"}  # fmt: skip


def test_answers_as_sites_send_them_pass():
    """A loss may be withheld, scores may be null, a curve may have points without a score."""
    assert tasks.from_table(tasks.Trained, TRAINED | {"loss": None}, "north").steps == 6
    assert tasks.from_table(tasks.Finetuned, FINETUNED, "harbour").finetuned == SCORES
    assert tasks.from_table(tasks.Finetuned, FINETUNED | {"leave_one_out": LEFT}, "harbour").leave_one_out == LEFT
    assert tasks.from_table(tasks.Admission, ADMISSION, "harbour").admitted == ("north",)
    assert tasks.from_table(tasks.Scored, {"cases": None}, "north").cases is None
    assert tasks.from_table(tasks.Scored, {"cases": SCORES}, "north").cases == SCORES
    more = [SCORES[0] | {"hd95": {"ball": 37.5, "cube": None}, "lesion-dice": {"ball": 0.5, "cube": None}}]
    assert tasks.from_table(tasks.Scored, {"cases": more}, "north").cases == more
    assert tasks.from_table(tasks.Description, DESCRIPTION, "north").labels == ("ball",)


@pytest.mark.parametrize(
    ("kind", "table", "sentence"),
    [
        (tasks.Trained, TRAINED | {"loss": float("nan")}, "Trained.loss expected a finite number, got nan"),
        (tasks.Trained, TRAINED | {"loss": 10**400}, "Trained.loss expected a finite number, got 1000"),
        (tasks.Trained, TRAINED | {"loss": "low"}, "Trained.loss expected a finite number, got 'low'"),
        (tasks.Trained, TRAINED | {"seconds": -1.0}, "Trained.seconds expected a finite number of at least 0"),
        (tasks.Trained, TRAINED | {"seconds": float("inf")}, "Trained.seconds expected a finite number of at least 0"),
        (tasks.Trained, TRAINED | {"steps": -1}, "Trained.steps expected a whole number of at least 0, got -1"),
        (tasks.Trained, TRAINED | {"steps": 10**400}, "Trained.steps expected a whole number of at least 0"),
        (tasks.Trained, TRAINED | {"steps": True}, "Trained.steps expected int, got bool"),
        (tasks.Finetuned, FINETUNED | {"curve": [[0, 1.5]]}, "Finetuned.curve expected points of step and score"),
        (tasks.Finetuned, FINETUNED | {"curve": [[-1, 0.5]]}, "Finetuned.curve expected points"),
        (tasks.Finetuned, FINETUNED | {"curve": [0, 1]}, "Finetuned.curve expected points"),
        (tasks.Finetuned, FINETUNED | {"start": "x"}, "Finetuned.start expected cases with a score"),
        (tasks.Finetuned, FINETUNED | {"finetuned": [{"case": "a"}]}, "Finetuned.finetuned expected cases"),
        (tasks.Finetuned, FINETUNED | {"finetuned": [{"case": "a", "dice": {"b": 2}}]}, "expected cases with a score"),
        (tasks.Finetuned, FINETUNED | {"finetuned": [{"case": "", "dice": {}}]}, "expected cases with a score"),
        (tasks.Finetuned, FINETUNED | {"finetuned": [{"case": "\x1b[2J", "dice": {}}]}, "expected cases with a score"),
        (tasks.Finetuned, FINETUNED | {"leave_one_out": {"score": 0.5}}, "Finetuned.leave_one_out expected a score"),
        (tasks.Finetuned, FINETUNED | {"leave_one_out": LEFT | {"score": None}}, "leave_one_out expected a score"),
        (
            tasks.Finetuned,
            FINETUNED | {"leave_one_out": LEFT | {"without": {"a": 2}}},
            "leave_one_out expected a score",
        ),
        (tasks.Admission, ADMISSION | {"scores": {"north": 1.5}}, "Admission.scores expected a score from 0 to 1 for"),
        (tasks.Admission, ADMISSION | {"admitted": [3]}, "Admission.admitted expected a list of printable texts"),
        (tasks.Scored, {"cases": [{"case": "a", "truth": "ring", "prediction": 1}]}, "expected cases with a score"),
        (tasks.Scored, {"cases": [{"case": "a", "truth": "ring"}]}, "expected cases with a score"),
        (tasks.Scored, {"cases": [{"case": "all", "f1": {"ring": 1}, "accuracy": 2}]}, "expected cases with a score"),
        (tasks.Scored, {"cases": [SCORES[0] | {"hd95": {"ball": -1.0}}]}, "expected cases with a score"),
        (tasks.Scored, {"cases": [SCORES[0] | {"hd95": {"ball": float("inf")}}]}, "expected cases with a score"),
        (tasks.Scored, {"cases": [SCORES[0] | {"lesion-dice": {"ball": 2.0}}]}, "expected cases with a score"),
        (tasks.Scored, {"cases": [{"case": "a", "hd95": {"ball": 1.0}}]}, "expected cases with a score"),
        (tasks.Scored, {"cases": [1]}, "Scored.cases expected cases with a score"),
        (tasks.Description, DESCRIPTION | {"labels": [1]}, "Description.labels expected a list of printable texts"),
        (tasks.Description, DESCRIPTION | {"device": "a\nb"}, "Description.device expected printable text"),
        (tasks.Description, DESCRIPTION | {"device": "a" * 2000}, "Description.device expected printable text"),
        (tasks.Receive, {"digests": [[]]}, "Receive.digests expected a list of printable texts"),
    ],
)
def test_what_would_spoil_a_table_is_refused_with_its_sender(kind, table, sentence):
    """A hostile answer costs its sender the row, never the campaign its results."""
    with pytest.raises(Refused, match=f"^north: .*{sentence}"):
        tasks.from_table(kind, table, "north")
