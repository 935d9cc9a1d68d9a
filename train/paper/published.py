"""Published figures of ViTDet-B on ImageNet VID (Eventful Transformers, ICCV 2023): mAP50 in percent and 10^9 MACs."""

from __future__ import annotations

from collections.abc import Sequence

Figures = tuple[float, float]


def _rows(variant: str, rule: str, values: Sequence[float], figures: Sequence[Figures]) -> dict[str, Figures]:
    return {f"{variant}:{rule}:{value}": pair for value, pair in zip(values, figures, strict=True)}


_R = (2048, 1536, 1024, 768, 512, 256)

PUBLISHED: dict[int, dict[str, Figures]] = {
    1024: {
        "dense": (82.93, 467.4),
        "pooled-dense": (80.15, 388.1),
        **_rows(
            "eventful",
            "top-r",
            _R,
            [(82.94, 294.9), (82.79, 225.9), (82.00, 156.8), (81.25, 122.3), (79.38, 87.8), (73.29, 53.3)],
        ),
        **_rows(
            "token-wise",
            "top-r",
            _R,
            [(82.97, 294.1), (82.93, 250.7), (82.58, 207.3), (82.08, 185.7), (81.11, 164.0), (76.60, 142.3)],
        ),
        **_rows(
            "stgt",
            "top-r",
            _R,
            [(82.92, 294.1), (82.60, 250.7), (81.25, 207.3), (79.81, 185.7), (76.70, 164.0), (68.73, 142.3)],
        ),
        **_rows(
            "pooled",
            "top-r",
            _R,
            [(80.14, 217.0), (80.07, 169.3), (79.50, 121.0), (78.69, 96.3), (76.96, 70.9), (71.35, 44.5)],
        ),
        **_rows("eventful", "threshold", (0.2, 1.0, 5.0), [(83.00, 431.8), (82.75, 294.1), (78.11, 133.5)]),
    },
    672: {
        "dense": (82.28, 174.5),
        **_rows(
            "eventful",
            "top-r",
            (1024, 768, 512, 384, 256, 128),
            [(82.23, 115.1), (82.21, 87.9), (81.84, 60.7), (81.43, 47.1), (80.16, 33.5), (75.19, 19.9)],
        ),
        **_rows("token-wise", "top-r", (512, 256, 128), [(82.01, 68.5), (80.76, 46.8), (76.96, 36.0)]),
    },
}
"""By side of the canvas and name of the row."""
