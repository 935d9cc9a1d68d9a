"""Other kernels for token-wise layers: compiled, oneDNN."""
