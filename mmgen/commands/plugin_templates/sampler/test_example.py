"""`example` keeps the contract of a sampler, and draws from the likeliest alone."""

import pytest
import torch
from mmgen_example import Example

from mmgen.testing import SmallGenerator, conformance

test_conforms = conformance("sampler", Example)


def test_one_to_choose_from_is_the_likeliest():
    generator = SmallGenerator().eval()
    text_tokens = generator.text_tokenizer.encode(["a red bar on the left"])
    tokens = Example(top_k=1).draw(generator, text_tokens, num_images=1, seed=3)[:, 0]
    _, logits = generator(text_tokens, tokens)
    assert torch.equal(logits.argmax(-1), tokens)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"top_k": -1}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match="above 0"):
        Example(**options)
