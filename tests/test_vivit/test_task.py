"""The task on videos with classes: what it says of steps and of whole views, its clips, what it refuses."""

import numpy as np
import pytest
import torch

import eventful
import eventful.infer
from envs.task import VideoTask, offers
from envs.vivit import ViewPlan
from envs.vivit.step_head import StepHead
from envs.vivit.task import ActionRecognition
from envs.vivit.weights import load_vivit
from eventful.errors import UserError
from policies import All
from train.evaluation.results_file import Key
from train.evaluation.rollout import Footage, evaluate_policy

NAMES = ["left", "right", "still"]
STEPS = 4


def test_it_is_a_task(task):
    assert isinstance(task, VideoTask) and task.class_names == NAMES
    assert offers(task, "output_distance") and offers(task, "frame_metric") and not offers(task, "saliency")


@pytest.mark.parametrize("starts", [1, 2])
def test_the_dense_model_is_that_of_the_package(root, weights, starts, write_video, dense_logits):
    """Through the task's clips and metric, step by step, come the views and classes of `encode` and `temporal`."""
    task = ActionRecognition(weights, root=root, stride=2 - (starts > 1), starts=starts)
    write_video(root / "long" / "left" / "a.mp4", 3, 5, frames=19)
    clips, vivit = task.clips("long"), load_vivit(weights)
    plan = ViewPlan(48, task.tubelet.stride, 8, starts, 1)
    (video,) = task._data.videos("long")
    logits_VK = dense_logits(vivit, video.frames(), plan)
    assert [clip.name for clip in clips] == (["left/a.mp4"] if starts == 1 else ["left/a.mp4@0", "left/a.mp4@1"])
    for clip, logits_K in zip(clips, logits_VK, strict=True):
        for label in range(3):
            metric = task.metric()
            with torch.inference_mode():
                tokens = [task.model(task.preprocess(frame[None])) for frame in clip.frames_THWC]
            for token_1D in tokens:
                metric.update(clip.name, token_1D, [{"label": torch.tensor(label)}])
            assert metric.compute() == float(label == int(logits_K.argmax()))
        torch.testing.assert_close(task._head.logits(torch.stack(tokens, 1))[0], logits_K)


def test_selecting_everything_is_the_dense_model(task):
    clip = task.clips("test")[1]
    for granularity in ("frame", "gate"):
        model = eventful.wrap(task.model, All(), granularity=granularity)
        with torch.inference_mode():
            for frame in clip.frames_THWC:
                x_BCHW = task.preprocess(frame[None])
                torch.testing.assert_close(model(x_BCHW), task.model(x_BCHW), atol=2e-5, rtol=1e-4)


def test_an_evaluation_scores_whole_views(task, weights, dense_logits):
    clips, vivit = task.clips("test"), load_vivit(weights)
    plan = ViewPlan(48, 1, 8, 1, 1)
    right = []
    for video in task._data.videos("test"):
        right.append(int(dense_logits(vivit, video.frames(), plan)[0].argmax()) == video.label)
    assert 0 < sum(right) < len(right), "a model that is always right, or wrong, tells nothing"
    footage = Footage(task, clips, 4, torch.device("cpu"), torch.float32)
    draws = np.array([list(range(len(clips))), [0] * len(clips), [5] * len(clips)])
    record = evaluate_policy(eventful.wrap(task.model, All()), All(), footage, Key("All"), draws)
    assert record.metric_R == [sum(right) / len(right), float(right[0]), float(right[5])]
    with pytest.raises(UserError, match=r"top-1 is of whole views of 4 steps, and 1 were shown"):
        metric = task.metric()
        metric.update("a", torch.zeros(1, 24), [{"label": torch.tensor(0)}])
        metric.compute()


