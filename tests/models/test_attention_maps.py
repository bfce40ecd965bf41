"""What a generator tells of its attention is what it computes with."""

from __future__ import annotations

import itertools

import pytest
import torch

from mmgen.models import layers
from mmgen.models.attention import attend, attention_probs
from tests.models.generators import LLAMA, TALL
from tests.models.masks import table

COMBINATIONS = list(
    itertools.product(("full", "dalle"), ({}, LLAMA), ("text_first", "image_first"), ("auto", "blocked"))
)


@pytest.mark.parametrize(("layout", "style", "order", "executor"), COMBINATIONS)
@torch.no_grad()
def test_probabilities_times_values_are_what_every_layer_computes(monkeypatch, layout, style, order, executor):
    model = TALL.make(layout=layout, order=order, executor=executor, **style)
    text, image = TALL.tokens()
    computed = []

    def watched(queries, keys, values, mask, **options):
        out = attend(queries, keys, values, mask, **options)
        computed.append((queries, keys, values, mask, out))
        return out

    monkeypatch.setattr(layers, "attend", watched)
    logits = model(text, image)
    assert len(computed) == 4
    maps = model.attention_maps(text, image)
    length = TALL.text + TALL.image - 1
    assert maps.shape == (3, 4, length, length)
    torch.testing.assert_close(maps.sum(-1), torch.ones(3, 4, length))
    for layer, (queries, keys, values, mask, out) in enumerate(computed[:4]):
        probs = attention_probs(queries, keys, mask)
        torch.testing.assert_close(probs @ values, out, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(maps[:, layer], probs.mean(1))
        seen = table(mask.name, TALL.text, TALL.grid, order)[:length, :length]
        assert torch.equal(maps[:, layer] > 0, seen.expand(3, -1, -1))
    assert maps.std(-1).mean() > 0.05, "it does not look everywhere alike"
    for one, other in zip(model(text, image), logits, strict=True):
        assert torch.equal(one, other)


def test_it_is_told_where_training_computes_twice():
    model = TALL.make(gradient_checkpointing=True).train()
    assert model.attention_maps(*TALL.tokens()).shape[1] == 4
    assert len(COMBINATIONS) == 16
