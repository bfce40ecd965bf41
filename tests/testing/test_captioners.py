"""The kit's checks of a captioner: one that conforms passes, and each fault is found by the check that names it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmgen.models.transformer import Transformer
from mmgen.stream import KVCache
from mmgen.testing import Nonconforming, check_generator
from mmgen.testing.stand_ins import small_text_tokenizer


class Captioner(Transformer):
    """A small one."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        sizes = {"embed_dim": 16, "num_layers": 2, "num_heads": 2}
        super().__init__(
            text_tokenizer=small_text_tokenizer(), grid=(2, 3), codebook_size=7, order="image_first", **sizes
        )


class Forgetful(Captioner):
    def prefill_image(self, image_tokens: Tensor, text_tokens: Tensor | None = None) -> tuple[Tensor, KVCache]:
        return super().prefill_image(torch.zeros_like(image_tokens), text_tokens)


class Late(Captioner):
    """Its steps stand one place too far, once there is something to step over."""

    def step_text(self, text_tokens: Tensor, kv_cache: KVCache) -> Tensor:
        logits = super().step_text(text_tokens, kv_cache)
        return logits.roll(1, dims=1)


class Sticky(Captioner):
    """It goes on from what a truncated cache has forgotten."""

    def step_text(self, text_tokens: Tensor, kv_cache: KVCache) -> Tensor:
        first = kv_cache.length - self.stream.image_length
        told = getattr(self, "told", {})
        read = torch.stack([told.setdefault(first + i, token) for i, token in enumerate(text_tokens.unbind(1))], 1)
        self.told = told
        return super().step_text(read, kv_cache)


class Mixing(Captioner):
    def forward(self, text_tokens: Tensor, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        text_logits, image_logits = super().forward(text_tokens, image_tokens)
        return text_logits - text_logits.mean(0), image_logits


class Blind(Captioner):
    def forward(self, text_tokens: Tensor, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(text_tokens, torch.zeros_like(image_tokens))


class Writing(Captioner):
    def prefill_image(self, image_tokens: Tensor, text_tokens: Tensor | None = None) -> tuple[Tensor, KVCache]:
        result = super().prefill_image(image_tokens, text_tokens)
        image_tokens.zero_()
        return result


class Short(Captioner):
    def forward(self, text_tokens: Tensor, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        text_logits, image_logits = super().forward(text_tokens, image_tokens)
        return text_logits, image_logits[:, 1:]


FAULTS: list[tuple[type[Captioner], str]] = [
    (Forgetful, "prefill_agrees_with_forward"),
    (Late, "steps_agree_with_forward"),
    (Sticky, "a_truncated_cache_goes_on"),
    (Forgetful, "drawing_with_the_cache_gives_the_same_tokens"),
    (Mixing, "rows_of_a_batch_do_not_meet"),
    (Blind, "a_caption_sees_the_picture_and_the_text_before_it"),
    (Writing, "what_a_captioner_is_given_stays"),
    (Short, "caption_logits_have_their_shapes"),
]


def test_a_captioner_conforms():
    assert len(check_generator(Captioner(), 7)) >= 12


@pytest.mark.parametrize(("fault", "check"), FAULTS)
def test_a_faulty_captioner_fails(fault: type[Captioner], check: str):
    with pytest.raises(Nonconforming) as caught:
        check_generator(fault(), 7)
    assert check in caught.value.failures


def test_every_check_of_a_captioner_has_its_fault():
    from mmgen.testing.captioners import CAPTIONER_CHECKS
    from mmgen.testing.trainables import TRAINABLE_CHECKS

    own = {check.__name__ for check in CAPTIONER_CHECKS} - {check.__name__ for check in TRAINABLE_CHECKS}
    assert own == {check for _, check in FAULTS}
