"""Exported programs are the model, run without the package, and what has no fixed shapes is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_zoo import ZOO, build, clip
from footage import moving_frames
from torch import Tensor

import eventful
import policies
from eventful.errors import UserError
from eventful.export import Exported, export_model

PAGE = Path(__file__).parents[2] / "docs" / "export.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
# In a process that begins with this, whatever is imported of this project is not found.
WITHOUT = "import runpy, sys; sys.modules.update(dict.fromkeys(('eventful', 'policies', 'envs', 'train'))); "

FRAME, RECOMPUTE, PAPER = {"granularity": "frame"}, {"attention": "recompute"}, {"attention": "paper"}
WINDOWED = [name for name in ZOO if name.startswith(("SAM", "ViTDet"))]
PAIRS = [(name, RECOMPUTE if name in WINDOWED else FRAME) for name in ZOO] + [("ViT", RECOMPUTE), ("ViT", PAPER)]


def play(exported: Exported, frames: list[Tensor]) -> list[Any]:
    flush, step = exported.flush.module(), exported.step.module()
    outputs, state = [], None
    for frame in frames:
        out, state = flush(frame) if state is None else step(frame, state)
        outputs.append(out)
    return outputs


@torch.inference_mode()
def assert_is_the_model(model: eventful.EventfulModel, frames: list[Tensor]) -> Exported:
    exported = export_model(model, frames[0])
    assert model.state is None, "the model's own streams are left alone"
    shares = []
    for ours, frame in zip(play(exported, frames), frames, strict=True):
        torch.testing.assert_close(ours, model(frame), atol=1e-4, rtol=1e-4)
        shares.append(float(model.macs.share[0]))
    assert shares[1:] == pytest.approx([exported.share] * (len(frames) - 1))
    return exported


@pytest.mark.parametrize(("name", "options"), PAIRS, ids=lambda value: value if isinstance(value, str) else str(value))
def test_programs_are_the_model(name: str, options: dict[str, Any]) -> None:
    frames = clip(6, streams=2)
    model = eventful.wrap(build(name), policies.TopR(9), **options)
    assert_is_the_model(model, frames)


def some_saliency(outputs: Tensor) -> Tensor:
    return outputs.softmax(-1).amax(-1, keepdim=True)


@pytest.mark.parametrize(
    "policy",
    [
        policies.TopFraction(0.3),
        policies.GlobalTopR(7),
        policies.SaliencyTopR(8, exponent=0.5),
        policies.TopR(31),
        policies.TopR(0),
        policies.LearnedPolicy(gates=1, dim=32, granularity="frame", select="top", budget=0.3, saliency=True),
    ],
    ids=lambda policy: f"{policy.name}",
)
def test_policies_that_select_the_best(policy: policies.Policy) -> None:
    if isinstance(policy, torch.nn.Module):
        for weight in policy.parameters():
            torch.nn.init.normal_(weight, std=0.2)
    model = eventful.wrap(build("ViT"), policy, granularity="frame", saliency=some_saliency)
    assert_is_the_model(model, clip(7))


def test_a_trained_policy_exported_ages_and_remembers_what_was_looked_at() -> None:
    """Saliency of two frames, ages and features all reach the policy: states of the programs are the model's own."""
    policy = policies.LearnedPolicy(gates=1, dim=32, granularity="frame", select="top", budget=0.3, saliency=True)
    model = eventful.wrap(build("ViT"), policy, granularity="frame", saliency=some_saliency)
    frames = clip(5)
    exported = export_model(model, frames[0])
    _, state = exported.flush.module()(frames[0])
    _, mine = model.step(frames[0], None)
    for frame in frames[1:]:
        _, state = exported.step.module()(frame, state)
        _, mine = model.step(frame, mine)
    expected = mine.counted_from_now().named_tensors()
    assert {"saliency_BN", "saliency_before_BN", "frame_gate.stamp_BN"} <= state.keys()
    for place, tensor in state.items():
        torch.testing.assert_close(tensor, expected[place], atol=1e-4, rtol=1e-4, check_dtype=True)


