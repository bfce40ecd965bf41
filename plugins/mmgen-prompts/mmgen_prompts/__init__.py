"""Packs of class names and templates, as data: see the README. There is no code here."""
