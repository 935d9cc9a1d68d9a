"""Reference pages that are written by a command, from what the code itself says."""
