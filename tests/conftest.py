"""One thread per test process: the models in the tests are too small to share."""

import os

import pytest

# Read when a library of linear algebra is loaded, here and in processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def notes_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What tests train here is noted in a folder of their own, and not with the user's trainings."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.getbasetemp() / "data"))
