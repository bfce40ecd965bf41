"""`example` keeps the contract of a generator, and learns."""

import torch
from mmgen_example import Example

from mmgen.testing import conformance, small_batch, small_text_tokenizer

test_conforms = conformance("generator", Example, embed_dim=32)


def test_it_learns_a_picture_by_heart():
    torch.manual_seed(0)
    generator = Example(text_tokenizer=small_text_tokenizer(), grid=(3, 4), codebook_size=23, embed_dim=32)
    batch = small_batch(image_tokens=torch.randint(23, (4, 12)), count=4)
    optimizer = torch.optim.Adam(generator.parameters(), lr=1e-2)
    losses = []
    for step in range(80):
        optimizer.zero_grad()
        loss, logs = generator.training_loss(batch, step)
        loss.backward()
        optimizer.step()
        losses.append(float(logs["image_loss"]))
    assert losses[-1] < losses[0] / 4
