"""Load test of `eventful.serving`: simulated cameras that join and leave."""
