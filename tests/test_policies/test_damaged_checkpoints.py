"""Policy checkpoints are read strictly: what is not exactly what was saved ends with one line, allocating nothing."""

import json
import logging
import math
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from seen import observation
from torch import nn

import policies
from policies import CheckpointError, LearnedPolicy, TrainablePolicy
from policies.checkpoint import set_aside


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    policy = LearnedPolicy(1, 8, hidden=4, projections=2)
    nn.init.normal_(policy.out.weight)
    policy.save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


def refused(folder: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        policies.load(folder)
    assert "\n" not in str(caught.value)


def edit(folder: Path, **settings) -> None:
    config = json.loads((folder / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps(config))


def rewrite(folder: Path, change) -> None:
    """Writes the tensors anew, as version 0.1 did: without a checksum."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_the_same_policy_is_the_same_file(folder: Path, tmp_path: Path) -> None:
    policy, files = policies.load(folder), set()
    for k in range(12):
        policy.save_pretrained(tmp_path / str(k))
        files.add((tmp_path / str(k) / "model.safetensors").read_bytes())
    assert len(files) == 1


def test_every_flipped_bit_is_noticed_or_harmless(folder: Path) -> None:
    """One bit in every 11th byte of both files: no such file loads as another policy."""
    want = policies.load(folder).select(observation()).as_mask(13)
    state = policies.load(folder).state_dict()
    noticed = 0
    for name in ("config.json", "model.safetensors"):
        whole = (folder / name).read_bytes()
        for k in range(0, len(whole), 11):
            flipped = bytearray(whole)
            flipped[k] ^= 1 << k % 7
            (folder / name).write_bytes(flipped)
            try:
                found = policies.load(folder)
            except CheckpointError:
                noticed += 1
                continue
            assert all(torch.equal(value, found.state_dict()[n]) for n, value in state.items()), (name, k)
            assert torch.equal(found.select(observation()).as_mask(13), want)
        (folder / name).write_bytes(whole)
    assert noticed > 100


def test_files_without_a_checksum_load_if_they_are_whole(folder: Path) -> None:
    before = policies.load(folder).state_dict()
    rewrite(folder, lambda tensors: None)
    assert all(torch.equal(value, before[name]) for name, value in policies.load(folder).state_dict().items())


CHANGES = {
    "none": (lambda t: t.clear(), r"it lacks \w+ and 11 more"),
    "one": (lambda t: t.pop("out.weight"), "it lacks out.weight$"),
    "renamed": (lambda t: t.update({"out.weighu": t.pop("out.weight")}), "it lacks out.weight"),
    "more": (lambda t: t.update(extra=torch.zeros(2)), "it has extra, which the policy has not"),
    "shape": (
        lambda t: t.update({"out.weight": torch.zeros(1, 5)}),
        r"out.weight is \(1, 5\), the policy's is \(1, 4\)",
    ),
    "integers": (lambda t: t.update({"out.bias": torch.zeros(1, dtype=torch.int32)}), "out.bias is torch.int32"),
    "doubles": (lambda t: t.update({"out.bias": torch.zeros(1).double()}), "out.bias is torch.float64"),
    "NaN": (lambda t: [x.fill_(math.nan) for x in t.values()], "and 11 more has values that are not finite"),
    "infinite": (lambda t: t["out.bias"].fill_(math.inf), "out.bias has values that are not finite"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_tensors_that_are_not_the_policys_are_refused(folder: Path, kind: str) -> None:
    change, said = CHANGES[kind]
    rewrite(folder, change)
    refused(folder, said)


def test_half_precision_is_read_as_it_is(folder: Path) -> None:
    policies.load(folder).bfloat16().save_pretrained(folder / "half")
    assert policies.load(folder / "half").out.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"hidden": 10_000_000}, r"the policy's is \(.*10000000"),
        ({"gates": 10**12}, r"the policy's is \(1000000000000"),
        ({"hidden": 10**30}, "not a readable policy checkpoint"),
        ({"hidden": "32"}, "not a readable policy checkpoint"),
        ({"hidden": 5}, "model.safetensors does not fit the settings beside it"),
        ({"budget": "0.1"}, "budget must be a number, got '0.1'"),
        ({"budget": math.nan}, r"in \(0, 1\], got nan"),
        ({"budgets": "0.1"}, "not a readable policy checkpoint"),
        ({"budgets": [math.nan]}, "budgets must ascend strictly"),
        ({"feedback": math.nan}, "feedback must be a number from 0, got nan"),
        ({"feedback": -1.0}, "feedback must be a number from 0, got -1"),
        ({"saliency_exponent": math.nan}, "saliency_exponent must be at least 0"),
        ({"max_age": 2.5}, "max_age must be a number of frames"),
        ({"select": ["top"]}, "select must be one of threshold, top"),
        ({"budget": 0.2}, "the checksum is another"),
        ({"provenance": ["doom"]}, r"config\.json: provenance must be a table"),
        ({"provenance": {"task": {"name": 5}}}, r"config\.json: provenance must name its task by a text"),
        ({"provenance": {"policy": ["a"]}}, r"config\.json: provenance must name its policy by a text"),
        ({"provenance": {"objective": {"output": "much"}}}, r"the objective's output must be a number, got 'much'"),
        ({"provenance": {"options": 3}}, "must hold tables"),
    ],
)
def test_settings_that_are_not_what_was_saved_are_refused(folder: Path, settings, said: str) -> None:
    edit(folder, **settings)
    refused(folder, said)


def test_settings_that_are_missing_or_no_table_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["gates"]
    for text, said in (
        (json.dumps(config), "not a readable policy checkpoint: TypeError: .*missing.*gates"),
        ("[1, 2]", "must hold a table of settings"),
        ("[" * 100_000, "not valid JSON"),
        ('{"gates": 1, ', "not valid JSON"),
        ("\0\0", "not valid JSON"),
    ):
        (folder / "config.json").write_text(text)
        refused(folder, said)
    (folder / "config.json").write_bytes(b"\xff\xfe{}")
    refused(folder, "not valid JSON")
    (folder / "config.json").unlink()
    refused(folder, r"has no config\.json: not a policy checkpoint")


def test_torn_tensors_are_refused(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    for size in (0, 5, 300, len(whole) - 1):
        (folder / "model.safetensors").write_bytes(whole[:size])
        refused(folder, "is damaged")


def test_a_checkpoint_that_stands_aside_for_another_is_found(folder: Path) -> None:
    folder.rename(set_aside(folder))
    assert policies.load(folder).gates == 1


class Looking(TrainablePolicy):
    """Notes where its process speaks while it is made."""

    seen: tuple = ()

    def __init__(self, gates, dim, granularity="frame", **settings):
        super().__init__(gates, dim, granularity, **settings)
        Looking.seen = (sys.stdout, sys.stderr, logging.root.handlers[:], logging.root.level, warnings.showwarning)

    def residual(self, observation, relative_BN, budget_B):
        return observation.input_BND.mean(-1)

    def residual_macs(self, layout):
        return 0.0


def test_loading_leaves_what_other_threads_speak_to(tmp_path: Path) -> None:
    Looking(1, 8).save_pretrained(tmp_path)
    now = (sys.stdout, sys.stderr, logging.root.handlers[:], logging.root.level, warnings.showwarning)
    policies.load(tmp_path, Looking)
    assert Looking.seen == now


class Tied(TrainablePolicy):
    """Two names for one tensor, and a constructor that looks at values."""

    def __init__(self, gates, dim, granularity="frame", **settings):
        super().__init__(gates, dim, granularity, **settings)
        self.first = nn.Linear(dim, 1)
        self.second = nn.Linear(dim, 1)
        self.second.weight = self.first.weight
        self.scale = float(torch.ones(1).sum())

    def residual(self, observation, relative_BN, budget_B):
        return self.second(observation.input_BND).squeeze(-1)

    def residual_macs(self, layout):
        return float(layout.tokens * layout.dim)


def test_tied_tensors_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    policy = Tied(1, 8)
    policy.save_pretrained(tmp_path)
    assert "second.weight" not in load_file(tmp_path / "model.safetensors")
    loaded = policies.load(tmp_path, Tied)
    assert loaded.second.weight is loaded.first.weight
    torch.testing.assert_close(loaded.score(observation()), policy.score(observation()))


def test_a_misspelt_folder_is_not_looked_for_on_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LearnedPolicy, "from_pretrained", lambda *_: pytest.fail("it is looked for"))
    monkeypatch.chdir(folder.parent.parent)
    place, name = folder.parent.name, folder.name
    for wrong in (f"{place}/{name}x", f"{place}/{name[:-1]}", f"./{place}/{name}x", str(folder) + "x"):
        with pytest.raises(CheckpointError, match=rf"no policy checkpoint at .*; did you mean .*{name}\?"):
            policies.load(wrong)
    with pytest.raises(CheckpointError, match=r"no policy checkpoint at \S+: expected a folder"):
        policies.load(f"{place}/nothing-like-it")
