"""Published checkpoints as weights files of this package: `python -m envs.convert FILE --to OUT.safetensors`."""
