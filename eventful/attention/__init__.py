"""How tokens attend to each other, and how that is brought up to date. Start at `eventful.attention.protocol`."""
