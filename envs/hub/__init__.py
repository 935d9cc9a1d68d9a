"""Models of `transformers` by name or folder, as tasks without labels use them."""
