"""The oracle's lessons: what is kept stays as it was, joins like a batch, and takes no more room than it may."""

from itertools import pairwise

import pytest
import torch
from seen import observation
from squares_task import Squares

import eventful
import policies
from envs.damage import PRESETS
from eventful.tensor_tree import bytes_of, cat_tensors
from policies import LearnedPolicy
from train.estimators.lessons import Lesson, LessonBook
from train.estimators.oracle import OracleOptions, OracleWarmStart
from train.estimators.streams import StreamSource


def lesson(seed: int, gates: int = 2, granularity: str = "gate", streams: int = 2) -> Lesson:
    seen = [observation(streams, g, 10 * seed + g, gates=gates, granularity=granularity) for g in range(gates)]
    for each in seen:
        each.memory["offset"] = torch.full((streams,), float(seed))
    benefit_GBN = torch.randn(gates, streams, 13, generator=torch.Generator().manual_seed(seed))
    return Lesson.of(
        seen, benefit_GBN, torch.full((streams,), 0.1 * (seed + 1)), torch.zeros(streams, dtype=torch.bool)
    )


@pytest.mark.parametrize("granularity", ["gate", "frame"])
def test_several_lessons_are_scored_as_each_alone(granularity: str) -> None:
    gates = 2 if granularity == "gate" else 1
    policy = LearnedPolicy(gates, 8, granularity, input_projections=2, neighbours=True)
    torch.nn.init.normal_(policy.out.weight)
    lessons = [lesson(seed, gates, granularity) for seed in range(3)]
    joined = cat_tensors(lessons)
    assert joined.benefit_BGN.shape == (6, gates, 13)
    for gate in range(gates):
        alone = [policy.score(each.observations[gate], each.budget_B) for each in lessons]
        torch.testing.assert_close(policy.score(joined.observations[gate], joined.budget_B), torch.cat(alone))
        assert joined.observations[gate].memory["offset"].tolist() == [0, 0, 1, 1, 2, 2]


def test_a_lesson_is_a_copy() -> None:
    seen = observation()
    kept = Lesson.of([seen], torch.ones(1, 2, 13), torch.ones(2), torch.tensor([False, True]))
    before = kept.observations[0].reference_BND.clone()
    seen.reference_BND.zero_()
    assert torch.equal(kept.observations[0].reference_BND, before)


def test_flushes_and_frames_that_taught_nothing_do_not_count() -> None:
    benefit_GBN = torch.ones(1, 3, 13)
    benefit_GBN[:, 2] = -1.0
    kept = Lesson.of([observation(B=3)], benefit_GBN, torch.ones(3), torch.tensor([True, False, False]))
    assert kept.counts_B.tolist() == [False, True, False]
    assert kept.benefit_BGN.min() == 0, "an update that does harm is worth nothing"


def test_the_oldest_lessons_make_room() -> None:
    size = bytes_of(lesson(0)) // 2
    book = LessonBook(memory=3.5 * size)
    for seed in range(5):
        book.add(lesson(seed))
    kept = sorted(round(float(each.budget_B[0]) * 10) - 1 for each in book.draw(10))
    assert kept == [2, 3, 4]
    none = LessonBook(memory=0.5 * size)
    none.add(lesson(0))
    assert len(none) == 0 and none.draw(3) == []


def test_books_of_one_seed_draw_alike_whatever_the_number_of_streams() -> None:
    """So that several processes, which share the streams among them, learn the same frames again."""
    books = {streams: LessonBook(memory=1e6, seed=3) for streams in (1, 2)}
    drawn: dict[int, list[list[float]]] = {1: [], 2: []}
    for seed in range(8):
        for streams, book in books.items():
            drawn[streams].append([float(each.budget_B[0]) for each in book.draw(2)])
            book.add(lesson(seed, streams=streams))
    assert drawn[1] == drawn[2] and len(set(map(tuple, drawn[1]))) > 3


class Counting(LearnedPolicy):
    """Notes how many streams each optimiser step is about."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.learnt_from: list[int] = []

    def score(self, observation, budget_B=None):
        if torch.is_grad_enabled():
            self.learnt_from.append(observation.streams)
        return super().score(observation, budget_B)


@pytest.mark.parametrize("replays", [0, 3])
def test_each_step_learns_from_earlier_frames_too(replays: int) -> None:
    task = Squares()
    model = eventful.wrap(task.model, policies.All(), granularity="frame")
    layout = model.layout(task.preprocess(task.clips("train")[0].frames_THWC[:1]))
    policy = Counting(1, layout.dim, "frame", budgets=(0.2, 0.5))
    options = OracleOptions(frames=8, replays=replays)
    warm = OracleWarmStart(task, model, policy, PRESETS["fidelity"], options)
    warm.fit(StreamSource(task.clips("train"), [0, 1], (0.2, 0.5)).batch("oracle"), show=False)
    # Two streams. The first frame is a flush, and one of the two may begin a clip later.
    assert policy.learnt_from == [2 * (1 + min(k, replays)) for k in range(7)]


def test_the_input_and_the_neighbours_are_seen() -> None:
    seen = observation(B=1, tokens=16)
    policy = LearnedPolicy(1, 8, "frame", projections=0, input_projections=3, neighbours=True)
    torch.nn.init.normal_(policy.out.weight)
    budget_B = torch.tensor([0.1])
    before = policy.score(seen, budget_B)
    before.sum().backward()
    for part in (policy.input_projection, policy.mixed):
        assert part is not None and part.weight.grad is not None and part.weight.grad.abs().sum() > 0
    grid = seen.layout.grid
    other = observation(B=1, tokens=16)
    other.input_BND[0, 1] += 1.0  # the first patch, in a corner of the grid
    moved = (policy.score(other, budget_B) - before)[0].abs() > 1e-6
    assert not moved[0], "the class token has no neighbours"
    # Errors reach three cells: their mean over 3 x 3 in the first layer's mean over 5 x 5.
    assert torch.equal(moved[1:].view(grid), torch.arange(grid[1]).expand(grid) <= 3)


def test_what_it_sees_is_paid_for() -> None:
    seen = observation()
    costs = [LearnedPolicy(1, 8, "frame", **more).macs(seen.layout) for more in (
        {}, {"input_projections": 4}, {"input_projections": 4, "neighbours": True},
    )]  # fmt: skip
    more = [b - a for a, b in pairwise(costs)]
    assert more == [13 * (4 * 8 + 4 * 32), 13 * (2 * 32 * 32 + 25 * 32)]
