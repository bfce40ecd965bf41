"""The order of batches as a function: of seed and step alone, every sample equally often."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter

import pytest
import torch

from mmgen.data.order import BatchOrder, Slots, StepBatches, is_text_only, sample_key


def test_batches_run_through_permutations_and_across_their_borders() -> None:
    order = BatchOrder(size=7, batch_size=3, seed=1)
    stream = [position for step in range(14) for position in order.positions(step)]
    epochs = [stream[i : i + 7] for i in range(0, 42, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert [order.epoch_of(step, slot) for step in (0, 2, 2, 2) for slot in (0, 1, 2)][3:6] == [0, 1, 1]
    assert order.slots(2) == [(order.positions(2)[i], epoch) for i, epoch in enumerate([0, 1, 1])]


def test_any_step_can_be_asked_for_first() -> None:
    one, other = BatchOrder(11, 4, seed=5), BatchOrder(11, 4, seed=5)
    forwards = {step: one.positions(step) for step in range(40)}
    backwards = {step: other.positions(step) for step in reversed(range(40))}
    assert forwards == backwards


def test_a_batch_larger_than_the_data_holds_several_epochs() -> None:
    order = BatchOrder(size=3, batch_size=8, seed=1)
    counts = Counter(order.positions(0) + order.positions(1) + order.positions(2))
    assert counts == {0: 8, 1: 8, 2: 8}


def test_another_seed_gives_another_order() -> None:
    assert BatchOrder(100, 10, seed=1).positions(0) != BatchOrder(100, 10, seed=2).positions(0)


def test_the_order_stays_as_it_was() -> None:
    """Resuming a run of an older version depends on these numbers."""
    assert BatchOrder(10, 5, seed=1).positions(0) == [7, 0, 1, 6, 9]
    assert sample_key(1, 0, "cat") == 3166551204291103929


def test_keys_are_63_bits_and_differ_in_each_part() -> None:
    keys = [sample_key(s, e, i) for s in (1, 2) for e in (0, 1) for i in ("a", "b", "1/a")]
    assert len(set(keys)) == len(keys)
    assert all(0 <= key < 1 << 63 for key in keys)
    assert max(sample_key(0, e, "a") for e in range(100)) > 1 << 61


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_slices_of_the_ranks_make_up_the_batch(world_size: int) -> None:
    order = BatchOrder(size=25, batch_size=6, seed=3)
    ranks = [list(StepBatches(order, 9, lambda: 4, rank, world_size)) for rank in range(world_size)]
    assert [len(rank) for rank in ranks] == [5] * world_size
    for step, slices in zip(range(4, 9), zip(*ranks, strict=True), strict=True):
        assert {len(part) for part in slices} == {6 // world_size}
        assert [slot for part in slices for slot in part] == order.slots(step)


def test_the_length_counts_what_came_before() -> None:
    assert len(StepBatches(BatchOrder(5, 2, 0), 9, lambda: 4)) == 9


@pytest.mark.parametrize(("rank", "world_size"), [(0, 4), (2, 2), (-1, 2)])
def test_an_impossible_world_is_refused(rank: int, world_size: int) -> None:
    with pytest.raises(ValueError, match=r"divide|rank"):
        StepBatches(BatchOrder(5, 6, 0), 9, int, rank, world_size)


@pytest.mark.parametrize(("size", "batch_size"), [(0, 4), (4, 0)])
def test_nothing_cannot_be_ordered(size: int, batch_size: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        BatchOrder(size, batch_size, 0)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_the_steps_is_text_only(share: float) -> None:
    chosen = [is_text_only(5, step, share) for step in range(2000)]
    assert sum(chosen) / 2000 == pytest.approx(share, abs=0.04)
    if share == 0.3:
        assert chosen != [is_text_only(6, step, share) for step in range(2000)]


def test_all_ranks_and_all_batches_of_a_step_are_text_only_together() -> None:
    order = BatchOrder(size=25, batch_size=6, seed=3)
    ranks = [list(StepBatches(order, 30, lambda: 4, rank, 2, text_only=0.5, per_step=3)) for rank in range(2)]
    for slices in ranks:
        assert [slots.text_only for slots in slices] == [is_text_only(3, batch // 3, 0.5) for batch in range(4, 30)]
    again: Slots = pickle.loads(pickle.dumps(ranks[0][-1]))  # noqa: S301  what was just dumped
    assert (again, again.text_only) == (ranks[0][-1], ranks[0][-1].text_only), "a worker gets it by pickle"
    assert {slots.text_only for slots in ranks[0]} == {True, False}


def test_the_order_remembers_two_epochs_at_most() -> None:
    order = BatchOrder(size=5, batch_size=12, seed=1)
    for step in range(20):
        order.slots(step)
    assert len(order._permutations) <= 2
    assert {permutation.dtype for permutation in order._permutations.values()} == {torch.int32}


@pytest.mark.parametrize("window", [1, 3, 8, 50])
def test_an_epoch_goes_through_a_few_blocks_at_a_time(window: int) -> None:
    blocks = [position // 10 for position in range(195)]
    order = BatchOrder(195, 13, seed=1, blocks=blocks, window=window)
    stream = [position for step in range(45) for position in order.positions(step)]
    orders = set()
    for epoch in (stream[:195], stream[195:390], stream[390:585]):
        assert sorted(epoch) == list(range(195))
        seen = [blocks[position] for position in epoch]
        last = {block: place for place, block in enumerate(seen)}
        first = {block: seen.index(block) for block in last}
        open_at = [sum(first[block] <= place <= last[block] for block in first) for place in range(195)]
        assert max(open_at) <= min(window, 20)
        assert window == 1 or max(open_at) == min(window, 20)
        orders.add(tuple(dict.fromkeys(seen)))
    assert len(orders) == 3


def test_the_order_by_blocks_is_a_function_of_seed_and_step() -> None:
    blocks = [3, 3, 7, 7, 7, 1, 1, 1, 1, 0, 0]
    one, other = (BatchOrder(11, 4, seed=5, blocks=blocks, window=2) for _ in range(2))
    forwards = {step: one.slots(step) for step in range(40)}
    assert forwards == {step: other.slots(step) for step in reversed(range(40))}
    assert forwards != {step: BatchOrder(11, 4, 6, blocks=blocks, window=2).slots(step) for step in range(40)}
    rest = list(StepBatches(BatchOrder(11, 4, seed=5, blocks=blocks, window=2), 40, lambda: 17))
    assert rest == [forwards[step] for step in range(17, 40)]
    with pytest.raises(ValueError, match="blocks must hold 11"):
        BatchOrder(11, 4, 1, blocks=[1])
    with pytest.raises(ValueError, match="exclude groups"):
        BatchOrder(11, 4, 1, groups=blocks, blocks=blocks)


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_groups_are_cut_into_pieces_of_several_samples(size: int) -> None:
    """Of three groups, of which the first has 120 samples, the pieces follow each other in an order of their own."""
    groups = [0] * 120 + [1] * 30 + [2] * 3
    order = BatchOrder(153, 153, seed=1, groups=groups, group_size=size)
    runs, epochs = [], []
    for step in range(2):
        epoch = order.positions(step)
        assert sorted(epoch) == list(range(153))
        epochs.append(epoch)
        found = [groups[position] for position in epoch]
        runs.append([len(list(run)) for _, run in itertools.groupby(found)])
        if size == 1000:
            assert sorted(runs[-1]) == [3, 30, 120]
        elif size == 4:
            assert all(length % 4 in (0, 2, 3) for length in runs[-1]), "a piece was torn"
            assert len(runs[-1]) > 8, "all of a group stood together"
    assert epochs[0] != epochs[1]
    if size < 1000:
        assert runs[0] != runs[1]
    assert order.positions(1) == BatchOrder(153, 153, seed=1, groups=groups, group_size=size).positions(1)
