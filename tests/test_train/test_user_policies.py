"""Contenders that a Python function of the user's makes."""

import sys

import pytest
import torch

from eventful.errors import UserError
from policies import LearnedPolicy, TopR
from train.evaluation.contenders import parse_contenders
from train.evaluation.user_policies import fingerprint, make

MODULE = """
from policies import LearnedPolicy, TopR
import torch

torch.manual_seed(SEED)
LEARNED = LearnedPolicy(gates=1, dim=8)

def top(budget):
    return TopR(round(10 * budget))

def learned(budget):
    LEARNED.budget = budget
    return LEARNED

def wrong(budget):
    return "a policy"

def refused(budget):
    raise ValueError("no such budget")
"""


@pytest.fixture
def module(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(seed=0):
        sys.modules.pop("mine", None)
        (tmp_path / "mine.py").write_text(MODULE.replace("SEED", str(seed)))

    write()
    yield write
    sys.modules.pop("mine", None)


def test_functions_are_asked_for_a_budget(module):
    top, learned = make("mine:top", 0.4), make("mine:learned", 0.2)
    assert isinstance(top, TopR) and top.r == 4
    assert isinstance(learned, LearnedPolicy) and learned.budget == 0.2
    (contender,) = parse_contenders(["mine:top@gate"], "frame")
    assert (contender.name, contender.granularity, contender.label) == ("mine:top", "gate", "mine:top, per gate")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("nowhere:top", "nowhere.*cannot be imported"),
        (".mine:top", "must be MODULE:FUNCTION"),
        ("mine:bottom", "no function .bottom."),
        ("mine:wrong", "must return a policies.Policy, got str"),
        ("mine:refused", "mine:refused: no such budget"),
    ],
)
def test_what_is_wrong_is_named(module, name, match):
    with pytest.raises(UserError, match=match):
        make(name, 0.2)


def test_results_belong_to_weights_and_source(module, monkeypatch):
    first = fingerprint("mine:learned")
    assert fingerprint("mine:learned") == first
    with torch.no_grad():
        sys.modules["mine"].LEARNED.out.bias += 1
    assert fingerprint("mine:learned") != first
