"""Frames and boxes on the canvas of the published VID models; pixels and sizes are the authors' code's."""

from __future__ import annotations

import pytest
import torch
from golden_vitdet import golden_frame, golden_input

from envs.vitdet.canvas import Canvas


@pytest.mark.parametrize(
    ("side", "source", "fitted", "box"),
    [
        (1024, (720, 1280), (576, 1024), [8.0, 16.0, 88.0, 176.0]),
        (1024, (480, 640), (640, 853), [13.333334, 26.666668, 146.66667, 293.33334]),
        (1024, (500, 375), (853, 640), [17.066668, 34.133335, 187.73334, 375.46667]),
        (1024, (576, 720), (640, 800), [11.111112, 22.222223, 122.22223, 244.44446]),
        (672, (1080, 1920), (378, 672), [3.5, 7.0, 38.5, 77.0]),
        (672, (576, 720), (420, 525), [7.291667, 14.583334, 80.208336, 160.41667]),
    ],
)
def test_sizes_and_boxes(side: int, source: tuple[int, int], fitted: tuple[int, int], box: list[float]) -> None:
    canvas, on_frame = Canvas(side), torch.tensor([10.0, 20, 110, 220])
    assert canvas.fitted(source) == fitted
    placed = canvas.place(on_frame, source)
    torch.testing.assert_close(placed, torch.tensor(box), atol=1e-4, rtol=0)
    torch.testing.assert_close(canvas.lift(placed, source), on_frame, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("source", "rows", "columns", "expected"),
    [
        ((720, 1280), (126, 377), (224, 671), [[[43, 140, 236], [120, 128, 131]], [[99, 130, 128], [162, 144, 137]]]),
        ((500, 375), (186, 559), (140, 419), [[[80, 177, 18], [49, 56, 143]], [[121, 127, 208], [101, 53, 246]]]),
        ((240, 320), (140, 419), (186, 559), [[[126, 223, 64], [175, 125, 60]], [[201, 173, 110], [110, 157, 172]]]),
    ],
)
def test_pixels(
    source: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int], expected: list[list[list[int]]]
) -> None:
    (resized_CHW,) = Canvas(672).resize(golden_frame(0, *source))
    assert resized_CHW.dtype == torch.uint8
    assert resized_CHW[:, rows][:, :, columns].permute(1, 2, 0).tolist() == expected


def test_what_no_frame_covers_is_the_mean_colour() -> None:
    x_BCHW = golden_input(0)
    assert x_BCHW.shape == (1, 3, 320, 320)
    assert (x_BCHW[..., 256:, :] == 0).all() and (x_BCHW[..., :256, :].abs() > 0).float().mean() > 0.9
    pixel = golden_frame(0)[0, 17, 33].float()
    expected = (pixel - torch.tensor([123.675, 116.28, 103.53])) / torch.tensor([58.395, 57.12, 57.375])
    torch.testing.assert_close(x_BCHW[0, :, 17, 33], expected, atol=1e-5, rtol=0)


def test_boxes_beside_the_frame_are_cut_when_they_are_lifted() -> None:
    lifted = Canvas(672).lift(torch.tensor([[-1.0, 300, 100, 500], [600, 10, 672, 20]]), (720, 1280))
    assert lifted[0, 3] == 720 and lifted[0, 0] == 0 and lifted[1, 2] == 1280


@pytest.mark.parametrize(
    "frames", [torch.zeros(1, 8, 8, 3), torch.zeros(8, 8, 3).byte(), torch.zeros(1, 3, 8, 8).byte()]
)
def test_what_is_no_frame_is_refused(frames: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"frames must be uint8 of shape \(B, H, W, 3\)"):
        Canvas(672).prepare(frames)


def test_a_canvas_has_a_size() -> None:
    with pytest.raises(ValueError, match="must be positive, got 0"):
        Canvas(0)
