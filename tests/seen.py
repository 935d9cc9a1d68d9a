"""Observations of a gate, out of nothing."""

import torch

from policies import GateObservation, Layout


def layout(tokens: int = 13, prefix: int = 1, gates: int = 1, granularity: str = "frame", dim: int = 8) -> Layout:
    shares = tuple(m / tokens for m in range(tokens + 1))
    return Layout(tokens, prefix, (3, (tokens - prefix) // 3), dim, gates, granularity, shares)  # type: ignore[arg-type]


def observation(B: int = 2, gate: int = 0, seed: int = 0, scale: float = 1.0, **kwargs) -> GateObservation:
    at = layout(**kwargs)
    generator = torch.Generator().manual_seed(seed)
    c, u = (torch.randn(B, at.tokens, at.dim, generator=generator) for _ in range(2))
    return GateObservation(
        layout=at,
        gate=gate,
        kind="frame" if at.granularity == "frame" else "qkv",
        input_BND=u + scale * (c - u),
        reference_BND=u,
        age_BN=torch.randint(1, 9, (B, at.tokens), generator=generator),
        output_BND=torch.randn(B, at.tokens, at.dim, generator=generator),
    )
