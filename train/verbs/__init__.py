"""Training of a small factorised ViViT on clips of verbs: `python -m train.verbs`."""
