"""Tuning of a ViViT's temporal part for the features that a policy leaves it, which are kept on disk."""