def test_the_order_of_steps_counts(task):
    tokens_ASD = torch.randn(50, STEPS, 24, generator=torch.Generator().manual_seed(0))
    best_A, best_backwards_A = (task._head.logits(x).argmax(1) for x in (tokens_ASD, tokens_ASD.flip(1)))
    k = int((best_A != best_backwards_A).nonzero()[0])
    values = []
    for order in (range(STEPS), range(STEPS - 1, -1, -1)):
        metric = task.metric()
        for step in order:
            metric.update("a", tokens_ASD[k, None, step], [{"label": best_A[k]}])
        values.append(metric.compute(["a", "a"]))
    assert values == [1.0, 0.0]


def test_a_step_is_judged_as_if_the_view_were_like_it(task):
    token_BD = torch.randn(2, 24, generator=torch.Generator().manual_seed(1))
    logits_BK = task._head.temporal(token_BD[:, None].expand(-1, STEPS, -1))
    targets = [{"label": torch.tensor(k)} for k in (0, 2)]
    label_B = torch.tensor([0, 2])
    torch.testing.assert_close(task.loss(token_BD, targets), -logits_BK.log_softmax(1)[range(2), label_B])
    assert task.frame_metric(token_BD, targets).tolist() == (logits_BK.argmax(1) == label_B).tolist()
    other_BD = token_BD.flip(0)
    p_BK, q_BK = logits_BK.softmax(1), logits_BK.flip(0).softmax(1)
    m_BK = (p_BK + q_BK) / 2
    expected_B1 = ((p_BK * (p_BK / m_BK).log2() + q_BK * (q_BK / m_BK).log2()).sum(1, keepdim=True)) / 2
    torch.testing.assert_close(task.output_distance(token_BD, other_BD), expected_B1, atol=1e-6, rtol=1e-4)
    assert torch.equal(task.output_distance(token_BD, token_BD), torch.zeros(2, 1))
    token_BD.requires_grad_()
    task.output_distance(token_BD, other_BD).sum().backward()
    assert token_BD.grad.abs().sum(1).min() > 0 and all(p.grad is None for p in task.model.parameters())


def test_steps_to_come_are_like_the_last(task):
    tokens_BsD = torch.randn(1, 2, 24, generator=torch.Generator().manual_seed(2))
    full_BSD = torch.cat([tokens_BsD, tokens_BsD[:, 1:].expand(-1, 2, -1)], 1)
    torch.testing.assert_close(task._head.logits(tokens_BsD), task._head.temporal(full_BSD))
    for steps in (0, STEPS + 1):
        with pytest.raises(ValueError, match=f"a view has 1 to 4 steps, got {steps}"):
            StepHead(task._head.temporal).logits(torch.zeros(1, steps, 24))


def test_clips_are_decoded_when_they_are_asked_for(task):
    clips = task.clips("val")
    assert [clip.name for clip in clips] == [f"{name}/{k}.mp4" for name in NAMES for k in (0, 1)]
    assert [int(clip.targets[0]["label"]) for clip in clips] == [0, 0, 1, 1, 2, 2]
    frames = clips[0].frames_THWC
    assert frames.shape == (STEPS, 96, 64, 3) and len(clips[0]) == STEPS and len(list(frames)) == STEPS
    assert torch.equal(frames[1:][0], frames[1]) and frames[1:].shape[0] == STEPS - 1
    whole = clips[0].frames_THWC.video.frames()[torch.arange(8)].movedim(1, -1)
    assert torch.equal(torch.cat([frames[step] for step in (2, 0)]), torch.cat([*whole[4:6], *whole[0:2]]))


@pytest.mark.parametrize("cache_mb", [0, 1])
def test_memory_is_bounded(root, weights, cache_mb, monkeypatch):
    monkeypatch.setattr("envs.vivit.view_clips._OPEN", 2)
    monkeypatch.setattr("envs.vivit.task._MIB", 40_000)  # two tubelets of 18 432 bytes
    whole = ActionRecognition(weights, root=root, stride=1).clips("val")
    task = ActionRecognition(weights, root=root, stride=1, cache_mb=cache_mb)
    for clips in (task.clips("val"), task.clips("val")):
        for step in range(STEPS):
            for clip, other in zip(clips, whole, strict=True):
                assert torch.equal(
                    clip.frames_THWC[step], torch.cat(list(other.frames_THWC))[96 * step : 96 * step + 96]
                )
    assert len(task._videos._open) == 2 and len(task._videos._kept) == 2 * cache_mb


