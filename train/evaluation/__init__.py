"""Learned against heuristic policies: runs, statistics, tables, pictures."""
