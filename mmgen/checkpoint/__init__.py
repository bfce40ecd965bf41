"""Files that survive a crash and are never trusted: checkpoints, parts, exports."""
