"""Registers the environments with Gymnasium; importing `envs` does it.

Either `import envs` first, or name the module in the id: `gymnasium.make("envs:eventful/FrameSelection-v0")`. The entry
point `gymnasium.envs` is for loaders that look for plugins; Gymnasium itself has loaded none since 1.0.
"""

from __future__ import annotations

import gymnasium

IDS = ("eventful/FrameSelection-v0", "eventful/GateSelection-v0")


def register() -> None:
    """Registers `IDS`; does nothing for those that are registered."""
    for name in IDS:
        if name in gymnasium.registry:
            continue
        kind = name.split("/")[1].split("-")[0]
        gymnasium.register(
            name,
            entry_point=f"envs.gymnasium_env:{kind}Env",
            vector_entry_point=f"envs.gymnasium_vector_env:{kind}VectorEnv",
        )
