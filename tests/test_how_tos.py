"""The how-tos, followed literally: files are written, commands run, and what the text promises comes true."""

import csv
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from footage import write_video
from huggingface_hub import HfApi, hub_mixin
from safetensors.torch import save_model
from transformers import AutoModel, BitImageProcessor, Dinov2Config, Dinov2Model

import policies
import policies.trainable
from eventful.infer.command import _main as infer_main
from train.evaluate import _main as evaluate_main

ROOT = Path(__file__).parents[1]
MODULES = {"eventful-train": "train.policy", "eventful-evaluate": "train.evaluate", "eventful-infer": "eventful.infer"}

EXECUTED = {
    "README.md": "test_readme.py",
    "docs/environments.md": "test_envs/test_environments_docs.py",
    "docs/export.md": "test_export/test_export.py",
    "docs/gpu.md": "test_graphs/test_graphed_stream.py",
    "docs/my-model.md": "test_readme.py",
    "docs/my-video.md": "test_readme.py",
    "docs/policies.md": "test_how_tos.py",
    "docs/processes.md": "test_readme.py",
    "docs/serving.md": "test_how_tos.py",
    "docs/sharing.md": "test_how_tos.py",
    "docs/tasks.md": "test_how_tos.py",
    "docs/transformers.md": "test_how_tos.py",
    "docs/vitdet.md": "test_vitdet/test_detector.py",
    "docs/vivit.md": "test_vivit/test_docs.py",
}
"""Pages with Python, and the test that runs it; the lab notes have what was done once."""

