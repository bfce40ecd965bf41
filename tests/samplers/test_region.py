"""Which codes are drawn anew: against a rule written out pixel by pixel."""

from __future__ import annotations

import pytest
import torch

from mmgen.errors import ConfigError
from mmgen.samplers.region import Region

GRID = (4, 4)


def by_hand(grid, mask):
    """A code is redrawn if any redrawn pixel of the middle square lies on it, be it only with a part."""
    height, width = mask.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    found = torch.zeros(grid, dtype=torch.bool)
    for y in range(top, top + side):
        for x in range(left, left + side):
            if not mask[y, x]:
                continue
            for i in range(grid[0]):
                for j in range(grid[1]):
                    # The pixel and the code as stretches of the square, in units of 1/(side·codes).
                    rows = max((y - top) * grid[0], i * side) < min((y - top + 1) * grid[0], (i + 1) * side)
                    columns = max((x - left) * grid[1], j * side) < min((x - left + 1) * grid[1], (j + 1) * side)
                    found[i, j] |= rows and columns
    return found


@pytest.mark.parametrize("size", [(16, 16), (18, 18), (13, 21), (24, 10), (3, 3)])
@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
def test_pixels_are_rounded_outward_to_codes(grid, size):
    source = torch.Generator().manual_seed(0)
    for share in (0.02, 0.3):
        mask = torch.rand(size, generator=source) < share
        mask[size[0] // 2, size[1] // 2] = True  # in the middle square, whatever the shape
        assert torch.equal(Region.masked(grid, mask, size=size).redrawn, by_hand(grid, mask))
    for row, column in ((0, 0), (size[0] // 2, 0), (0, size[1] // 2), (size[0] // 3, size[1] // 2)):
        corner = (torch.arange(size[0]) >= row)[:, None] & (torch.arange(size[1]) >= column)
        assert torch.equal(Region.corner(grid, row, column, size=size).redrawn, by_hand(grid, corner))


def test_a_corner_in_codes():
    region = Region.corner((3, 5), 1, 2, unit="codes")
    assert region.redrawn.tolist() == [[False] * 5] + [[False, False, True, True, True]] * 2
    assert (region.note, region.map()) == ("", ".....\n..###\noo###")


@pytest.mark.parametrize(
    ("row", "column", "size", "note"),
    [
        (8, 4, (16, 16), ""),
        (9, 0, (16, 16), "row=9 lies inside a code, so rows from 8 on are redrawn"),
        (3, 6, (16, 16), "row=3 lies inside the first code, so every row is redrawn; "
                         "column=6 lies inside a code, so columns from 4 on are redrawn"),
        (2, 0, (20, 16), ""),  # the middle square begins in row 2
        (7, 0, (20, 16), "row=7 lies inside a code, so rows from 6 on are redrawn"),
        (0, 5, (10, 10), ""),
        (3, 0, (10, 10), "row=3 lies inside a code, so rows from 2.5 on are redrawn"),
    ],
)  # fmt: skip
def test_what_was_rounded_is_said(row, column, size, note):
    assert Region.corner(GRID, row, column, size=size).note == note


def test_a_mask_that_cuts_codes_says_how_many():
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[4:8, 4:8] = True
    assert Region.masked(GRID, mask, size=(16, 16)).note == ""
    mask[8, 4] = mask[8, 15] = True
    assert Region.masked(GRID, mask, size=(16, 16)).note == "the mask cuts through 2 codes, which are redrawn whole"
    codes = torch.eye(4) > 0
    region = Region.masked(GRID, codes, unit="codes", size=(16, 16))
    assert (region.note, region.map()) == ("", "#ooo\no#oo\noo#o\nooo#")


def test_kept_codes_that_cannot_be_seen():
    """Those with a redrawn code before them in raster order."""
    source = torch.Generator().manual_seed(1)
    for _ in range(20):
        redrawn = torch.rand(3, 5, generator=source) < 0.3
        redrawn[2, 4] = True
        region = Region(redrawn)
        flat = redrawn.flatten().tolist()
        unseen = [not drawn and any(flat[:i]) for i, drawn in enumerate(flat)]
        assert region.unseen.flatten().tolist() == unseen
        assert region.kept.tolist() == [not drawn for drawn in flat]
        assert f"{sum(flat)} of 15 codes are drawn" in region.describe()
        assert (f"; {sum(unseen)} of those" in region.describe()) == any(unseen)
        signs = ["#" if drawn else "o" if hidden else "." for drawn, hidden in zip(flat, unseen, strict=True)]
        assert region.map().replace("\n", "") == "".join(signs)


def test_rows_from_the_top_are_an_image_prompt_and_all_seen():
    region = Region.corner(GRID, 8, 0, size=(16, 16))
    assert region.map() == "....\n....\n####\n####"
    assert not region.unseen.any()


def test_pixels_of_redrawn_codes():
    region = Region.corner(GRID, 2, 3, unit="codes")
    expected = region.redrawn.repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert torch.equal(region.pixels((16, 16)), expected)


@pytest.mark.parametrize(
    ("row", "column", "size", "code", "words"),
    [
        (16, 0, (16, 16), "MMG-C16", "row=16 lies outside the picture, which has 16 rows"),
        (-1, 0, (16, 16), "MMG-C16", "row=-1 lies outside"),
        (0, 40, (16, 30), "MMG-C16", "column=40 lies outside the picture, which has 30 columns"),
        (0, 24, (16, 30), "MMG-C16", "nothing of the picture is to be redrawn"),  # columns 7 to 22 are read
    ],
)
def test_corners_outside_are_refused(row, column, size, code, words):
    with pytest.raises(ConfigError, match=words) as caught:
        Region.corner(GRID, row, column, size=size)
    assert caught.value.code == code


def test_masks_that_do_not_fit_are_refused():
    for mask, words in (
        (torch.ones(8, 8, dtype=torch.bool), "the mask has 8 × 8 pixels, the picture 16 × 16"),
        (torch.ones(16, 16), "of torch.float32"),
        (torch.ones(1, 16, 16, dtype=torch.bool), "1 × 16 × 16"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            Region.masked(GRID, mask, size=(16, 16))
        assert caught.value.code == "MMG-C17"
    with pytest.raises(ConfigError, match="nothing of the picture") as caught:
        Region.masked(GRID, torch.zeros(16, 16, dtype=torch.bool), size=(16, 16))
    assert caught.value.code == "MMG-C16"
