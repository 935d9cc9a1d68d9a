"""Commands that train policies, compare them and time them, and what these share."""

from eventful.checks.shadowing import refuse_shadows

refuse_shadows("envs")
