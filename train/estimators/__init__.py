"""Gradients for a policy: Gumbel, REINFORCE, the oracle warm start. Start at `train.estimators.protocol`."""
