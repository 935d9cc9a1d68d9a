"""Mistakes that would otherwise show late, or never: what is caught where it enters."""
