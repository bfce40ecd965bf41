"""Every way to compute attention, against the masks of the paper written out by hand and against each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmgen.models import attention
from mmgen.models.attention import attend, attend_cached
from mmgen.models.patterns import Table, is_causal, step_keys, tiles
from mmgen.stream import Mask, TokenStream
from tests.models.masks import table

NAMES = ("full", "row", "column", "convolution")
ORDERS = ("text_first", "image_first")
GRIDS = [(1, 1), (1, 6), (5, 1), (4, 4), (3, 5), (6, 4), (8, 8), (13, 12)]
TEXT = 5


def every_mask(
    grids: list[tuple[int, int]] = GRIDS, kernels: tuple[int, ...] = (3, 11)
) -> list[tuple[Mask, torch.Tensor]]:
    """Masks of all names, orders, grids and kernels, each with the table written by hand."""
    return [
        (TokenStream(TEXT, grid, order).mask(name, kernel), table(name, TEXT, grid, order, kernel))
        for order in ORDERS
        for grid in grids
        for name in NAMES
        for kernel in (kernels if name == "convolution" else (11,))
    ]


def random_heads(length: int, *, head_dim: int = 8, seed: int = 0) -> torch.Tensor:
    """Queries, keys, values (3,B,H,S,K), large enough that every key counts."""
    return 2 * torch.randn(3, 2, 2, length, head_dim, generator=torch.Generator().manual_seed(seed))


def by_hand(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Attention in double precision, straight from its formula."""
    scores = torch.einsum("bhqk,bhsk->bhqs", queries.double(), keys.double()) / queries.shape[-1] ** 0.5
    weights = torch.where(seen, scores.exp(), 0.0)
    return (weights / weights.sum(-1, keepdim=True)) @ values.double()


# --- the predicates --------------------------------------------------------------------------------------------------


def test_the_masks_are_the_paper_s():
    masks = every_mask()
    for mask, expected in masks:
        position = torch.arange(mask.stream.length)
        assert torch.equal(mask(position[:, None], position[None]), expected), mask
        array = position.numpy()
        assert np.array_equal(mask(array[:, None], array[None]), expected.numpy()), mask
    assert len(masks) == 2 * len(GRIDS) * 5


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("row", {11: "######.#####..........", 21: "######...........#####"}),
        ("column", {15: "######.#...#...#......", 21: "######...#...#...#...#"}),
        ("convolution", {12: "######.###.##.........", 21: "######..........###.##"}),
    ],
)
def test_rows_of_figure_11(name: str, rows: dict[int, str]):
    """Six text tokens and a grid of 4×4, as in the figure; the convolution there is 3×3."""
    mask = TokenStream(6, (4, 4)).mask(name, 3)
    for query, drawn in rows.items():
        assert "".join(".#"[int(seen)] for seen in mask(torch.tensor(query), torch.arange(22))) == drawn


