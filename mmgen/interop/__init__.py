"""Weights that others trained, read without running anything of theirs, and turned into parts with a report."""
