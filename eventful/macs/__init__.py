"""Multiply-accumulates: the ledger of a frame, a counter of any code, the paper's column."""
