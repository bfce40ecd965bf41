"""One page a command: what it needs, in which order, and what it prints."""
