"""Presets that join mmgen's configs."""
