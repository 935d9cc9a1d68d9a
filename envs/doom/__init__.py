"""Doom detection: recorded ViZDoom clips with boxes, a small detector, mAP50. Start at `envs.doom.task`."""
