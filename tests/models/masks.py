"""The masks of DALL·E written out from the paper's words (section 2.2, figure 11), token by token, without our code."""

from __future__ import annotations

import torch


def image_sees(name: str, grid: tuple[int, int], kernel_size: int) -> list[set[int]]:
    """For every image token, in raster order, the image tokens it sees."""
    height, width = grid
    tokens = [(row, column) for row in range(height) for column in range(width)]
    seen: list[set[int]] = []
    for number, (row, column) in enumerate(tokens):
        if name == "full":
            mine = set(range(number + 1))
        elif name == "row":  # "attends to the previous 5 image tokens in raster order": on 4×4, itself among them
            mine = {other for other in range(number + 1) if number - other in range(width + 1)}
        elif name == "column":
            mine = {other for other, (r, c) in enumerate(tokens) if c == column and r <= row}
        else:  # a kernel around the token, of which the future is cut off; its columns wrap around
            reach = range(-(kernel_size // 2), kernel_size // 2 + 1)
            cells = {(row + down) * width + column + right for down in reach for right in reach}
            mine = {cell for cell in cells if 0 <= cell <= number}
        seen.append(mine)
    return seen


def table(name: str, text_length: int, grid: tuple[int, int], order: str, kernel_size: int = 11) -> torch.Tensor:
    """Who (row) sees whom (column) in the whole stream, as bools."""
    text = [("text", i) for i in range(text_length)]
    image = [("image", i) for i in range(grid[0] * grid[1])]
    stream = text + image if order == "text_first" else image + text
    near = image_sees(name, grid, kernel_size)
    rows = []
    for kind, number in stream:
        row = []
        for other_kind, other in stream:
            if kind == other_kind == "text":
                row.append(other <= number)
            elif kind == other_kind == "image":
                row.append(other in near[number])
            else:  # the second part of the stream sees all of the first
                row.append((kind == "image") == (order == "text_first"))
        rows.append(row)
    return torch.tensor(rows)
