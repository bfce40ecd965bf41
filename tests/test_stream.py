"""Positions of the stream, and what a cache remembers."""

from __future__ import annotations

import pytest
import torch

from mmgen.stream import KVCache, TokenStream


def test_every_position_of_a_small_stream():
    stream = TokenStream(2, (2, 3))
    position = torch.arange(stream.length)
    assert (stream.length, stream.image_length) == (8, 6)
    assert stream.is_image(position).tolist() == [False, False, True, True, True, True, True, True]
    assert stream.row(position)[2:].tolist() == [0, 0, 0, 1, 1, 1]
    assert stream.column(position)[2:].tolist() == [0, 1, 2, 0, 1, 2]


def test_the_mask_lets_a_position_see_itself_and_what_came_before():
    stream = TokenStream(2, (1, 2))
    position = torch.arange(4)
    assert stream.mask("full")(position[:, None], position[None, :]).tolist() == [
        [True, False, False, False],
        [True, True, False, False],
        [True, True, True, False],
        [True, True, True, True],
    ]


def filled(layers: int = 2) -> KVCache:
    cache = KVCache.empty(layers, batch=3, heads=1, positions=4, head_dim=2)
    for layer in range(layers):
        new = torch.full((3, 1, 3, 2), float(layer + 1)) * torch.arange(1, 4)[:, None, None, None]
        cache.write(layer, new, -new)
    cache.advance(3)
    return cache


def test_what_was_written_is_read_back_layer_by_layer():
    cache = filled()
    new = torch.full((3, 1, 1, 2), 9.0)
    keys, values = cache.write(1, new, -new)
    assert keys.shape == (3, 1, 4, 2)
    assert keys[2, 0, :, 0].tolist() == [6, 6, 6, 9]
    assert torch.equal(values, -keys)
    assert cache.length == 3
    assert cache.keys[0, :, :, 3].abs().sum() == 0
    cache.advance(1)
    assert cache.length == 4


def test_a_full_cache_says_so():
    cache = filled()
    with pytest.raises(ValueError, match="holds 4 positions, 5 are needed"):
        cache.write(0, torch.zeros(3, 1, 2, 2), torch.zeros(3, 1, 2, 2))


@pytest.mark.parametrize("length", [-1, 4])
def test_a_cache_is_not_truncated_to_what_it_never_had(length):
    with pytest.raises(ValueError, match=f"cache of 3 positions to {length}"):
        filled().truncate(length)


def test_selected_rows_are_copies():
    cache = filled()
    other = cache.select(torch.tensor([2, 2]))
    other.keys[:, 0].zero_()
    assert other.length == 3
    assert other.keys[1, 1, 0, 0].tolist() == [6, 6]
    assert cache.keys[0, 2, 0, 0, 0] == 3


def test_a_cache_has_the_type_of_the_model():
    like = torch.zeros(1, dtype=torch.bfloat16)
    assert KVCache.empty(1, 1, 1, 1, 1, like=like).keys.dtype == torch.bfloat16
