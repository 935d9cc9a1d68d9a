"""`eventful-tune`: features that are kept, the course of a run, and what it refuses in one line."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import safetensors.torch
import torch
from footage import write_video
from golden_vivit import golden_frames
from torch import Tensor

import eventful
import policies
from envs.vivit import ViewPlan, ViViT, encode, view_steps
from envs.vivit.weights import load_vivit, save_vivit
from eventful.errors import UserError
from policies import LearnedPolicy, ThresholdTable
from policies.content_hash import content_hash
from train.tuning import tune as command
from train.tuning.feature_cache import FeatureCache
from train.tuning.policy_facts import policy_facts
from train.tuning.tune import tune
from train.tuning.tune_config import TuneConfig

PLAN = ViewPlan(64, stride=1, frames=8, starts=2, crops=1)


@dataclass
class Shown:
    """A video that counts how often it is read."""

    label: int
    key: str
    read: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.key

    def frames(self) -> Tensor:
        self.read.append(self.key)
        return golden_frames(12, 64, 72).roll(self.label * 5, 0)


class Few:
    """A set of a few videos."""

    def __init__(self, count: int = 5) -> None:
        self._videos = {split: [Shown(k, f"{split}{k}") for k in range(count)] for split in ("train", "validation")}

    def videos(self, split: str) -> Sequence[Shown]:
        if split not in self._videos:
            raise ValueError(f"no split {split!r}, there are train, validation")
        return self._videos[split]


@pytest.fixture
def config(small_vivit: ViViT, tmp_path: Path) -> TuneConfig:
    save_vivit(small_vivit, tmp_path / "vivit.safetensors")
    return TuneConfig(
        weights=str(tmp_path / "vivit.safetensors"),
        out=str(tmp_path / "out"),
        cache=str(tmp_path / "cache"),
        heuristic="top-r:5",
        attention="paper",
        prefix="ordinary",
        lr=1e-3,
        epochs=2,
        batch=2,
        stride=1,
        starts=2,
        crops=1,
    )


def published(vivit: ViViT, policy: policies.Policy | None = None, **options: object) -> eventful.EventfulModel:
    options = {"attention": "paper", "prefix": "ordinary"} | options
    return eventful.wrap(vivit.spatial, policy or policies.TopR(5), **options)  # type: ignore[arg-type]


def test_features_are_computed_once(small_vivit: ViViT, tmp_path: Path) -> None:
    videos = Few().videos("train")
    cache = FeatureCache(tmp_path, published(small_vivit), PLAN)
    assert cache.fill(videos[:2], "some") == 2
    again = FeatureCache(tmp_path, published(small_vivit), PLAN)
    assert again.fill(videos, "all") == 3
    assert [len(video.read) for video in videos] == [1] * 5
    kept = again.read(videos[0])
    assert kept.tokens_VSD.shape == (2, 4, 48) and 0.4 < float(kept.share_V.mean()) < 0.6
    model = published(small_vivit)
    with torch.no_grad():
        expected = eventful_tokens(model, videos[0])
    torch.testing.assert_close(kept.tokens_VSD, expected)


def eventful_tokens(model: eventful.EventfulModel, video: Shown) -> Tensor:
    return encode(model, view_steps(video.frames(), PLAN)).tokens_VSD


def test_features_are_found_by_what_they_are(small_vivit: ViViT, tmp_path: Path) -> None:
    def folder(model: torch.nn.Module, plan: ViewPlan = PLAN) -> str:
        return FeatureCache(tmp_path, model, plan).folder.name

    names = {
        "r=5": folder(published(small_vivit)),
        "dense": folder(small_vivit.spatial),
        "r=6": folder(published(small_vivit, policies.TopR(6))),
        "threshold": folder(published(small_vivit, policies.Threshold(5))),
        "exact": folder(published(small_vivit, attention="exact")),
        "pinned": folder(published(small_vivit, prefix="pinned")),
        "views": folder(published(small_vivit), ViewPlan(64, stride=2, frames=8, starts=2, crops=1)),
    }
    with torch.no_grad():
        small_vivit.temporal.norm.bias[0] += 1
    assert folder(published(small_vivit)) == names["r=5"], "the temporal part has no share in the features"
    with torch.no_grad():
        small_vivit.spatial.norm.bias[0] += 1
    names["weights"] = folder(published(small_vivit))
    assert len(set(names.values())) == len(names)


def test_policies_are_told_apart_by_all_that_decides() -> None:
    table = ThresholdTable([0.1, 0.5], 9)
    made = [
        policies.CalibratedThreshold(table, 0.1),
        policies.CalibratedThreshold(table, 0.2),
        policies.KeySimilarity(table, 0.1),
        policies.AgeBound(policies.TopR(5), max_age=3),
        policies.AgeBound(policies.TopR(6), max_age=3),
        policies.AgeBound(policies.TopR(6), max_age=4),
        LearnedPolicy(9, 48, "gate"),
        LearnedPolicy(9, 48, "gate", budget=0.3),
        LearnedPolicy(9, 48, "gate", max_age=3),
    ]
    facts = [content_hash(policy_facts(policy)) for policy in made]
    assert len(set(facts)) == len(made)
    with torch.no_grad():
        table.log_threshold_KG[0, 0] = 1
    assert content_hash(policy_facts(made[0])) != facts[0]


def test_a_damaged_file_of_features_is_named(small_vivit: ViViT, tmp_path: Path) -> None:
    video = Shown(0, "a")
    cache = FeatureCache(tmp_path, small_vivit.spatial, PLAN)
    with pytest.raises(FileNotFoundError, match="features of a are not in"):
        cache.read(video)
    cache.fill([video], "one")
    file = next(cache.folder.rglob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(UserError, match=f"{file.name} is damaged"):
        cache.read(video)


def test_a_run_leaves_a_whole_model_and_its_course(config: TuneConfig, capsys: pytest.CaptureFixture[str]) -> None:
    data = Few()
    path = tune(config, data)
    before, after = load_vivit(config.weights), load_vivit(path)
    for name, tensor in after.spatial.state_dict().items():
        assert torch.equal(tensor, before.spatial.state_dict()[name]), name
    assert not torch.equal(after.temporal.classifier.weight, before.temporal.classifier.weight)
    rows = [json.loads(line) for line in (Path(config.out) / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert rows[2]["train_loss"] < 4.6 and set(rows[2]) == {"epoch", "train_loss", "top1", "top5", "loss"}
    assert "share of the spatial part's dense MACs: 0.4894" in capsys.readouterr().out

    # The same command again does nothing anew; more epochs go on from there, and the model can be evaluated.
    assert torch.equal(load_vivit(tune(config, data)).temporal.classifier.weight, after.temporal.classifier.weight)
    config.epochs = 3
    tune(config, data)
    assert "resuming after 6 steps, 2 of 3 epochs" in capsys.readouterr().out
    assert sum(len(video.read) for split in ("train", "validation") for video in data.videos(split)) == 10
    config.weights, config.epochs, config.heuristic = str(path), 0, "top-r:9"
    tune(config, data)
    shown = dict(zip(*[iter(capsys.readouterr().out.splitlines()[-1].split())] * 2, strict=True))
    assert list(shown) == ["top1", "top5", "loss"] and float(shown["top5"]) >= float(shown["top1"])


def test_half_precision_of_the_spatial_part_is_not_written(config: TuneConfig) -> None:
    config.dtype, config.test_split, config.epochs = "bfloat16", None, 1
    before, after = load_vivit(config.weights), load_vivit(tune(config, Few(2)))
    assert torch.equal(after.spatial.blocks[0].mlp.fc1.weight, before.spatial.blocks[0].mlp.fc1.weight)


@pytest.mark.parametrize("granularity", ["gate", "frame"])
def test_learned_policies_select(config: TuneConfig, tmp_path: Path, granularity: str) -> None:
    gates = 9 if granularity == "gate" else 1
    LearnedPolicy(gates, 48, granularity, select="top").save_pretrained(tmp_path / "policy")
    config.heuristic, config.policy, config.budget = None, str(tmp_path / "policy"), 0.3
    config.attention, config.prefix, config.epochs = "exact", "pinned", 0
    tune(config, Few(2))
    kept = [safetensors.torch.load_file(file) for file in Path(config.cache).rglob("*.safetensors")]
    # A flush and three steps.
    shares = [float(features["share_V"].mean()) for features in kept]
    assert shares == pytest.approx([(1 + 3 * 0.3) / 4] * 2, abs=0.06)


REFUSED = {
    "both": (dict(policy="p"), "heuristic=top-r:5 and policy=p: one of them"),
    "heuristic": (dict(heuristic="top-x:5"), "heuristic=top-x:5: there is no heuristic"),
    "random": (dict(heuristic="random:0.3"), "heuristic=random:0.3: what a random rule selects depends on"),
    "policy": (dict(heuristic=None, policy="/nowhere", prefix="pinned"), "policy=/nowhere: no policy checkpoint"),
    "unread": (dict(heuristic=None), "attention=paper is read with heuristic or policy only"),
    "budget": (dict(budget=0.1), "budget=0.1 is read with policy=FOLDER only"),
    "buffers": (dict(attention="exact", buffer_dtype="float16"), "buffer_dtype=float16 is read with attention=paper"),
    "dropout": (dict(dropout=1.0), "dropout must be below 1, got 1.0"),
    "batch": (dict(batch=0), "batch must be at least 1, got 0"),
    "lr": (dict(lr=0.0), "lr must be above 0"),
    "nothing": (dict(epochs=0, test_split=None), "epochs=0 evaluates alone"),
    "split": (dict(test_split="test"), "data listed: no split 'test', there are train, validation"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused(config: TuneConfig, changes: dict[str, object], message: str) -> None:
    for name, value in changes.items():
        setattr(config, name, value)
    with pytest.raises(UserError, match=message):
        tune(config, Few(1))


def test_data_that_do_not_fit_the_model_are_refused(config: TuneConfig, tmp_path: Path) -> None:
    data = Few(1)
    data.videos("validation")[0].label = 97
    with pytest.raises(UserError, match=r"validation0 is of class 97, and .*safetensors tells 97 classes, 0 to 96"):
        tune(config, data)
    LearnedPolicy(12, 48, "gate").save_pretrained(tmp_path / "policy")
    config.heuristic, config.policy = None, str(tmp_path / "policy")
    with pytest.raises(UserError, match="the policy is for 12 gates of width 48"):
        tune(config, Few(1))


def test_the_command_from_a_table_of_videos(
    config: TuneConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "videos.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["video", "label", "split"])
        for k, split in enumerate(["train", "train", "validation"]):
            write_video(tmp_path / f"{k}.mp4", 10 + k, 70, 64)
            rows.writerow([f"{k}.mp4", k, split])
    words = [f"weights={config.weights}", f"data_options.table={tmp_path / 'videos.csv'}", f"out={config.out}"]
    words += [f"cache={config.cache}", "heuristic=threshold:3", "epochs=1", "starts=2"]

    def run(*more: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["eventful-tune", *words, *more])
        with pytest.raises(SystemExit) as stop:
            command.main()
        captured = capsys.readouterr()
        return stop.value.code, captured.err or captured.out  # type: ignore[return-value]

    code, out = run()
    assert code == 0 and "tuned model written to" in out
    code, err = run("data_options.tables=1")
    problem = "data listed has no option 'tables'; did you mean table? (it takes: table)"
    assert (code, err) == (2, f"eventful-tune: error: {problem}\n")
    code, err = run("heuristic=top-r:2", "prefix=free")
    assert code == 2 and "prefix must be pinned | ordinary | None, got 'free'" in err


def test_a_model_runs_as_its_policy_was_trained() -> None:
    trained = {"attention": "paper", "prefix": "ordinary", "granularity": "gate"}
    policy = LearnedPolicy(6, 8, "gate", provenance={"options": trained})
    assert command._options(policy, TuneConfig()) == trained
    assert command._options(policy, TuneConfig(attention="exact", prefix="pinned")) == {
        "attention": "exact",
        "prefix": "pinned",
        "granularity": "gate",
    }
    assert command._options(policies.TopR(3), TuneConfig(prefix="ordinary")) == {
        "granularity": "gate",
        "prefix": "ordinary",
    }
