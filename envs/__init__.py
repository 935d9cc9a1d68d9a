"""Where decisions are scored: video tasks, and Gymnasium environments over them, registered on import."""

import eventful  # noqa: F401 (comes before everything that takes long, for what it does about interrupts)
from envs.registration import register

register()
