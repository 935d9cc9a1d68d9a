"""Live sources: a frame rate that is held, connections that come back."""
