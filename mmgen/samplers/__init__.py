"""Decoding: image tokens drawn from a generator."""
