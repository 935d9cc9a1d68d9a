"""Following what was in a box: boxes, head, masks, overlaps, distractors, the task."""

from __future__ import annotations

import configparser
import importlib
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from footage import write_video

from envs.follow import Follow
from envs.follow.box import cells_in_box
from envs.follow.distractors import Picture, Shake, distractor_named
from envs.follow.head import SimilarityHead
from envs.follow.mask import box_iou, components, implied_box, mask_iou
from envs.task import VideoTask, has_metric, offers
from eventful.errors import UserError
from eventful.tasks import load_task
from eventful.video.reader import read_frames

BOX = [0, 20, 24, 44]
"""Of the square in the first frame of `footage.moving_frames`."""


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "a.mkv", 40)


def follow(video: Path, **options: Any) -> Follow:
    torch.manual_seed(0)
    model = options.pop("model", None) or timm.create_model("test_vit", img_size=(96, 128))
    options = {"box": BOX, "threshold": 0.4, "clip_length": 8, "cache": video.parent / "cache", **options}
    return Follow(model, video, **options)


def grid(*rows: str) -> torch.Tensor:
    return torch.tensor([[[cell == "#" for cell in row] for row in rows]])


def test_parts_of_cells_in_a_box() -> None:
    inside = cells_in_box([5, 10, 25, 15], (20, 40), (2, 4)).view(2, 4)
    assert inside.tolist() == [[0, 0, 0, 0], [0.25, 0.5, 0.25, 0]]
    assert cells_in_box([0, 0, 40, 10], (20, 40), (2, 4)).tolist() == [1] * 4 + [0] * 4


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ([1, 2, 3], r"box \[1, 2, 3\] must be four numbers \[x1, y1, x2, y2\], in pixels of the video's frames"),
        ([1, 2, "a", 4], "must be four numbers"),
        ([24, 20, 0, 44], "is empty"),
        ([5, 5, 5, 9], "is empty"),
        ([float("nan"), 5, 6, 9], "is empty"),
        ([-1, 0, 10, 10], r"reaches out of the video's frames, which are 128x96: it must lie in \[0, 0, 128, 96\]"),
        ([100, 20, 200, 44], "reaches out"),
        ([0, 0, 128, 96], "touches all tokens"),
        ([1, 1, 127, 95], "touches all tokens"),
    ],
)
def test_boxes_that_are_refused(video: Path, box: list[Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        follow(video, box=box)


def test_the_head_in_closed_form() -> None:
    """Background along the first axis, the thing in the box along the second: z is the second axis less the first."""
    tokens = torch.tensor([[9.0, 9, 9], [2, 0, 0], [3, 0, 0], [0, 5, 0], [0, 0, 4]])
    head = SimilarityHead.of_box(tokens, torch.tensor([0, 0, 0.5, 0]), threshold=0.5, temperature=0.1)
    background = torch.tensor([2 / 3, 0, 1 / 3])
    assert torch.allclose(head.background_D, background)
    z = torch.nn.functional.normalize(torch.eye(3) - background, dim=-1)
    assert torch.allclose(head.prototype_D, z[1])
    expected = (z @ z[1] - 0.5) / 0.1
    assert torch.allclose(head(tokens[None])[0], expected[[0, 0, 1, 2]], atol=1e-5)
    assert head(tokens[None]).shape == (1, 4) and float(head(tokens[None])[0, 2]) == pytest.approx(5)
    with pytest.raises(UserError, match="no token in the box is as similar"):
        SimilarityHead.of_box(tokens, torch.tensor([0, 0, 0.5, 0.5]), threshold=0.99, temperature=0.1)


def test_components_touch_at_corners() -> None:
    numbers = components(grid("##..#", "..#..", "....."))
    assert numbers[0, 0].tolist() == [8, 8, 0, 0, 5] and int(numbers[0, 1, 2]) == 8
    spiral = grid("#####", "....#", "###.#", "#...#", "#####")
    assert components(spiral).unique().tolist() == [0, 25]


def test_the_implied_box() -> None:
    mask = grid("#...", "....", ".##.", "..#.")
    probability = torch.full(mask.shape, 0.6)
    box, score = implied_box(probability, mask)
    assert box.tolist() == [[0.25, 0.5, 0.75, 1]] and score.tolist() == [pytest.approx(0.6)]
    probability[0, 0, 0] = 2.0  # outweighs the three
    assert implied_box(probability, mask)[0].tolist() == [[0, 0, 0.25, 0.25]]
    box, score = implied_box(probability, torch.zeros_like(mask))
    assert box.tolist() == [[0, 0, 0, 0]] and score.tolist() == [0]


def test_overlaps() -> None:
    mask, other = (
        torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0]]).bool(),
        torch.tensor([[0, 1, 1], [0, 0, 0], [0, 0, 1]]),
    )
    assert mask_iou(mask, other.bool()).tolist() == [pytest.approx(1 / 3), 1, 0]
    box = torch.tensor([[0, 0, 0.5, 0.5], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]])
    other = torch.tensor([[0.25, 0, 0.75, 0.5], [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])
    assert box_iou(box, other).tolist() == [pytest.approx(1 / 3), 1, 0, 1]


def test_distractors_depend_on_the_seed_and_the_frame_alone(video: Path) -> None:
    frame = torch.full((96, 128, 3), 7, dtype=torch.uint8)
    for kind in (Picture, Shake):
        noise = torch.randint(0, 256, frame.shape, generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
        assert torch.equal(kind(1)(noise, 5), kind(1)(noise, 5))
        assert not torch.equal(kind(1)(noise, 5), kind(2)(noise, 5)) and kind(1).key != kind(2).key
    altered = Picture(0)(frame, 0)
    changed = (altered != 7).any(-1)
    assert changed.sum() == 24 * 32 and changed[66:90, 8:40].all() and (frame == 7).all()
    assert not torch.equal(altered, Picture(0)(frame, 1))
    shifts = torch.tensor([Shake(0).shift(t) for t in range(100)])
    assert shifts.abs().amax(0).tolist() in ([3, 3], [3, 4], [4, 3], [4, 4]) and shifts.unique(dim=0).shape[0] > 10
    assert distractor_named("none", 0) is None
    with pytest.raises(UserError, match="got 'pictur'; did you mean picture"):
        follow(video, distractor="pictur")
    with pytest.raises(UserError, match="distractor_seed"):
        follow(video, distractor="shake", distractor_seed=-1)


def test_a_shift_moves_pixels_and_repeats_the_border(monkeypatch: pytest.MonkeyPatch) -> None:
    shake = Shake(0)
    monkeypatch.setattr(shake, "shift", lambda t: (1, -2))
    frame = torch.arange(12, dtype=torch.uint8).view(3, 4, 1)
    assert shake(frame, 0)[..., 0].tolist() == [[2, 3, 3, 3], [2, 3, 3, 3], [6, 7, 7, 7]]


def test_distractors_are_in_all_clips_but_not_in_the_box(video: Path) -> None:
    plain, shaken = follow(video), follow(video, distractor="shake")
    for split in ("train", "val", "test"):
        pairs = list(zip(plain.clips(split), shaken.clips(split), strict=True))
        assert all(a.name == b.name and a.frames_THWC.shape == b.frames_THWC.shape for a, b in pairs)
        first = int(pairs[0][0].name.partition(":")[2].partition("-")[0])
        frames, altered = pairs[0][0].frames_THWC, pairs[0][1].frames_THWC
        assert all(torch.equal(Shake(0)(frames[t], first + t), altered[t]) for t in range(len(frames)))
    assert torch.equal(plain.model.head.prototype_D, shaken.model.head.prototype_D)


def test_the_task(video: Path) -> None:
    model = timm.create_model("test_vit", img_size=(96, 128))
    task = load_task("envs.follow:Follow", model=model, video=str(video), box=BOX, threshold=0.4)
    assert isinstance(task, VideoTask) and not task.has_labels and has_metric(task)
    assert offers(task, "output_distance") and offers(task, "saliency") and task.metric_name == "mask IoU"
    assert not task.model.training and not any(p.requires_grad for p in task.model.parameters())
    with pytest.raises(UserError, match="no labels"):
        task.loss(None, [])


def test_the_square_is_found_and_the_dense_model_agrees_with_itself(video: Path) -> None:
    task = follow(video)
    frame = torch.from_numpy(next(iter(read_frames(video))))[None]
    with torch.no_grad():
        outputs = task.model(task.preprocess(frame))
    assert outputs.shape == (1, 48)
    ((found,),) = task.predictions(outputs, (96, 128))
    assert found["label"] in task.class_names and 0.5 <= found["score"] <= 1
    assert 0 <= found["box"][0] < found["box"][2] <= 128 and 0 <= found["box"][1] < found["box"][3] <= 96
    inside = cells_in_box(BOX, (96, 128), (6, 8))
    seen = task.saliency(outputs)[0]
    assert float((seen * inside).sum() / inside.sum()) > 2 * float(seen[inside == 0].mean())
    for measure in ("mask", "box"):
        task = follow(video, measure=measure)
        metric = task.metric()
        metric.update("a", outputs, task.targets_from_dense(outputs))
        metric.update("b", -outputs.abs() - 1, task.targets_from_dense(outputs))
        assert [metric.compute(clips) for clips in (["a"], ["b"], None, ["a", "a", "b"])] == [
            1,
            0,
            0.5,
            pytest.approx(2 / 3),
        ]
    assert task.predictions(torch.full((1, 48), -1.0), (96, 128)) == [[]]


def test_distance_and_saliency(video: Path) -> None:
    task = follow(video)
    outputs = torch.tensor([[0.0, 30, -30, 2]], requires_grad=True)
    dense = torch.tensor([[0.0, -30, -30, 2]])
    distance = task.output_distance(outputs, dense)
    assert torch.allclose(distance, torch.tensor([[0.0, 1, 0, 0]]), atol=1e-3)
    distance.sum().backward()
    assert outputs.grad is not None and outputs.grad.isfinite().all()
    half = task.output_distance(torch.zeros(1, 1), torch.tensor([[100.0]]))
    assert float(half) == pytest.approx(1 - 0.5**0.5, abs=1e-3)
    assert torch.allclose(task.saliency(dense), torch.tensor([[0.5, 0, 0, 0.8808]]), atol=1e-4)


def test_a_model_of_ones_own_stays_as_it_is(video: Path) -> None:
    model = timm.create_model("test_vit", img_size=(96, 128))
    head = model.head
    assert follow(video, model=model).model is not model and model.head is head and model.training


def test_what_cannot_be_followed(video: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no frame 50, in which the box should be"):
        follow(video, train_frames="50-60")
    with pytest.raises(UserError, match="is a folder of videos"):
        follow(video.parent)
    with pytest.raises(UserError, match="threshold"):
        follow(video, threshold=1.5)
    with pytest.raises(UserError, match="whose head can be replaced; got Conv2d"):
        follow(video, model=torch.nn.Conv2d(3, 4, 16))
    with pytest.raises(UserError, match="no split 'tset'"):
        follow(video).clips("tset")


def test_entry_points_lead_to_classes() -> None:
    """What setup.cfg declares, whether or not what is installed is as new."""
    declared = configparser.ConfigParser()
    declared.read(Path(__file__).parents[2] / "setup.cfg")
    tasks = dict(line.split(" = ") for line in declared["options.entry_points"]["eventful.tasks"].split("\n") if line)
    assert tasks.keys() >= {"doom", "distill", "follow"}
    for name, place in tasks.items():
        module, _, kind = place.partition(":")
        assert getattr(importlib.import_module(module), kind).name == name
