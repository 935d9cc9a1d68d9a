"""What a training shows in TensorBoard: tags, pictures, settings beside results, and none of it in what is trained."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, metadata
from train_tiny import Task

from policies import Layout
from train.loop import history
from train.loop.tensorboard import gate_name, hyper_parameters
from train.policy import train
from train.train_config import TrainConfig

SETTINGS = {"task": "tiny", "steps": 4, "window": 3, "streams": 2, "segment": 2, "hidden": 8, "lr": 0.002}
SETTINGS |= {"calibration_streams": 2, "calibration_frames": 6, "warm_start": "none"}
BUDGETS = {"policy_budgets": [0.2, 0.6], "budget_min": 0.2, "budget_max": 0.6}


@pytest.fixture(scope="module", params=["frame", "gate"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EventAccumulator]:
    folder = tmp_path_factory.mktemp(request.param)
    train(TrainConfig(out=str(folder), granularity=request.param, **SETTINGS, **BUDGETS), Task())
    return folder, EventAccumulator(str(folder / "tensorboard")).Reload()


def size_of(events: EventAccumulator, tag: str, k: int = -1) -> tuple[int, int]:
    return Image.open(io.BytesIO(events.Images(tag)[k].encoded_image_string)).size


def test_names(run: tuple[Path, EventAccumulator]) -> None:
    folder, events = run
    tags = set(events.Tags()["scalars"])
    assert {"train/loss", "train/gradient_norm", "train/learning_rate", "compute/share_over_budget"} <= tags
    assert {"fidelity/token_distance", "compute/price_of_compute", "speed/frames_per_second"} <= tags
    gates = {"update_rate/frame"} if folder.name.startswith("frame") else {"update_rate/block_01_mlp"}
    assert gates <= tags
    assert events.Tags()["histograms"] == ["update_rate/ages_of_tokens"]


def test_validation_is_the_history(run: tuple[Path, EventAccumulator]) -> None:
    folder, events = run
    looks = history.read(folder)
    for policy in ("learned", "heuristic"):
        for figure in ("reward", "distance", "share"):
            shown = [(event.step, event.value) for event in events.Scalars(f"validation/{figure}_at_0.2/{policy}")]
            noted = [
                (look["step"], point[figure])
                for look in looks
                for point in look["points"]
                if (point["policy"], point["budget"]) == (policy, 0.2)
            ]
            assert shown == [(step, pytest.approx(value)) for step, value in noted]
    last = {point["policy"]: point["reward"] for point in looks[-1]["points"] if point["budget"] == 0.2}
    gain = events.Scalars("validation/gain_over_the_rule_at_0.2")[-1].value
    assert gain == pytest.approx(last["learned"] - last["heuristic"], abs=1e-6)


def test_pictures_at_every_look(run: tuple[Path, EventAccumulator]) -> None:
    folder, events = run
    steps = [look["step"] for look in history.read(folder)]
    for tag in ("frontier", "masks/validation_clip"):
        assert [event.step for event in events.Images(tag)] == steps
    width, height = size_of(events, "masks/validation_clip")
    assert width > 4 * height, "several frames side by side"
    assert size_of(events, "masks/rate_in_the_window") == (32, 32)


def test_settings_stand_beside_results(run: tuple[Path, EventAccumulator]) -> None:
    _, events = run
    content = events.SummaryMetadata
    experiment = metadata.parse_experiment_plugin_data(content(metadata.EXPERIMENT_TAG).plugin_data.content)
    metrics = {info.name.tag for info in experiment.metric_infos}
    assert {"validation/gain_over_the_rule_at_0.1", "validation/reward_at_0.2/learned"} <= metrics
    assert metrics <= set(events.Tags()["scalars"]), "each of them has a value"
    start = metadata.parse_session_start_info_plugin_data(content(metadata.SESSION_START_INFO_TAG).plugin_data.content)
    assert start.hparams["lr"].number_value == pytest.approx(0.002)
    assert start.hparams["estimator"].string_value == "gumbel"
    assert start.hparams["oracle.frames"].number_value == TrainConfig().oracle.frames
    assert start.hparams["policy_budgets"].string_value == "[0.2, 0.6]"
    end = metadata.parse_session_end_info_plugin_data(content(metadata.SESSION_END_INFO_TAG).plugin_data.content)
    assert end.status == api_pb2.STATUS_SUCCESS


def test_settings_are_numbers_truth_values_and_texts() -> None:
    settings = {"lr": "0.1", "average": "0", "plots": "true", "task": '"doom"', "b": "[0.1, 0.2]", "m": "null"}
    nested = {"oracle": '{"frames": 3, "inner": {"lr": 0.5}}'}
    assert hyper_parameters(settings | nested) == {
        "lr": 0.1,
        "average": 0,
        "plots": True,
        "task": "doom",
        "b": "[0.1, 0.2]",
        "m": "null",
        "oracle.frames": 3,
        "oracle.inner.lr": 0.5,
    }


def test_gates_have_names() -> None:
    layout = Layout(17, 1, (4, 4), 8, 6, "gate", (0.0,) * 18)
    assert [gate_name(gate, layout) for gate in (0, 4, 5)] == ["block_00_qkv", "block_01_proj", "block_01_mlp"]
