"""The paper's tables of ViViT: rows, costs, what an interruption keeps, and what is refused in one line."""

import csv
from pathlib import Path

import pytest
import torch
from golden_vivit import SMALL, golden_frames

from envs.vivit import ViewPlan, ViViT, video_probabilities
from envs.vivit.views import views
from envs.vivit.weights import save_vivit
from eventful.errors import UserError, VideoError
from train.config import load_config
from train.paper import actions
from train.paper.actions import actions_table
from train.paper.actions_config import ActionsConfig, wanted

ROOT = Path(__file__).parents[2]


class Shown:
    def __init__(self, k):
        self.name = self.key = f"v{k}"
        self.k, self.label, self.broken, self.read = k, 0, False, 0

    def frames(self):
        if self.broken:
            raise VideoError("broken")
        self.read += 1
        return golden_frames(12, 64, 72).roll(self.k * 5, 0)


class Few:
    stride = 1

    def __init__(self):
        self.all = [Shown(k) for k in range(4)]

    def videos(self, split):
        return self.all


@pytest.fixture
def vivits(tmp_path):
    """Two models that share their spatial part."""
    torch.manual_seed(0)
    first = SMALL.on(torch.device("cpu"))
    save_vivit(first, tmp_path / "original.safetensors")
    second = SMALL.on(torch.device("cpu"))
    second.spatial.load_state_dict(first.spatial.state_dict())
    save_vivit(second, tmp_path / "tuned.safetensors")
    return first, second


@pytest.fixture
def config(vivits, tmp_path):
    return ActionsConfig(
        data="listed",
        weights={name: str(tmp_path / f"{name}.safetensors") for name in ("original", "tuned")},
        rows={"original": ["dense", 5], "tuned": [5]},
        starts=2,
        crops=1,
        samples=50,
        out=str(tmp_path / "out"),
        cache=str(tmp_path / "cache"),
    )


@torch.no_grad()
def by_hand(vivit, video):
    return video_probabilities(vivit(views(video.frames(), ViewPlan(64, 1, 8, 2, 1))))


def test_rows_are_what_the_model_says_and_what_it_costs(config, vivits):
    data = Few()
    probabilities = [by_hand(vivits[0], video) for video in data.all]
    for video, values, place in zip(data.all, probabilities, (0, 0, 3, 60), strict=True):
        video.label = int(values.argsort(descending=True)[place])
        video.read = 0
    dense, r5, tuned = actions_table(config, data)
    assert (dense.top1.value, dense.top5.value) == (0.5, 0.75) and dense.top1.low <= 0.5 <= dense.top1.high
    assert [video.read for video in data.all] == [2] * 4, "the two rows of r=5 share their features"
    # Two views of the model of the golden figures.
    every = ViViT(64, 97, frames=8, dim=48, heads=3, depth=3, temporal_depth=2)
    assert dense.tera == pytest.approx(2 * sum(actions.view_macs(every).values()) / 1e12)
    assert r5.tera == tuned.tera and 0.3 < r5.tera / dense.tera < 0.9
    with (Path(config.out) / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["weights"], row["r"]) for row in rows] == [("original", "dense"), ("original", "5"), ("tuned", "5")]
    text = (Path(config.out) / "table.md").read_text()
    assert "| original | dense | 50.00 [" in text and "4 clips" in text


def test_all_tokens_are_the_dense_model(config):
    data = Few()
    config.rows, config.product_dtype = {"original": ["dense", 17]}, None
    dense, every = actions_table(config, data)
    assert (dense.top1, dense.top5) == (every.top1, every.top5)
    assert every.tera > dense.tera, "gates cost something"


def test_an_interrupted_table_goes_on_with_the_next_clip(config):
    data = Few()
    config.rows = {"original": ["dense"]}
    data.all[2].broken = True
    with pytest.raises(VideoError):
        actions_table(config, data)
    data.all[2].broken = False
    actions_table(config, data)
    assert [video.read for video in data.all] == [1] * 4


def test_weights_that_are_not_given_have_no_rows(config, capsys):
    config.weights["tuned"], config.rows["original"] = None, ["dense"]
    assert [(row.weights, row.r) for row in actions_table(config, Few())] == [("original", None)]
    assert "weights.tuned is not given: its rows are left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": {"other": [5]}}, r"rows\.other: there are no weights of that name \(there are: original, tuned"),
        ({"rows": {"original": ["r5"]}}, r"rows\.original must be a list of dense and numbers"),
        ({"rows": {"original": [0]}}, r"rows\.original must be a list of dense and numbers"),
        ({"rows": {"original": [18]}}, r"rows\.original: r=18, but .* has 17 tokens a step"),
        ({"rows": {}}, "there is no row to compute"),
        ({"starts": 0}, "starts must be at least 1, got 0"),
        ({"product_dtype": "int8"}, "product_dtype"),
    ],
)
def test_what_cannot_be_is_refused(config, changes, said):
    for name, value in changes.items():
        setattr(config, name, value)
    with pytest.raises(UserError, match=said):
        actions_table(config, Few())


def test_classes_that_the_model_does_not_tell_are_refused(config):
    data = Few()
    data.all[0].label = 97
    with pytest.raises(UserError, match=r"v0 is of class 97, and .* tells 97 classes"):
        actions_table(config, data)


@pytest.mark.parametrize(("name", "rows"), [("epic", 17), ("kinetics", 4)])
def test_the_configs_of_the_paper(name, rows):
    config = load_config(
        ActionsConfig, [str(ROOT / f"configs/{name}.yaml"), "data_options.root=a", "weights.original=b"]
    )
    assert config.data == name and len(wanted(config)) == rows
    assert config.data_options == {"root": "a"} and config.weights["original"] == "b"


def test_the_command_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["actions", str(ROOT / "configs/epic.yaml"), "data_options.root=nowhere"])
    with pytest.raises(SystemExit) as stop:
        actions.main()
    error = capsys.readouterr().err
    assert (
        stop.value.code == 2 and error.count("\n") == 1 and "vivit_b_epic_kitchens.safetensors does not exist" in error
    )
