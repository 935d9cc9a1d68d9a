"""Motion compensation: what is stale is moved along with the picture before it is read."""
