"""Weights that others have published, by the names of this package's models."""
