"""Where decisions are scored: video tasks, and Gymnasium environments over them, registered on import."""

from envs.registration import register

register()
