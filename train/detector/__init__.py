"""Training of the shipped Doom detector: `python -m train.detector`."""
