"""The server's store: what is kept is found again under the hash of what made it."""

import pytest

from fedmerge import whole
from fedmerge.errors import Refused
from fedmerge.privacy.accountant import Training
from server.store import Store, key


def test_a_key_depends_on_every_ingredient_and_on_no_order():
    """Same ingredients, same key; any other value, another key."""
    assert key(a=1, b=[1, 2]) == key(b=[1, 2], a=1)
    assert len({key(a=1), key(a=2), key(b=1), key(a="1"), key(a=[1])}) == 5


def test_an_earlier_runs_contributions_are_found_but_not_its_phases(tmp_path):
    """`--from` reads contributions only; what is made now lies in this run's own folder."""
    earlier = Store(tmp_path / "one")
    earlier.keep_contribution("k", b"abc")
    earlier.keep_phase("p", {"x": 1})
    now = Store(tmp_path / "two", tmp_path / "one")
    assert now.contribution("k").read_bytes() == b"abc"
    assert now.contribution("k", reuse=False) is None
    assert now.phase("p") is None
    now.keep_contribution("k", b"abd")
    assert now.contribution("k").read_bytes() == b"abd"
    assert earlier.contribution("k").read_bytes() == b"abc"
    assert now.contribution("other") is None


def test_phases_come_back_as_they_went_in(tmp_path):
    """JSON values survive the disk to the last digit."""
    store = Store(tmp_path)
    result = {"curve": [[0, 0.1], [10, 1 / 3]], "none": None, "text": "ü"}
    store.keep_phase("p", result)
    assert store.phase("p") == result


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    """A disk that is full in the middle of a write leaves the file as it was, and nothing beside it."""
    path = tmp_path / "x"
    whole.write(path, b"old")

    def no_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_disk)
    with pytest.raises(OSError, match="No space"):
        whole.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_noise_of_a_contribution_is_found_with_it(tmp_path):
    """In the run where it was trained, and in a later one that uses it; without it nothing can be promised."""
    first, later = Store(tmp_path / "first"), Store(tmp_path / "later", earlier=tmp_path / "first")
    noisy = Training(0.1, 2.0, 300)
    first.keep_noise("a", noisy)
    assert first.noise("a") == noisy
    assert later.noise("a") == noisy
    assert Store(tmp_path / "later").noise("a") == noisy
    with pytest.raises(Refused, match="nothing is known of the noise"):
        later.noise("b")
