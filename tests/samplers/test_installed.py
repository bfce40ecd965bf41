"""Every installed sampler on every installed generator: with its cache, the same tokens as without one."""

from __future__ import annotations

import pytest
import torch

from mmgen import registry
from mmgen.testing import small_text_tokenizer
from mmgen.testing.stand_ins import CAPTIONS, Uncached

CODES, GRID = 23, (3, 4)
INSTALLED = {
    kind: [f"{name}@{claim.distribution}" for name, claims in registry.components(kind).items() for claim in claims]
    for kind in ("generator", "sampler")
}
KEPT = {
    "nothing kept": torch.zeros(GRID, dtype=torch.bool),
    "upper half": torch.arange(12).view(GRID) < 6,
    "left half": torch.arange(12).view(GRID) % 4 < 2,
}


@pytest.mark.parametrize("generator", INSTALLED["generator"])
@pytest.mark.parametrize("sampler", INSTALLED["sampler"])
@pytest.mark.parametrize("pattern", KEPT)
def test_cached_equals_uncached_under_one_seed(generator, sampler, pattern):
    torch.manual_seed(0)
    built = registry.build(
        "generator", {"name": generator}, text_tokenizer=small_text_tokenizer(), grid=GRID, codebook_size=CODES
    ).eval()
    with torch.no_grad():
        for parameter in built.parameters():  # away from the start, where logits hardly differ
            parameter.add_(0.1 * torch.randn_like(parameter))
    text_tokens = built.text_tokenizer.encode(CAPTIONS[:2])
    draws = registry.build("sampler", {"name": sampler})
    options = {"num_images": 6, "seed": 3, "kept": KEPT[pattern].flatten()}
    kept_tokens = torch.randint(CODES, (2, 12))
    drawn, again = (
        draws.draw(made, text_tokens, kept_tokens=kept_tokens, **options) for made in (built, Uncached(built).eval())
    )
    assert torch.equal(drawn, again)
    assert len(drawn.flatten(0, 1).unique(dim=0)) >= 10, "different pictures, so that a difference would show"


def test_mmgens_own_are_among_them():
    assert "transformer@mmgen-lightning" in INSTALLED["generator"]
    assert "autoregressive@mmgen-lightning" in INSTALLED["sampler"]
