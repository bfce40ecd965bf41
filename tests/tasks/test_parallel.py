"""How a component is divided; that it learns the same is shown by tests/commands/test_scale.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmgen.errors import ConfigError
from mmgen.models.clip import Clip
from mmgen.models.transformer import Transformer
from mmgen.tasks.parallel import blocks, check_parallel, clip_gradients, gradient_norm, split_blocks
from mmgen.testing.stand_ins import small_text_tokenizer


def generator(**options):
    with torch.device("meta"):
        return Transformer(text_tokenizer=small_text_tokenizer(8), grid=(2, 2), codebook_size=9, **options)


@pytest.mark.parametrize("size", [2, 31, 62])
def test_sizes_that_divide_the_heads_are_taken(size):
    check_parallel(generator(embed_dim=248, num_heads=62, num_layers=1), size)


@pytest.mark.parametrize(("size", "instead"), [(4, 2), (8, 2), (32, 31), (124, 62)])
def test_another_size_is_refused_with_those_that_do(size, instead):
    with pytest.raises(ConfigError) as caught:
        check_parallel(generator(embed_dim=248, num_heads=62, num_layers=1), size, "stages.generator.")
    error = caught.value
    assert error.code == "MMG-C30"
    assert f"tensor_parallel_size={size} does not divide 62 heads" in error.what
    assert error.why.endswith("1, 2, 31, 62")
    assert error.fix == f"stages.generator.trainer.tensor_parallel_size={instead}"


def test_the_hidden_units_are_divided_too():
    with pytest.raises(ConfigError, match="does not divide 18 hidden units") as caught:
        check_parallel(generator(embed_dim=16, num_heads=4, num_layers=1, mlp_ratio=1.125), 4)
    assert caught.value.why.endswith("1, 2")


def test_a_component_without_such_blocks_is_not_split_but_may_be_sharded():
    encoder = Clip(text_tokenizer=small_text_tokenizer(8), image_size=8, width=16, image_layers=1, text_layers=1)
    check_parallel(encoder, 1)
    assert len(list(blocks(encoder))) == 2
    with pytest.raises(ConfigError, match="Clip has no tensor-parallel plan"):
        check_parallel(encoder, 2)


def test_a_component_with_a_discriminator_is_refused():
    component = nn.Linear(2, 2)
    component.discriminator = nn.Linear(2, 1)
    with pytest.raises(ConfigError) as caught:
        check_parallel(component, 1)
    assert caught.value.code == "MMG-C31"


def test_blocks_are_found_through_containers_that_are_not_called():
    class Level(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])

    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.levels = nn.ModuleList([Level(), Level()])
            self.head = nn.Linear(1, 1)

    deep = Deep()
    assert [id(b) for b in blocks(deep)] == [id(layer) for level in deep.levels for layer in level.layers]
    made = generator(num_layers=3, mlp="swiglu")
    assert list(blocks(made)) == split_blocks(made) == list(made.blocks)


def test_norm_and_clipping_are_torch_s():
    made = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(5))]
    for largest in (0.5, 100.0):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=made)
        ours = [parameter.grad.clone() for parameter in parameters]
        norm = torch.nn.utils.clip_grad_norm_(parameters, largest)
        assert torch.equal(gradient_norm(ours), norm)
        clip_gradients(ours, norm, largest)
        assert all(torch.equal(one, parameter.grad) for one, parameter in zip(ours, parameters, strict=True))