# --- all ways to compute it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["auto", "dense", "blocked"])
def test_a_pass_over_the_stream_is_the_formula_s(executor):
    for mask, seen in every_mask():
        image_start, image_length = mask.stream.image_start, mask.stream.image_length
        # What training reads, the whole stream, and the start of a picture.
        for length in {mask.stream.length - 1, mask.stream.length, image_start + image_length // 2 + 1}:
            queries, keys, values = random_heads(length)
            out = attend(queries, keys, values, mask, executor=executor)
            expected = by_hand(queries, keys, values, seen[:length, :length])
            torch.testing.assert_close(out.double(), expected, atol=2e-5, rtol=1e-5, msg=f"{mask} {length}")


def test_the_gradients_of_blocks_are_those_of_the_table():
    for mask, _ in every_mask([(4, 4), (3, 5), (6, 4)]):
        grads = []
        for executor in ("dense", "blocked"):
            heads = random_heads(mask.stream.length - 1).requires_grad_()
            out = attend(*heads, mask, executor=executor)
            (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
            grads.append(heads.grad)
        torch.testing.assert_close(*grads, atol=2e-5, rtol=1e-4, msg=str(mask))


def test_steps_over_a_cache_are_the_formula_s():
    for mask, seen in every_mask([(4, 4), (3, 5), (6, 4)]):
        length = mask.stream.length
        queries, keys, values = random_heads(length)
        expected = by_hand(queries, keys, values, seen)
        for size in (1, 3, length):
            got = [
                attend_cached(
                    queries[:, :, first : first + size], keys[:, :, : first + size], values[:, :, : first + size], mask
                )
                for first in range(0, length - size + 1, size)
            ]
            out = torch.cat(got, 2)
            torch.testing.assert_close(
                out.double(), expected[:, :, : out.shape[2]], atol=2e-5, rtol=1e-5, msg=str(mask)
            )


def test_a_part_of_the_stream_alone():
    """Text without the picture before it, and the middle of a picture."""
    for mask, seen in every_mask([(4, 4), (3, 5)]):
        first, length = mask.stream.image_start or mask.stream.text_start, 4
        queries, keys, values = random_heads(length)
        expected = by_hand(queries, keys, values, seen[first : first + length, first : first + length])
        for executor in ("auto", "dense", "blocked"):
            out = attend(queries, keys, values, mask, first=first, executor=executor)
            torch.testing.assert_close(out.double(), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@torch.no_grad()
def test_the_block_mask_of_flexattention(monkeypatch):
    """FlexAttention itself, not compiled; its compiled form needs a GPU (`nox -s gpu`)."""
    from torch.nn.attention.flex_attention import flex_attention

    monkeypatch.setattr(attention, "_compiled_flex", lambda: flex_attention)
    chosen = [pair for pair in every_mask([(13, 12)], kernels=(11,)) if pair[0].name != "full"]
    for mask, seen in chosen[:3] + chosen[-1:]:
        length = mask.stream.length - 1
        queries, keys, values = random_heads(length, head_dim=16)
        out = attention._flex(queries, keys, values, mask, 0)
        expected = by_hand(queries, keys, values, seen[:length, :length])
        torch.testing.assert_close(out.double(), expected, atol=2e-5, rtol=1e-5, msg=str(mask))


def test_flexattention_without_a_gpu_is_refused():
    queries, keys, values = random_heads(20)
    with pytest.raises(ValueError, match=r"executor=flex needs a GPU.*use executor=auto"):
        attend(queries, keys, values, TokenStream(5, (4, 4)).mask("row"), executor="flex")


def test_a_table_made_in_inference_can_be_trained_with():
    with torch.inference_mode():
        made = Table(np.tri(3, dtype=bool)).like(torch.zeros(1))
    assert not made.is_inference()
    mask = TokenStream(7, (3, 3)).mask("column")  # of no other test: nothing is remembered yet
    for executor in ("dense", "blocked"):
        with torch.inference_mode():
            attend(*random_heads(15), mask, executor=executor)
        heads = random_heads(15).requires_grad_()
        attend(*heads, mask, executor=executor).sum().backward()
        assert heads.grad.isfinite().all()


# --- only the needed work --------------------------------------------------------------------------------------------


def flops_per_image_token(name: str, side: int, executor: str) -> float:
    """Multiplications and additions between image tokens, forward, for each of them and each number of a head."""
    counts = []
    for text in (1, 2):  # with one more text token there is more work, but not between image tokens
        mask = TokenStream(text, (side, side)).mask(name)
        heads = torch.empty(3, 1, 1, text + side * side, 16, device="meta")  # nothing is computed, only counted
        with FlopCounterMode(display=False) as counter:
            attend(*heads, mask, executor=executor)
        counts.append(counter.get_total_flops())
    if executor == "blocked":  # text sees text: 4·16·T²; image sees text: 4·16·N·T
        assert counts[1] - counts[0] == 4 * 16 * (side * side + 3)
        return (counts[0] - 4 * 16 * (side * side + 1)) / side**2 / (4 * 16)
    return counts[0] / (1 + side * side) / (4 * 16)


def test_the_work_of_an_image_token_grows_with_the_side_of_the_grid():
    sides = (8, 16, 32)
    assert [flops_per_image_token("row", side, "blocked") for side in sides] == [16, 32, 64], (
        "its row and the one above"
    )
    assert [flops_per_image_token("column", side, "blocked") for side in sides] == [8, 16, 32], "its column"
    # The 11×11 kernel touches five rows above its own and, wrapping around, a sixth.
    assert [flops_per_image_token("convolution", side, "blocked") for side in sides] == [56, 112, 224]
    for name in ("row", "column", "convolution"):
        assert [flops_per_image_token(name, side, "dense") for side in sides] == [65, 257, 1025], "all tokens"


@pytest.mark.parametrize("grid", [(8, 8), (32, 32), (4, 9)])
def test_a_step_reads_no_key_that_it_does_not_need(grid):
    height, width = grid
    stream = TokenStream(6, grid)
    most = {"row": width + 1, "column": height, "convolution": 5 * width + 6 + 5}
    for name, limit in most.items():
        mask = stream.mask(name)
        for position in range(stream.image_start, stream.length):
            plan = step_keys(mask, position, 1)
            read = [key for part in plan.parts for key in range(position + 1)[part]]
            needed = np.flatnonzero(mask(np.array(position), np.arange(position + 1)))
            assert set(needed.tolist()) <= set(read)
            assert len(read) <= 6 + limit
            if name != "convolution":
                assert read == needed.tolist()
                assert plan.seen is None
    everything = step_keys(stream.mask("full"), stream.length - 1, 1)
    assert everything.parts == (slice(0, stream.length, 1),)


def test_what_a_step_reads_is_not_copied():
    keys = torch.zeros(1, 1, 70, 4)
    for name in ("row", "column", "convolution"):
        for part in step_keys(TokenStream(6, (8, 8)).mask(name), 69, 1).parts:
            assert keys[:, :, part].untyped_storage().data_ptr() == keys.untyped_storage().data_ptr()


def test_the_grid_is_cut_the_way_that_makes_the_least_work():
    stream = TokenStream(4, (8, 8))
    assert tiles(stream.mask("row"), stream.length).transposed is False
    assert tiles(stream.mask("column"), stream.length).transposed is True
    assert tiles(stream.mask("convolution"), stream.length).offsets == tuple(range(7))
    flat = TokenStream(4, (2, 50)).mask("row")
    assert tiles(flat, 104).share < 1


def test_auto_takes_what_was_measured_to_be_fastest(monkeypatch):
    taken = []
    for executor in ("_dense", "_blocked"):
        compute = getattr(attention, executor)
        monkeypatch.setattr(
            attention, executor, lambda *a, name=executor, compute=compute: (taken.append(name), compute(*a))[1]
        )

    def fastest(name: str, text: int, side: int) -> str:
        taken.clear()
        mask = TokenStream(text, (side, side)).mask(name)
        attend(*random_heads(mask.stream.length - 1, head_dim=2), mask)
        return taken[0] if taken else "causal"

    assert fastest("full", 256, 32) == "causal"
    assert [fastest(name, 20, 8) for name in NAMES[1:]] == ["_dense"] * 3
    assert [fastest(name, 128, 16) for name in NAMES[1:]] == ["_blocked", "_blocked", "_dense"]
    assert [fastest(name, 256, 32) for name in NAMES[1:]] == ["_blocked"] * 3


def test_a_mask_that_is_causal_after_all_is_computed_as_such():
    assert is_causal(TokenStream(3, (1, 6)).mask("row"), 0, 9)
    assert is_causal(TokenStream(3, (6, 1)).mask("column"), 0, 9)
    assert not is_causal(TokenStream(3, (2, 6)).mask("row"), 0, 15)
    assert is_causal(TokenStream(6, (4, 4), "image_first").mask("column"), 16, 5), "text alone"


# --- bit for bit -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 3])
def test_the_place_in_the_batch_changes_nothing(name, size):
    mask = TokenStream(12, (8, 8)).mask(name)
    for first in (12, 40, 72):
        heads = torch.randn(3, 16, 4, first + size, 48, generator=torch.Generator().manual_seed(first))
        turned = torch.randperm(16, generator=torch.Generator().manual_seed(1))
        out, other = (
            attend_cached(queries[:, :, first:], keys, values, mask)
            for queries, keys, values in (heads, heads[:, turned])
        )
        assert torch.equal(out[turned], other)
