"""The arithmetic of a plan against what torch counts: operations by its flop counter, memory by its tracker."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmgen.models.transformer import Transformer
from mmgen.tasks import costs
from mmgen.tasks.costs import Setting
from mmgen.tasks.memory import SizesOnly, measure

SMALL = {"embed_dim": 64, "num_layers": 3, "num_heads": 4}


def build(device: str = "meta", *, text: tuple[int, int] = (300, 12), grid: tuple[int, int] = (4, 6), **options: Any):
    with torch.device(device):
        return Transformer(text_tokenizer=SizesOnly(*text), grid=grid, codebook_size=50, **{**SMALL, **options})


def batch(size: int, positions: int) -> Any:
    return {"caption": [""] * size, "key": list(range(size)), "image_tokens": torch.zeros(size, positions).long()}


# --- operations ---


@pytest.mark.parametrize(
    "options",
    [{}, {"mlp": "swiglu", "positions": "rotary", "norm": "rms"}, {"order": "image_first", "bias": "all"}],
    ids=str,
)
def test_operations_are_those_that_torch_counts(options):
    generator = build("cpu", **options)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loss, _ = generator.training_loss(batch(2, 24), 0)
        forward = counter.get_total_flops()
        loss.backward()
    one = costs.linear_flops(generator) + costs.attention_flops(generator, all_pairs=True)
    assert forward == 2 * one
    assert counter.get_total_flops() == 3 * 2 * one


def test_of_sparse_attention_only_pairs_that_see_each_other_count():
    generator = build(layout="dalle")
    length = generator.stream.length - 1
    pairs = 0
    for block in generator.blocks:
        mask = block.mask
        pairs += sum(bool(mask(torch.tensor(q), torch.tensor(k))) for q in range(length) for k in range(length))
    assert costs.attention_flops(generator) == 4 * 64 * pairs
    full = build()
    assert costs.attention_flops(full) == 3 * 4 * 64 * length * (length + 1) // 2
    assert costs.training_flops(full) == 3 * (costs.linear_flops(full) + costs.attention_flops(full))


def test_parameters_by_part():
    generator = build()
    parts = costs.parts(generator)
    assert sum(parts.values()) == sum(parameter.numel() for parameter in generator.parameters())
    assert parts["blocks: attention"] == 3 * 4 * 64 * 64
    assert parts["blocks: mlp"] == 3 * (2 * 4 * 64 * 64 + 4 * 64 + 64)
    assert parts["image_head"] == 50 * 64 + 50


# --- memory ---


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ({"gradient_checkpointing": True}, Setting(ranks=4, micro_batch=32)),
        ({"mlp": "swiglu", "qk_norm": False}, Setting(ranks=4, micro_batch=8, averaged=False)),
        ({"qk_norm": False, "bias": "all"}, Setting(ranks=8, micro_batch=8, tensor_parallel_size=2)),
        ({"qk_norm": False}, Setting(ranks=4, micro_batch=8, mixed=False)),
    ],
    ids=str,
)
def test_the_estimate_is_near_the_measure(options, setting):
    """Weights, optimizer and average to the byte (but for rows that fill up a last piece), all of it within 10 %."""
    sizes = {"text": (1000, 64), "grid": (8, 8), "embed_dim": 256, "num_layers": 2, **options}
    found, estimated = measure(build(**sizes), setting), costs.estimate(build(**sizes), setting)
    for name in ("weights", "optimizer", "average"):
        assert getattr(found, name) == pytest.approx(getattr(estimated, name), rel=5e-3), name
    assert found.total == pytest.approx(estimated.total, rel=0.1)
    assert not torch.distributed.is_initialized(), "the group of processes that are not there is left behind"


def test_bf16_keeps_no_copy_of_the_weights():
    """Each further block adds what flows from block to block, and no bf16 copy of its matrices to the activations."""
    setting = Setting(ranks=64, micro_batch=4)
    sizes = {"text": (300, 32), "embed_dim": 256, "gradient_checkpointing": True}
    small, large = (measure(build(**sizes, num_layers=n), setting) for n in (1, 3))
    residual = 4 * 4 * (32 + 24 - 1) * 256
    copy = 2 * 12 * 256 * 256
    assert copy > 5 * residual
    assert large.activations - small.activations < 2 * 2 * residual


def test_muon_keeps_one_number_for_a_matrix_of_the_blocks():
    adamw, muon = (costs.estimate(build(), Setting(optimizer=name)) for name in ("adamw", "muon"))
    matrices = 3 * 12 * 64 * 64
    assert adamw.optimizer - muon.optimizer == 4 * matrices


def test_the_largest_part_of_a_batch_that_fits():
    generator, setting = build(), Setting(ranks=4)

    def up_to(size: int):
        limit = costs.estimate(generator, costs.with_(setting, micro_batch=size)).total
        return lambda memory: memory.total <= limit

    assert costs.largest_micro_batch(generator, setting, 64, up_to(64)) == 64
    assert costs.largest_micro_batch(generator, setting, 64, up_to(20)) == 16
    assert costs.largest_micro_batch(generator, setting, 12, up_to(1)) == 3, "12, 6, 3: halves only"
