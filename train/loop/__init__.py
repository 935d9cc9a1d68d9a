"""The training loop, what it looks at, and what it writes down."""