def test_a_video_that_is_too_short_repeats_its_last_frame(root, weights, write_video):
    write_video(root / "short" / "still" / "a.mp4", 4, 0, frames=3)
    (clip,) = ActionRecognition(weights, root=root, stride=1).clips("short")
    last = clip.frames_THWC[1][48:]
    assert len(clip) == STEPS and all(torch.equal(half, last) for s in (2, 3) for half in clip.frames_THWC[s].split(48))


def test_a_split_may_be_thinned_out(root, weights, write_video):
    task = ActionRecognition(weights, root=root, sizes={"train": 3}, splits={"test": "val"}, stride=1)
    assert [clip.name for clip in task.clips("train")] == ["left/0.mp4", "right/0.mp4", "still/0.mp4"]
    assert len(task.clips("test")) == 6
    write_video(root / "mixed" / "left" / "a.mp4", 3, 5)
    write_video(root / "mixed" / "left" / "b.mp4", 3, 5, size=(56, 64))
    task = ActionRecognition(weights, root=root, frame_size=[56, 64])
    assert [clip.name for clip in task.clips("mixed")] == ["left/b.mp4"]
    with pytest.raises(UserError, match=r"split train has no videos of frame_size \(56, 64\)"):
        task.clips("train")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weights": None}, "task actions needs weights=FILE"),
        ({"weights": "nowhere"}, "weights file nowhere does not exist"),
        ({"classes": ["a"]}, r"classes has 1 names, and .*vivit.safetensors tells 3 classes"),
        ({"sizes": {"train": 0}}, "sizes.train must be at least 1, got 0"),
        ({"frame_size": [48]}, r"frame_size must be \[height, width\], got \[48\]"),
        ({"cache_mb": -1}, "cache_mb must be at least 0, got -1"),
        ({"starts": 0}, "starts and crops must be at least 1"),
        ({"stride": 0}, "stride, frames, starts and crops must be at least 1"),
    ],
)
def test_options_that_cannot_be(weights, options, said):
    with pytest.raises((UserError, OSError, ValueError), match=said):
        ActionRecognition(**{"weights": weights} | options)


def test_sets_that_do_not_go_with_the_model(root, weights, tmp_path, write_video):
    with pytest.raises(UserError, match="data folder needs root"):
        ActionRecognition(weights).clips("train")
    with pytest.raises(UserError, match="has no split 'dev'; it has"):
        ActionRecognition(weights, root=root).clips("dev")
    with pytest.raises(UserError, match=r"has the classes \(left, right, still\), and classes is \['l', 'r', 's'\]"):
        ActionRecognition(weights, root=root, classes=["l", "r", "s"]).clips("train")
    write_video(tmp_path / "train" / "left" / "a.mp4", 3, 5)
    with pytest.raises(UserError, match=r"data folder has 1 classes \(left\), and .*vivit.safetensors tells 3"):
        ActionRecognition(weights, root=tmp_path).clips("train")
    with pytest.raises(UserError, match="data folder has no option 'rot'; did you mean root"):
        ActionRecognition(weights, data_options={"rot": "a"}).clips("train")
    with pytest.raises(ValueError, match=r"tubelets must be \(B, 2 \* H, W, 3\)"):
        ActionRecognition(weights).preprocess(torch.zeros(1, 95, 64, 3, dtype=torch.uint8))


def test_without_a_set_classes_are_numbers(weights):
    task = ActionRecognition(weights)
    assert task.class_names == ["0", "1", "2"] and task.tubelet.stride == 2
    assert ActionRecognition(weights, data="epic", root="gone").tubelet.stride == 1
