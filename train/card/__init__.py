"""Model cards of policies, made from evaluations."""
