"""The paper's augmentations: what is cut out, at which scale, decided by the key alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mmgen.data.augment import AUGMENTATIONS, NAMES, area, dalle_generator, dalle_tokenizer, keeps, original
from mmgen.data.order import sample_key
from tests.data.fakes import Numbered

KEYS = [sample_key(5, 0, str(i)) for i in range(400)]
SIZE = 16


def ramp(height: int, width: int, full: int = 200) -> Tensor:
    """Red is the column and green the row of a pixel's middle, as a share of `full` pixels."""
    columns, rows = (torch.arange(n) + 0.5 for n in (width, height))
    return torch.stack([columns.expand(height, -1), rows[:, None].expand(-1, width), torch.zeros(height, width)]) / full


def seen(crop: Tensor, full: int = 200) -> tuple[float, float, float]:
    """From a crop of a ramp: the column and row where it begins, and how many pixels make one of its own. A crop that
    was flipped has a negative scale."""
    columns, rows = (channel.double() * full for channel in (crop[0].mean(0), crop[1].mean(1)))
    scale = float(columns[-1] - columns[0]) / (len(columns) - 1)
    step = float(rows[-1] - rows[0]) / (len(rows) - 1)
    left = float(columns.mean()) - abs(scale) * len(columns) / 2
    return left, float(rows.mean()) - step * len(rows) / 2, math.copysign(step, scale)


@pytest.mark.parametrize(("side", "size"), [(72, 48), (50, 37), (17, 16), (9, 3), (8, 1), (12, 12), (31, 30)])
def test_area_is_the_mean_over_what_a_pixel_covers(side: int, size: int) -> None:
    image = torch.rand(3, side, side, generator=torch.Generator().manual_seed(side), dtype=torch.float64)
    # On a grid that both sizes divide, every pixel is a block, and the mean needs no weights.
    fine = image.repeat_interleave(size, 1).repeat_interleave(size, 2)
    expected = fine.view(3, size, side, size, side).mean((2, 4))
    torch.testing.assert_close(area(image.float(), size), expected.float(), atol=2e-6, rtol=0)


def test_listing_1_takes_any_square_at_9_to_12_eighths_and_flips_every_other() -> None:
    image = ramp(60, 100)
    found = [seen(dalle_tokenizer(image, SIZE, key)) for key in KEYS]
    sides = [round(60 / abs(scale)) for _, _, scale in found]
    assert (min(sides), max(sides)) == (18, 24)  # 9/8 and 12/8 of 16
    assert len(set(sides)) == 7
    assert 0.4 < sum(scale < 0 for *_, scale in found) / len(found) < 0.6
    assert all(-0.6 < left < 100 - SIZE * abs(scale) + 0.6 for left, _, scale in found)
    assert min(left for left, *_ in found) < 2
    assert max(left + SIZE * abs(scale) for left, _, scale in found) > 98
    assert min(top for _, top, _ in found) < 1
    assert max(top + SIZE * abs(scale) for _, top, scale in found) > 59


def test_listing_2_takes_the_middle_quarter_at_8_to_9_eighths_and_never_flips() -> None:
    image = ramp(160, 80)
    found = [seen(dalle_generator(image, SIZE, key)) for key in KEYS]
    assert all(scale > 0 for *_, scale in found)
    sides = [round(80 / scale) for *_, scale in found]
    assert set(sides) == {16, 17, 18}
    whole = [top for side, (_, top, _) in zip(sides, found, strict=True) if side == 16]  # all of the square
    assert min(whole) == pytest.approx(30, abs=0.6)  # 3/8 of the 80 rows there are to choose from
    assert max(whole) == pytest.approx(49, abs=0.6)  # 5/8, which the listing leaves out
    assert len({round(top) for top in whole}) > 12
    assert all(abs(left) < 0.6 for side, (left, *_) in zip(sides, found, strict=True) if side == 16)


def test_a_picture_is_never_enlarged_unless_it_is_no_larger_than_what_is_wanted() -> None:
    for key in KEYS[:50]:
        *_, scale = seen(dalle_tokenizer(ramp(19, 19), SIZE, key))
        assert abs(scale) == pytest.approx(19 / min(19, round(19 / abs(scale))), abs=0.02)
        assert abs(scale) > 0.99
    crops = [dalle_tokenizer(ramp(16, 30, 32), SIZE, key) for key in KEYS[:100]]
    sides = {round(16 / abs(seen(crop[:, 3:13, 3:13], 32)[2])) for crop in crops}  # a border has no slope
    assert (min(sides), max(sides)) == (18, 24)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("shape", [(40, 40), (16, 16), (9, 9), (200, 31), (17, 90)])
def test_results_have_one_size_and_256_levels(name: str, shape: tuple[int, int]) -> None:
    image = torch.rand(3, *shape, generator=torch.Generator().manual_seed(1))
    kept = image.clone()
    for key in KEYS[:20]:
        crop = AUGMENTATIONS[name](image, SIZE, key)
        assert crop.shape == (3, SIZE, SIZE)
        assert float(crop.min()) >= 0
        assert float(crop.max()) <= 1
        torch.testing.assert_close(crop * 255, (crop * 255).round(), atol=1e-3, rtol=0)
    assert torch.equal(image, kept)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_key_decides_and_nothing_else(name: str) -> None:
    image = torch.rand(3, 50, 70, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(1)
    first = [AUGMENTATIONS[name](image, SIZE, key) for key in KEYS[:30]]
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = [AUGMENTATIONS[name](image, SIZE, key) for key in reversed(KEYS[:30])][::-1]
    assert all(map(torch.equal, first, again))
    assert torch.equal(torch.get_rng_state(), state)
    assert len({crop.numpy().tobytes() for crop in first}) > 10


def test_a_generator_learns_from_no_long_pictures() -> None:
    assert keeps("dalle_generator", torch.zeros(3, 20, 40))
    assert keeps("dalle_generator", torch.zeros(3, 40, 20))
    assert not keeps("dalle_generator", torch.zeros(3, 20, 41))
    assert not keeps("dalle_generator", torch.zeros(3, 41, 20))
    assert keeps("dalle_tokenizer", torch.zeros(3, 20, 300))


def test_the_original_or_what_there_is() -> None:
    class WithOriginals(Numbered):
        def original(self, index: int) -> Tensor:
            return torch.full((3, 30, 20), index / 255)

    assert original(WithOriginals(4), 2).shape == (3, 30, 20)
    assert torch.equal(original(Numbered(4), 2), Numbered(4)[2]["image"])


def test_every_augmentation_has_its_name() -> None:
    assert ("none", *AUGMENTATIONS) == NAMES
