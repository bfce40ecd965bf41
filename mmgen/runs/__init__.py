"""The directory of a run: its lock, its status, its metrics and what it came from."""
