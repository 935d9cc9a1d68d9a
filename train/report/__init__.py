"""Pages of results, made from the files of finished evaluations."""
