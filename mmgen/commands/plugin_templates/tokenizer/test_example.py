"""`example` keeps the contract of an image tokenizer, and learns."""

import pytest
import torch
from mmgen_example import Example

from mmgen.testing import conformance, small_batch

# Codes that no patch of the kit's pictures is nearest to get no gradient; with few codes, each is somebody's.
test_conforms = conformance("tokenizer", Example, codebook_size=32)


def test_it_learns():
    torch.manual_seed(0)
    tokenizer, batch = Example(image_size=32), small_batch(image_size=32)
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=1e-2)
    losses = []
    for step in range(60):
        optimizer.zero_grad()
        loss, logs = tokenizer.training_loss(batch, step)
        loss.backward()
        optimizer.step()
        losses.append(float(logs["reconstruction_loss"]))
    assert losses[-1] < losses[0] / 4


def test_a_patch_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not divide"):
        Example(image_size=30)
