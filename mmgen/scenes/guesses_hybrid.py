"""Guesses of hybrids: the body by what it and its parts explain together, then the parts one by one."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from mmgen.scenes.canvas import draw_guesses
from mmgen.scenes.description import COLOURS, PART_SETS, PARTS, SHAPES, Hybrid, Thing
from mmgen.scenes.drawing import BEHIND, Layer, layers
from mmgen.scenes.guesses import INK, NAMES, A, Guess
from mmgen.scenes.layout import Place, layouts
from mmgen.scenes.masks import Masks, Sheet, masks_of

BODIES_KEPT = 4  # compared with the picture
ROUNDS = 3  # of changing one part at a time
BEFORE = tuple(part for part in PARTS if part not in BEHIND)
Found = tuple[Thing, Place, frozenset[str]]


class Bodies:
    """Every body in every place, and what each part would be seen of beside it or on it."""

    def __init__(self) -> None:
        places = [layout[0] for layout in layouts(Hybrid(A, ("ears",)))]
        self.keys = [(shape, place) for shape in SHAPES for place in places]
        body = masks_of([Layer(shape, place, INK) for shape, place in self.keys])
        self.body = Masks(body)
        self.seen: dict[str, Masks] = {}  # of a part that the body covers, what sticks out
        self.parts: dict[str, Masks] = {}  # of one before the body, by place alone
        self.on_body: dict[str, Masks] = {}
        self.sums: dict[str, tuple[Tensor, ...]] = {}
        for part in PARTS:
            whole = masks_of([Layer(part, place, INK) for place in places])
            mask = whole.repeat(len(SHAPES), 1, 1)
            if part in BEHIND:
                seen = mask * (1 - body)
                self.seen[part] = Masks(seen)
                self.sums[part] = (_sum(seen * body), _sum(seen * seen))
            else:
                self.parts[part], self.on_body[part] = Masks(whole), Masks(mask * body)
                both = mask * body
                products = (both, both * body, mask * mask, mask * both, both * both)
                self.sums[part] = tuple(map(_sum, products))

    def gains(self, sheet: Sheet) -> tuple[Tensor, Tensor]:
        """The change of the squared error by each body (B,K,C), and by each part added to it (B,K,C,part)."""
        colours = sheet.colours
        own = colours.square().sum(dim=2)[:, None, :]  # (B,1,C)
        found = [self._part(sheet, part, own) for part in PARTS]
        return self.body.gains(sheet.rest, colours), torch.stack(found, dim=3)

    def _part(self, sheet: Sheet, part: str, own: Tensor) -> Tensor:
        ink = sheet.green if part == "leaves" else sheet.ink  # (B,3)
        across = (sheet.colours @ ink[:, :, None])[:, None, :, 0]  # (B,1,C)
        length = ink.square().sum(dim=1)[:, None, None]
        sums = [each[None, :, None] for each in self.sums[part]]
        if part in BEHIND:
            touching, square = sums
            dots = self.seen[part].dots(sheet.rest) @ ink[:, :, None]  # (B,K,1)
            return -2 * dots + 2 * across * touching + length * square
        both, twice, square, crossed, both_square = sums
        dots = (self.parts[part].dots(sheet.rest) @ ink[:, :, None]).repeat(1, len(SHAPES), 1)
        covered = self.on_body[part].dots(sheet.rest) @ sheet.colours.transpose(1, 2)  # (B,K,C)
        found = -2 * (dots - covered) + 2 * (across * both - own * twice)
        return found + length * square - 2 * across * crossed + own * both_square


def _sum(masks: Tensor) -> Tensor:
    return masks.flatten(1).sum(dim=1)


@cache
def _bodies() -> Bodies:
    return Bodies()


def pieces_of(found: Found, ground: str) -> list[Layer]:
    """Layers of a body with any parts, of which `Hybrid` takes only some."""
    body, place, parts = found
    behind = [_part(part, place, ground) for part in PARTS if part in parts and part in BEHIND]
    before = [_part(part, place, ground) for part in PARTS if part in parts and part not in BEHIND]
    return [*behind, Layer(body.shape, place, COLOURS[body.colour]), *before]


@cache
def _part(part: str, place: Place, ground: str) -> Layer:
    return next(layer for layer in layers(Hybrid(A, (part,), background=ground), (place,)) if layer.form == part)


def guess_hybrids(sheet: Sheet) -> list[list[Guess]]:
    """Of `Hybrid`. Parts are read in any number; where a hybrid cannot have just those, the nearest set that it can
    have is given and the rest is told."""
    body, parts = _bodies().gains(sheet)
    totals = (body + parts.clamp(max=0).sum(dim=3)).flatten(1)
    numbers = totals.topk(BODIES_KEPT, dim=1, largest=False).indices
    own = parts.flatten(1, 2).gather(1, numbers[:, :, None].expand(-1, -1, len(PARTS)))
    starts: list[list[Found]] = []
    for row, gains in zip(numbers.tolist(), own.tolist(), strict=True):
        tries = []
        for number, part_gains in zip(row, gains, strict=True):
            shape, place = _bodies().keys[number // len(NAMES)]
            there = frozenset(part for part, gain in zip(PARTS, part_gains, strict=True) if gain < 0)
            tries.append((Thing(shape, NAMES[number % len(NAMES)]), place, there))
        starts.append(tries)
    best, errors = _best(sheet, list(range(len(starts))), starts)
    going = list(range(len(starts)))
    for _ in range(ROUNDS):
        changed, again = _best(sheet, going, [_neighbours(best[i]) for i in going])
        better = [(i, found, error) for i, found, error in zip(going, changed, again, strict=True) if error < errors[i]]
        for i, found, error in better:
            best[i], errors[i] = found, error
        going = [i for i, _, _ in better]
        if not going:
            break
    return [[_allowed(found, ground)] for found, ground in zip(best, sheet.grounds, strict=True)]


def _neighbours(found: Found) -> list[Found]:
    body, place, parts = found
    return [(body, place, parts ^ {part}) for part in PARTS]


def _best(sheet: Sheet, which: list[int], tries: list[list[Found]]) -> tuple[list[Found], list[float]]:
    """Of several candidates for each of these pictures, the one whose drawing is nearest, and its squared error."""
    pieces = [pieces_of(found, sheet.grounds[i]) for i, row in zip(which, tries, strict=True) for found in row]
    count = len(tries[0])
    drawn = draw_guesses(pieces, [sheet.grounds[i] for i in which for _ in range(count)])
    errors = (drawn.view(len(which), count, -1) - sheet.images[which].flatten(1)[:, None]).square().sum(dim=2)
    values, places = errors.min(dim=1)
    return [row[place] for row, place in zip(tries, places.tolist(), strict=True)], values.tolist()


def _allowed(found: Found, ground: str) -> Guess:
    body, place, parts = found
    nearest = min(PART_SETS, key=lambda allowed: len(parts ^ set(allowed)))
    notes = [f"{part} more" for part in PARTS if part in parts and part not in nearest]
    notes += [f"{part} missing" for part in nearest if part not in parts]
    return Guess(Hybrid(body, nearest, background=ground), (place,), tuple(notes))
