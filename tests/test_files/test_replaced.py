"""A folder is replaced whole: a process that dies at any step leaves the old checkpoint or the new one to be loaded."""

import errno
import itertools
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from dying import KILLED, in_child

import policies
from eventful.disk import replaced
from eventful.disk.replaced import replace_file, replace_folder
from policies import LearnedPolicy

STEPS = (("_sync",), ("_exchange",), ("os", "rename"), ("shutil", "rmtree"))
"""What a replacement does, one after the other; a process may die before or after each of them."""


def policy(value: float) -> LearnedPolicy:
    made = LearnedPolicy(1, 8, hidden=2, projections=0)
    torch.nn.init.constant_(made.out.weight, value)
    return made


def value_in(folder: Path) -> float:
    return policies.load(folder).out.weight[0, 0].item()


def dying(steps: int, late: bool, exchanges: bool, folder: Path) -> bool:
    """Replaces a policy in a process that is killed before (or after) its nth step; whether it got so far."""

    def watch() -> None:
        left = itertools.count(steps, -1)

        def watched(function):
            def step(*args, **kwargs):
                number = next(left)
                if number == 0 and not late:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = function(*args, **kwargs)
                if number == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return step

        if not exchanges:
            replaced._exchange = lambda one, other: False
        for *owner, name in STEPS:
            place = {"os": os, "shutil": shutil}[owner[0]] if owner else replaced
            setattr(place, name, watched(getattr(place, name)))

    status, said = in_child(lambda: replace_folder(folder, policy(2.0).save_pretrained), watch)
    assert status in (0, KILLED), said
    return status == KILLED


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_process_that_dies_leaves_the_old_or_the_new_policy(tmp_path: Path, exchanges: bool) -> None:
    folder, seen = tmp_path / "policy", []
    for steps, late in itertools.product(range(30), (False, True)):
        shutil.rmtree(tmp_path)
        replace_folder(folder, policy(1.0).save_pretrained)
        if not dying(steps, late, exchanges, folder):
            break
        seen.append(value_in(folder))
        if exchanges:
            assert folder.is_dir(), "with an exchange, the name is never free"
        replace_folder(folder, policy(3.0).save_pretrained)
        assert value_in(folder) == 3.0 and os.listdir(tmp_path) == ["policy"], "the next one clears up"
    assert len(seen) > 10 and set(seen) == {1.0, 2.0} and seen == sorted(seen)
    assert value_in(folder) == 2.0


def test_the_exchange_says_where_it_is_not_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    with pytest.raises(FileNotFoundError, match="other"):
        replaced._exchange(one, other)
    other.mkdir()
    (one / "mine").touch()
    if replaced._exchange(one, other):
        assert (other / "mine").exists() and not (one / "mine").exists()
    monkeypatch.setattr(replaced.ctypes, "get_errno", lambda: errno.EINVAL)
    assert not replaced._exchange(one, tmp_path / "nowhere")


def test_a_file_that_breaks_off_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state"
    replace_file(path, lambda to: to.write_text("old"))
    with pytest.raises(ValueError, match="broke"):
        replace_file(path, lambda to: (to.write_text("ne"), (_ for _ in ()).throw(ValueError("broke"))))
    assert path.read_text() == "old"
    replace_file(path, lambda to: to.write_text("new"))
    assert path.read_text() == "new" and os.listdir(path.parent) == ["state"]
