"""A bitmap font of our own: A to Z in 3×5 cells, wide strokes, so that four letters fit 32 pixels with two a cell.

Any two letters differ in two cells or more (tested).
"""

from __future__ import annotations

COLUMNS, ROWS = 3, 5

_PICTURES = """
A.#. B##. C.## D##. E### F### G.## H#.# I### J..# K#.# L#.. M###
A#.# B#.# C#.. D#.# E#.. F#.. G#.. H#.# I.#. J..# K##. L#.. M###
A### B##. C#.. D#.# E##. F##. G#.# H### I.#. J..# K#.. L#.. M#.#
A#.# B#.# C#.. D#.# E#.. F#.. G#.# H#.# I.#. J#.# K##. L#.. M#.#
A#.# B### C.## D##. E### F#.. G.## H#.# I### J.#. K#.# L### M#.#

N##. O.#. P### Q### R##. S.## T### U#.# V#.# W#.# X#.# Y#.# Z###
N#.# O#.# P#.# Q#.# R#.# S#.. T.#. U#.# V#.# W#.# X.#. Y#.# Z..#
N#.# O#.# P### Q#.# R##. S.#. T.#. U#.# V#.# W### X.#. Y### Z.#.
N#.# O#.# P#.. Q### R##. S..# T.#. U#.# V#.# W### X.#. Y.#. Z#..
N#.# O.#. P#.. Q..# R#.# S##. T.#. U### V.#. W### X#.# Y.#. Z###
"""


def _read() -> dict[str, tuple[tuple[bool, ...], ...]]:
    rows: dict[str, list[tuple[bool, ...]]] = {}
    for word in _PICTURES.split():
        rows.setdefault(word[0], []).append(tuple(cell == "#" for cell in word[1:]))
    return {letter: tuple(lines) for letter, lines in sorted(rows.items())}


FONT = _read()  # letter to its cells, [row][column], from the top left
LETTERS = "".join(FONT)