def test_states_that_are_held_stay_as_they_are() -> None:
    frames = clip(3)
    exported = export_model(eventful.wrap(build("ViT"), policies.TopR(9), **FRAME), frames[0])
    step = exported.step.module()
    _, state = exported.flush.module()(frames[0])
    before = {place: tensor.clone() for place, tensor in state.items()}
    first, _ = step(frames[1], state)
    step(frames[2], state)
    assert all(torch.equal(before[place], state[place]) for place in before)
    assert torch.equal(first, step(frames[1], state)[0])


@pytest.mark.parametrize(
    ("policy", "options", "reason"),
    [
        (policies.Threshold(0.1), FRAME, "policy Threshold selects as many tokens as it sees fit"),
        (policies.All(), FRAME, "policy All selects as many"),
        (policies.Periodic(2), FRAME, "policy Periodic selects as many"),
        (policies.AgeBound(policies.TopR(4), max_age=2), FRAME, "age selects as many"),
        (policies.LearnedPolicy(1, 32, "frame"), FRAME, 'select_by="top"'),
        (policies.Random(0.2), FRAME, "a policy that draws random numbers"),
        (policies.TopR(4), {}, 'attention="exact" computes as many rows'),
        (policies.TopR(4), FRAME | {"scene_cut": 0.5}, "scene_cut decides"),
        (policies.TopR(4), FRAME | {"motion_compensation": True}, "motion_compensation moves"),
        (policies.TopR(4), FRAME | {"compile": "eager"}, "wrap without compile"),
    ],
    ids=lambda value: value.name if isinstance(value, policies.Policy) else "-".join(value) if value else "exact",
)
def test_what_has_no_fixed_shapes_is_refused(policy: policies.Policy, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=re.escape(reason)):
        export_model(eventful.wrap(build("ViT"), policy, **options), clip(1)[0])


@pytest.mark.parametrize("name", WINDOWED)
def test_windows_of_selected_tokens_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="attention in windows"):
        export_model(eventful.wrap(build(name), policies.TopR(4), **FRAME), clip(1)[0])


@pytest.fixture(scope="module")
def exported_page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[Tensor]]:
    """The page's first block, run in a folder with frames; the namespace; what the model says of the frames."""
    folder = tmp_path_factory.mktemp("exported")
    namespace: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(BLOCKS[0], str(PAGE), "exec"), namespace)
        namespace["exported"].save_onnx("exported")
    for block in BLOCKS[1:]:
        (folder / re.match(r"# (\w+\.py)", block)[1]).write_text(block)
    pixels = torch.from_numpy(np.stack(moving_frames(8, 240, 320)))
    frames = namespace["task"].preprocess(pixels)[:, None]
    torch.save(frames, folder / "frames.pt")
    np.save(folder / "frames.npy", frames.numpy())
    with torch.inference_mode():
        expected = [namespace["model"](frame) for frame in frames]
    assert (expected[0] - expected[-1]).abs().max() > 0.1, "the picture moves"
    return folder, namespace, expected


def run_without(script: str, folder: Path) -> None:
    command = [sys.executable, "-c", f"{WITHOUT}runpy.run_path({script!r})"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_process_cannot_import_the_package(tmp_path: Path) -> None:
    (tmp_path / "try.py").write_text("import eventful")
    with pytest.raises(AssertionError, match="ModuleNotFoundError"):
        run_without("try.py", tmp_path)


def test_the_file_runs_without_the_package(exported_page: tuple[Path, dict[str, Any], list[Tensor]]) -> None:
    folder, namespace, expected = exported_page
    assert namespace["exported"].share == pytest.approx(0.1, abs=0.005)
    run_without("run_exported.py", folder)
    torch.testing.assert_close(torch.load(folder / "outputs.pt"), torch.stack(expected), atol=1e-3, rtol=1e-4)


def test_onnx_runtime_gives_the_same(exported_page: tuple[Path, dict[str, Any], list[Tensor]]) -> None:
    folder, _, expected = exported_page
    run_without("run_onnx.py", folder)
    found = torch.from_numpy(np.load(folder / "outputs.npy"))
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-3, rtol=1e-4)
