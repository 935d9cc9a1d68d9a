"""What runs leave on disk: one run a folder, whole folders or none, and what a run was made from."""
