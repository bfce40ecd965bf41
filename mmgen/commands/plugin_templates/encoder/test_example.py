"""`example` keeps the contract of an encoder, and learns."""

import torch
from mmgen_example import Example

from mmgen.testing import conformance, small_batch, small_text_tokenizer

test_conforms = conformance("encoder", Example)


def test_it_learns_which_caption_belongs_to_which_picture():
    torch.manual_seed(0)
    encoder = Example(text_tokenizer=small_text_tokenizer(), image_size=32)
    batch = small_batch(image_size=32, count=12)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=3e-3)
    for step in range(80):
        optimizer.zero_grad()
        loss, logs = encoder.training_loss(batch, step)
        loss.backward()
        optimizer.step()
    assert logs["accuracy"] == 1
