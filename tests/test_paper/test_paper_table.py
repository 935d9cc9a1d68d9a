"""The paper's tables: shards make the same table as one process, interrupted runs go on, compute is the paper's."""

import csv

import pytest
import torch

from envs.task import Clip
from envs.vid import ClassList
from envs.vid.write import write_official
from envs.vitdet.detector import vitdet_b_vid
from envs.vitdet.paper_column import architecture_of
from eventful.macs import paper_column
from train.config import load_config
from train.paper import detection as run
from train.paper.detection_config import PaperConfig
from train.paper.published import PUBLISHED
from train.paper.rows import parse_row

CLASSES = ("dog", "zebra")
TINY = "{embed_dim: 24, depth: 2, heads: 2, window: 2, global_blocks: [1]}"
ROWS = "[dense,eventful:top-r:4,eventful:top-r:16,token-wise:top-r:4,stgt:top-r:4,pooled:top-r:4]"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vid")
    random = torch.Generator().manual_seed(0)
    clips = []
    for k in range(3):
        frames = torch.randint(0, 255, (3, 48, 64, 3), generator=random, dtype=torch.uint8)
        target = {"boxes": torch.tensor([[4.0, 4, 60, 44]]), "labels": torch.tensor([k % 2])}
        clips.append(Clip(f"clip-{k}", frames, [target] * 3))
    write_official(folder, "val", clips, ClassList(CLASSES))
    return folder


def compute(root, out, *overrides, rank=0, world=1, patch=None):
    settings = ["canvas=64", "proposals=4", f"architecture={TINY}", f"classes=[{','.join(CLASSES)}]", f"rows={ROWS}"]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(world))
        if patch is not None:
            monkeypatch.setattr(run.PaperTable, "_run", patch)
        with pytest.raises(SystemExit) as end:
            run.main([*settings, *overrides, f"root={root}", f"out={out}"])
    return end.value.code


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("one") / "table"
    assert compute(root, out) == 0
    return out


def files(out):
    return [(out / name).read_bytes() for name in ("table.md", "table.csv")]


def lines(out, row):
    return sorted(line for path in (out / "results" / row).iterdir() for line in path.read_text().splitlines())


def test_two_processes_find_what_one_does_to_the_bit(root, whole, tmp_path):
    out = tmp_path / "two"
    assert compute(root, out, rank=1, world=2) == 0
    assert not (out / "table.md").exists(), "half of the results are no table"
    assert compute(root, out, rank=0, world=2) == 0
    assert files(out) == files(whole)
    rows = sorted(path.name for path in (whole / "results").iterdir())
    assert len(rows) == 6 and [lines(out, row) for row in rows] == [lines(whole, row) for row in rows]
    assert {path.name for path in (out / "results/dense").iterdir()} == {"0.jsonl", "1.jsonl"}


def test_an_interrupted_run_goes_on(root, whole, tmp_path):
    out, original, ran = tmp_path / "out", run.PaperTable._run, []

    def breaks(table, row, sequence):
        if len(ran) == 4:
            raise KeyboardInterrupt
        ran.append((row.name, sequence.name))
        return original(table, row, sequence)

    assert compute(root, out, patch=breaks) == 130
    # As a process that was killed leaves it: the last line without its end.
    with (out / "results/eventful_top-r_4/0.jsonl").open("a") as file:
        file.write('{"sequence": "clip-')
    before, again = list(ran), []

    def counts(table, row, sequence):
        again.append((row.name, sequence.name))
        return original(table, row, sequence)

    assert compute(root, out, patch=counts) == 0
    assert len(again) == 18 - 4 and not set(again) & set(before)
    assert files(out) == files(whole)


def test_the_columns_are_the_papers(whole):
    with (whole / "table.csv").open() as file:
        rows = {row["row"]: row for row in csv.DictReader(file)}
    giga = {name: float(row["G"]) for name, row in rows.items()}
    sizes = paper_column.Architecture((4, 4), 24, 2, 2, window=2, windowed=frozenset({0}), relative=True)
    flush = sum(paper_column.flush_macs(sizes).values())
    for name, alone in (("eventful:top-r:4", False), ("token-wise:top-r:4", True), ("stgt:top-r:4", True)):
        steady = sum(paper_column.steady_macs(sizes, [paper_column.Selected(4, 4, 4)] * 2, alone).values())
        assert giga[name] == pytest.approx((flush + 2 * steady) / 3 / 1e9)
    assert giga["dense"] == pytest.approx(flush / 1e9)
    # All tokens are selected: only the casts to half precision can move a detection.
    assert float(rows["eventful:top-r:16"]["mAP50"]) == pytest.approx(float(rows["dense"]["mAP50"]), abs=1)
    assert giga["pooled:top-r:4"] < giga["eventful:top-r:4"]
    assert "published" not in (whole / "table.md").read_text()


def test_the_accounting_knows_the_published_models():
    for size, pooled in ((672, False), (1024, True)):
        vit = vitdet_b_vid(size, pooled, device="meta")
        assert architecture_of(vit, size) == paper_column.vitdet_b(size, 2 if pooled else 1)


@pytest.mark.parametrize("size", [672, 1024])
def test_the_configs_have_a_row_for_every_published_figure(size):
    config = load_config(PaperConfig, [f"configs/vid_{size}.yaml", "root=x"])
    assert config.canvas == size and all(parse_row(name).name == name for name in config.rows)
    assert set(PUBLISHED[size]) <= set(config.rows)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("rows=[sparse:top-r:4]", "begin with one of dense, eventful"),
        ("rows=[eventful]", "not of the form eventful:RULE"),
        ("rows=[dense:top-r:4]", "the dense model asks no rule"),
        ("rows=[dense,dense]", "rows must be different ones"),
        ("max_sequences=0", "max_sequences must be at least 1"),
        ("split=test", "test.txt is missing"),
        ("half=false", "has results of another setting (half)"),
    ],
)
def test_wrong_settings_end_with_one_line(root, whole, capsys, override, said):
    assert compute(root, whole, override) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
