"""Time, memory and compute of eventful inference against the dense model."""
