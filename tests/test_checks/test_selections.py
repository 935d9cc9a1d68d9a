"""Selections that do not fit their gate are refused with the names of policy and gate; pixels that overflow, too."""

import math

import pytest
import torch
from family_zoo import build, clip

import eventful
import policies
from eventful.checks import selections
from eventful.errors import SelectionError, StreamError
from policies import Selection


class Answers(policies.Policy):
    """Gives the same answer at every gate."""

    def __init__(self, answer) -> None:
        self.answer = answer

    def select(self, observation):
        return self.answer(observation)


def index(*rows, dtype=torch.int64):
    return lambda seen: Selection(index_BM=torch.tensor(rows, dtype=dtype))


def mask(value, streams=None, tokens=None, dtype=None):
    def answer(seen):
        shape = (streams or seen.streams, tokens or seen.layout.tokens)
        return Selection(mask_BN=torch.full(shape, value, dtype=dtype))

    return answer


def scores(seen):
    score_BN = seen.error_BN.clone()
    score_BN[1, 3] = math.nan
    return score_BN


BAD = {
    "N in stream 0": (
        lambda s: Selection(index_BM=torch.tensor([[s.layout.tokens], [0]])),
        r"index \d+ is out of range",
    ),
    "negative": (index([0], [-1]), "index -1 is out of range: tokens are 0 to"),
    "twice": (index([2, 5, 2], [0, 1, 2]), "index 2 is there twice in one stream"),
    "too many": (lambda s: Selection(index_BM=torch.zeros(2, s.layout.tokens + 3).long()), "with M at most"),
    "index of one stream": (index([1]), r"index_BM must be \(2, M\)"),
    "flat index": (lambda s: Selection(index_BM=torch.tensor([1, 2])), r"index_BM must be \(2, M\)"),
    "int32": (index([1], [2], dtype=torch.int32), "index_BM must be int64, got torch.int32"),
    "mask of one stream": (mask(True, streams=1), r"mask_BN must be \(2, "),
    "mask of other tokens": (mask(True, tokens=7), r"mask_BN must be \(2, \d+\), got \(2, 7\)"),
    "relaxed": (mask(0.5), "packed execution needs a bool mask"),
    "no selection": (lambda s: None, "a Selection is needed, got NoneType"),
    "NaN, ranked": (lambda s: Selection.top(scores(s), 3), "1 of .* scores are not a number"),
    "NaN, counts": (lambda s: Selection.top_counts(scores(s), torch.tensor([1, 2])), "scores are not a number"),
    "NaN, threshold": (lambda s: Selection.where(scores(s) > 0, s, scores(s)), "scores are not a number"),
}


def start(policy, **mode):
    model = eventful.wrap(build("ViT"), policy, **mode)
    frames = clip(3, 2)
    with torch.inference_mode():
        model(frames[0])
    return model, frames


@pytest.mark.parametrize("granularity", ["gate", "frame"])
@pytest.mark.parametrize("kind", BAD)
def test_what_does_not_fit_is_refused(kind: str, granularity: str) -> None:
    answer, said = BAD[kind]
    model, frames = start(Answers(answer), granularity=granularity)
    name = "qkv" if granularity == "gate" else "frame"
    with torch.inference_mode(), pytest.raises(SelectionError, match=rf"policy Answers, gate 0 \({name}\): .*{said}"):
        model(frames[1])
    assert bool(model.state.flush_B.all()), "half a frame is no state to go on from"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (mask(math.nan), "between 0 and 1"),
        (mask(1.5), "between 0 and 1"),
        (mask(1, dtype=torch.int32), "bool, or float"),
    ],
)
def test_relaxed_masks_lie_between_0_and_1(answer, said: str) -> None:
    model, frames = start(Answers(answer))
    with pytest.raises(SelectionError, match=said):
        model.step(frames[1], model.state.clone(), masked=True)


@pytest.mark.parametrize(
    "policy", [policies.TopR(3), policies.Threshold(0.5), policies.GlobalTopR(3)], ids=lambda p: p.name
)
def test_errors_that_are_no_numbers_are_named_instead_of_never_selected(policy) -> None:
    model, frames = start(policy)
    model.state = model.state.clone()
    model.state.blocks[0].gates["qkv"].reference_BND[1, 2] = math.nan
    with torch.inference_mode(), pytest.raises(SelectionError, match=f"policy {policy.name}, gate 0 .*not a number"):
        model(frames[1])


def test_a_learned_policy_that_has_lost_its_numbers_is_named() -> None:
    model, frames = start(policies.TopR(1), granularity="frame")
    layout = model.layout(frames[0])
    model.policy = policies.LearnedPolicy(1, layout.dim)
    torch.nn.init.constant_(model.policy.out.bias, math.nan)
    for select in ("threshold", "top"):
        model.policy.select_by = select
        with torch.inference_mode(), pytest.raises(SelectionError, match="policy LearnedPolicy, gate 0"):
            model(frames[0])
            model(frames[1])


def test_values_are_not_looked_at_on_other_devices_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device nothing can be looked at: it stands for a device that the host would have to wait for."""
    seen = policies.GateObservation(
        policies.Layout(5, 1, (2, 2), 3, 1, "frame", ()), 0, "frame",
        torch.zeros(2, 5, 3, device="meta"), torch.zeros(2, 5, 3, device="meta"), torch.ones(2, 5, device="meta"),
    )  # fmt: skip
    answer = Selection(index_BM=torch.zeros(2, 2, dtype=torch.int64, device="meta"))
    assert selections.checked(answer, seen, False, "any") is answer
    monkeypatch.setattr(selections, "DEBUG", True)
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        selections.checked(answer, seen, False, "any")


@pytest.mark.parametrize("pixel", [math.nan, math.inf, -math.inf, 1e30, -1e30, 2e6])
def test_pixels_beyond_all_pictures_are_refused_and_leave_the_stream_as_it_is(pixel: float) -> None:
    model, frames = start(policies.TopR(3))
    bad = frames[1].clone()
    bad[0, 1, 2, 3] = pixel
    with torch.inference_mode():
        with pytest.raises(StreamError, match=r"NaN or infinite pixels, or such beyond 1e\+06"):
            model(bad)
        bad[0, 1, 2, 3] = 65535.0
        assert model(bad).isfinite().all()