SMALL = ["calibration_streams=2", "calibration_frames=4", "threads=1"]
FEW_STEPS = [*SMALL, "steps=1", "window=2", "streams=2", "policy_budgets=[0.3,0.6]"]
FEW_CLIPS = [*SMALL, "max_clips=2", "max_frames=4", "policies=[Learned,TopR]", "budgets=[0.3]", "bootstrap=20"]
FEW_CLIPS += ["latency=false", "plots=false"]


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the files of the how-tos."""
    for block in (block for page in ("tasks.md", "policies.md", "transformers.md") for block in blocks(page, "python")):
        name = re.match(r"# (\w+\.py)\n", block)
        if name:
            (tmp_path / name[1]).write_text(block)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("looks_left", "places", "says_so", "my_head"):
        sys.modules.pop(name, None)


def run(line: str, *more: str) -> str:
    words = shlex.split(line)
    command = words[1:] if words[0] == "python" else ["-m", MODULES[words[0]], *words[1:]]
    done = subprocess.run([sys.executable, *command, *more], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_python_of_every_page_is_run_by_a_test() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    with_python = {str(page.relative_to(ROOT)) for page in pages if "```python\n" in page.read_text()}
    assert with_python - {"docs/lab-notes.md"} == EXECUTED.keys()
    for page, test in EXECUTED.items():
        assert Path(page).name in (ROOT / "tests" / test).read_text(), f"{test} does not mention {page}"


@pytest.mark.parametrize("estimator", ["reinforce", "gumbel"])
def test_a_network_of_ones_own_beats_the_rules(folder: Path, estimator: str, monkeypatch) -> None:
    training, evaluation = blocks("policies.md", "console")[0].strip().splitlines()
    if estimator == "gumbel":
        training = training.replace("estimator=reinforce reward=loss", "estimator=gumbel objective.task=1")
    run(training, "threads=1")
    run(evaluation, "threads=1")
    with (folder / "runs/places/evaluation/table.csv").open() as file:
        rows = {(row["policy"], row["budget"]): row for row in csv.DictReader(file)}
    for budget in ("0.1", "0.2"):
        learned = float(rows["Learned", budget]["agreement_low"])
        for rule in ("CalibratedThreshold", "TopR"):
            assert learned > float(rows[rule, budget]["agreement_high"]), f"{rule} at {budget}"
    monkeypatch.syspath_prepend(str(folder))
    namespace: dict = {}
    exec(blocks("policies.md", "python")[1], namespace)
    value_RC = namespace["policy"].value_RC.detach().squeeze()
    assert value_RC[:, :2].mean() > value_RC[:, 4:].mean() + 0.5


def test_the_task_of_the_how_to_is_a_task(folder: Path, monkeypatch) -> None:
    from envs.task import VideoTask
    from eventful.tasks import load_task

    task = load_task("looks_left:LooksLeft", frames=6)
    assert isinstance(task, VideoTask)
    clip = task.clips("test")[0]
    outputs = task.model(task.preprocess(clip.frames_THWC))
    torch.testing.assert_close(task.loss(outputs, clip.targets), torch.zeros(6), atol=1e-5, rtol=0)


def test_a_task_that_says_what_its_consumer_sees_is_trained_for_that(folder: Path) -> None:
    said = run(blocks("tasks.md", "console")[0].strip(), "threads=1")
    assert "objective: output 1, output_worst 0.1" in said
    assert "start: log||e||" in said
    policy = policies.load(folder / "runs/says-so/policy")
    assert policy.saliency and policy.provenance.objective == {"output": 1.0, "output_worst": 0.1}


def test_frames_of_a_camera_are_served(capsys: pytest.CaptureFixture[str]) -> None:
    exec(blocks("serving.md", "python")[0], {})
    assert re.fullmatch(r"door 0 \d+ ms True\nCounts\(received=1, served=1, dropped=0\)\n", capsys.readouterr().out)


@pytest.fixture
def hub(folder: Path, monkeypatch) -> Path:
    """A folder that stands in for the model hub: what is uploaded lies there, and is downloaded from there."""
    place = folder / "hub"

    def create_repo(api: HfApi, repo_id: str, **options: Any) -> SimpleNamespace:
        (place / repo_id).mkdir(parents=True)
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(api: HfApi, *, repo_id: str, folder_path: str | Path, **options: Any) -> None:
        shutil.copytree(folder_path, place / repo_id, dirs_exist_ok=True)

    def download(repo_id: str, filename: str, **where: Any) -> str:
        return str(place / repo_id / filename)

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    for module in (hub_mixin, policies.trainable):
        monkeypatch.setattr(module, "hf_hub_download", download)
    return place


def test_a_policy_is_shared(folder: Path, hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = "task=looks_left:LooksLeft"
    run(f"eventful-train {task} warm_start=none out=runs/demo", *FEW_STEPS)
    run(f"eventful-evaluate {task} policy=runs/demo/policy out=runs/demo/evaluation", *FEW_CLIPS)
    (card,) = blocks("sharing.md", "console")
    assert run(card.strip()) == "written to runs/demo/policy/README.md\n"
    namespace: dict = {}
    (push,) = blocks("sharing.md", "python")
    exec(push, namespace)
    mine, pushed = folder / "runs/demo/policy", hub / "OWNER/NAME"
    assert sorted(path.name for path in pushed.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert (pushed / "README.md").read_bytes() == (mine / "README.md").read_bytes()
    assert "# Token policy for task looks_left" in (pushed / "README.md").read_text()
    for theirs in (policies.load("OWNER/NAME"), policies.load(pushed), policies.LearnedPolicy.from_pretrained(pushed)):
        assert theirs.settings() == namespace["policy"].settings() and theirs.card == namespace["policy"].card
        for name, tensor in namespace["policy"].state_dict().items():
            assert torch.equal(theirs.state_dict()[name], tensor), name
    write_video(folder / "clip.mp4", 4, 48, 48)
    infer, evaluate = re.findall(r"`eventful-\w+ ([^`]*OWNER/NAME)`", (ROOT / "docs/sharing.md").read_text())
    infer_main([*infer.split(), "--task", "looks_left:LooksLeft"])
    assert "4 frames" in capsys.readouterr().out
    evaluate_main([*evaluate.split(), task, "out=runs/theirs", *FEW_CLIPS])
    table = [(folder / out / "table.csv").read_text() for out in ("runs/theirs", "runs/demo/evaluation")]
    assert table[0] == table[1]


def dinov2_small(**size: int) -> Dinov2Model:
    """As wide as the model of the how-to, with one layer."""
    torch.manual_seed(0)
    return Dinov2Model(Dinov2Config(hidden_size=384, num_hidden_layers=1, num_attention_heads=6, patch_size=14, **size))


def test_a_model_of_transformers_is_wrapped(monkeypatch) -> None:
    monkeypatch.setattr(AutoModel, "from_pretrained", lambda name: dinov2_small(image_size=224).eval())
    namespace: dict = {}
    in_python, _ = blocks("transformers.md", "python")
    exec(in_python, namespace)
    dense, frame = namespace["dense"](namespace["frame"]), namespace["frame"]
    torch.testing.assert_close(namespace["outputs"].pooler_output, dense.pooler_output, atol=1e-4, rtol=1e-4)
    namespace["model"].reset()
    hidden = namespace["model"](frame, output_hidden_states=True).hidden_states
    assert [states.shape for states in hidden] == [dense.last_hidden_state.shape] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "small"),
    [("my-video.md", ["image_size=[28,42]"]), ("transformers.md", ["head=my_head:depth"])],
)
def test_a_policy_for_ones_own_footage(folder: Path, page: str, small: list[str], monkeypatch) -> None:
    """The commands of a page, with a film of a second and a half, and weights that nobody has trained."""
    monkeypatch.setenv("EVENTFUL_CACHE", str(folder / "cache"))
    (folder / "configs").symlink_to(ROOT / "configs")
    write_video(folder / "street.mp4", 40)
    vit = timm.create_model("vit_small_patch14_dinov2", img_size=28)
    save_model(vit, str(folder / "vit_small.safetensors"))
    dinov2_small(image_size=42).save_pretrained(folder / "dinov2-small")
    BitImageProcessor(size={"height": 42, "width": 42}, do_center_crop=False).save_pretrained(folder / "dinov2-small")
    ours = [line for block in blocks(page, "console") for line in block.splitlines() if "street" in line]
    training, evaluation, inference = (line for line in ours if "/dev/" not in line)
    said = run(training, *FEW_STEPS, *small, "oracle.frames=2", "clip_length=4")
    assert ("objective: output 1" in said) == ("head=my_head:depth" in small)
    run(evaluation, *FEW_CLIPS)
    assert "## Learned against the best rule: " in (folder / "runs/street/evaluation/summary.md").read_text()
    said = run(inference, "--json", "lines.jsonl")
    assert "40 frames" in said and len((folder / "lines.jsonl").read_text().splitlines()) == 40
    assert (folder / "street-eventful.mp4").exists() == ("--out street-eventful.mp4" in inference)
