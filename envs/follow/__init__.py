"""Follow: where is the like of what was in the box? Footage without labels; the consumer looks at little of it."""

from envs.follow.task import Follow

__all__ = ["Follow"]
