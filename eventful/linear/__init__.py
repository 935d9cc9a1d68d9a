"""Other kernels for the token-wise layers of packed rows: compiled, oneDNN."""
