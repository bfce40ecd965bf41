"""Draws every mask of the stream, from its predicate: `python benchmarks/masks.py docs/images/masks.png`.

Six text tokens and a grid of 4×4, with a convolution of 3×3, as in figure 11 of the DALL·E paper. Rows are queries,
columns keys, both in the order of the stream.
"""

from __future__ import annotations

import sys
from typing import get_args

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmgen.stream import Mask, MaskName, Order, TokenStream

CELL, GAP, HEAD, SIDE = 15, 26, 48, 30
INK, LINE, EMPTY = (40, 44, 52), (214, 218, 224), (246, 247, 249)
COLOURS = {  # (is the query an image token?, is the key?)
    (False, False): ("text sees text", (94, 129, 172)),
    (True, False): ("image sees text", (143, 188, 187)),
    (False, True): ("text sees image", (180, 142, 173)),
    (True, True): ("image sees image", (208, 135, 112)),
}


def draw_mask(draw: ImageDraw.ImageDraw, mask: Mask, left: int, top: int) -> None:
    """One square of cells; a line parts text from image, and the rows of the grid from each other."""
    length, stream = mask.stream.length, mask.stream
    position = np.arange(length)
    seen, is_image = mask(position[:, None], position[None]), stream.is_image(position)
    for query in range(length):
        for key in range(length):
            x, y = left + key * CELL, top + query * CELL
            colour = COLOURS[bool(is_image[query]), bool(is_image[key])][1] if seen[query, key] else EMPTY
            draw.rectangle((x, y, x + CELL - 1, y + CELL - 1), fill=colour, outline=LINE)
    lines = {stream.image_start: INK, stream.text_start: INK}
    lines |= {stream.image_start + row * stream.grid[1]: (150, 155, 165) for row in range(1, stream.grid[0])}
    for at, ink in lines.items():
        if 0 < at < length:
            draw.line((left + at * CELL, top, left + at * CELL, top + length * CELL), fill=ink)
            draw.line((left, top + at * CELL, left + length * CELL, top + at * CELL), fill=ink)


def main(path: str) -> None:
    """Writes the picture."""
    names, orders = get_args(MaskName), get_args(Order)
    size = CELL * (6 + 16)
    width = SIDE + len(names) * (size + GAP) + SIDE - GAP
    picture = Image.new("RGB", (width, HEAD + len(orders) * (size + HEAD) + 24), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    for row, order in enumerate(orders):
        for column, name in enumerate(names):
            left, top = SIDE + column * (size + GAP), HEAD + row * (size + HEAD)
            draw.text((left, top - 24), f"{name}, {order}", fill=INK, font=font)
            draw_mask(draw, TokenStream(6, (4, 4), order).mask(name, 3), left, top)
    x, y = SIDE, HEAD + len(orders) * (size + HEAD) - 20
    for label, colour in COLOURS.values():
        draw.rectangle((x, y, x + 16, y + 16), fill=colour)
        draw.text((x + 24, y - 2), label, fill=INK, font=font)
        x += 200
    picture.save(path, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
