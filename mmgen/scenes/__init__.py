"""A small world of coloured shapes, words and hybrids, where what a picture shows is known exactly.

`description` says what a scene can be, `grammar` turns it into captions and back, `sampling` draws description and
layout number i, `drawing` draws them, and `heldout` knows what is never trained on.
"""
