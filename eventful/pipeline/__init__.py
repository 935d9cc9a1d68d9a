"""Beside the model: frames read ahead of it, results drawn and written behind it, and where the time goes."""
