"""The command that counts the published compute columns."""

import re

import pytest

from train.paper import compute
from train.paper.published import PUBLISHED, PUBLISHED_CLIPS


@pytest.fixture(scope="module")
def lines():
    """All rows, by model and row."""
    tables = {str(size): compute.detection_lines(size, 260) for size in PUBLISHED}
    tables |= {data: compute.clip_lines(data) for data in PUBLISHED_CLIPS}
    return {(table, line[0]): line for table, rows in tables.items() for line in rows}


def test_what_a_row_determines_is_within_half_a_percent(lines):
    differences = [float(line[3].rstrip(" %")) for line in lines.values() if line[3]]
    assert len(differences) == 40 and max(map(abs, differences)) < 0.5


def test_what_is_left_open_has_a_count_that_can_be(lines):
    open_ones = {key: line[4] for key, line in lines.items() if not line[3]}
    assert len(open_ones) == 9
    for (_, name), said in open_ones.items():
        count, of = map(int, re.findall(r"^(\d+) of (\d+)", said)[0])
        if name.startswith("pooled"):
            r = int(name.rsplit(":", 1)[1])
            assert r / 4 <= count <= min(r, of) and of == 1024
        else:
            assert 0 < count < of == 4096
    # The published figure of h = 1.0 lies just below that of r = 2048.
    assert open_ones["1024", "eventful:threshold:1.0"] == "2042 of 4096 tokens (49.8 %)"


def test_the_command_prints_a_table_for_each_model(capsys):
    with pytest.raises(SystemExit) as end:
        compute.main(["--frames", "250"])
    out = capsys.readouterr().out
    assert end.value.code == 0 and out.count("| row ") == 4 and "ViViT-B, kinetics" in out
    with pytest.raises(SystemExit) as end:
        compute.main(["--frames", "0"])
    assert end.value.code == 2 and "--frames must be at least 1, got 0" in capsys.readouterr().err
