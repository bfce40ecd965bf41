"""The generator's options: layouts, positions, norms, orders; what they compute, and that a cache changes nothing."""

from __future__ import annotations

import itertools

import pytest
import torch

from mmgen.models.layers import rotate, rotation
from mmgen.models.transformer import Transformer, masks_of
from mmgen.stream import TokenStream
from mmgen.testing import check_generator
from mmgen.testing.stand_ins import small_text_tokenizer
from tests.models.generators import LLAMA, SPARSE, TALL
from tests.models.masks import table

GRID, CODES, TEXT, IMAGE = TALL.grid, TALL.codes, TALL.text, TALL.image
make, tokens = TALL.make, TALL.tokens


# --- layouts ---------------------------------------------------------------------------------------------------------


def test_the_paper_s_layout():
    names = masks_of("dalle", 64)
    assert (names.count("row"), names.count("column"), names.count("convolution")) == (47, 16, 1)
    assert names[:7] == ["row", "column", "row", "row", "row", "column", "row"]
    assert [i for i, name in enumerate(names, 1) if name == "column"] == [*range(2, 64, 4)]
    assert names[-1] == "convolution"
    assert masks_of("dalle", 1) == ["convolution"]
    assert masks_of("full", 3) == ["full"] * 3
    model = make(**SPARSE)
    assert [block.mask.name for block in model.blocks] == ["row", "column", "row", "convolution"]
    assert all(block.mask.kernel_size == 11 for block in model.blocks)


@pytest.mark.parametrize("order", ["text_first", "image_first"])
@torch.no_grad()
def test_a_layer_mixes_what_its_mask_lets_it_see_and_nothing_else(order):
    """One token of what a single block reads is changed: the block's output changes where the paper's mask says."""
    for block in make(**SPARSE, order=order).blocks:
        seen = table(block.mask.name, TEXT, GRID, order)
        x = torch.randn(1, TEXT + IMAGE, 32, generator=torch.Generator().manual_seed(0))
        before = block(x)
        for key in range(TEXT + IMAGE):
            changed = x.clone()
            changed[:, key] = x[:, key].flip(-1)
            felt = (block(changed) - before).abs().amax((0, 2)) > 1e-7
            assert torch.equal(felt, seen[:, key]), (block.mask.name, key)


# --- with and without a cache ----------------------------------------------------------------------------------------

COMBINATIONS = list(
    itertools.product(("full", "dalle"), ("learned", "rotary"), ("text_first", "image_first"), ("auto", "blocked"))
)


@pytest.mark.parametrize(("layout", "positions", "order", "executor"), COMBINATIONS)
@torch.no_grad()
def test_a_cache_changes_no_logits(layout, positions, order, executor):
    model = make(layout=layout, positions=positions, order=order, executor=executor)
    text, image = tokens()
    text_logits, image_logits = model(text, image)
    if order == "text_first":
        expected, drawn, prefill, step = image_logits, image, lambda n: model.prefill(text, image[:, :n]), model.step
    else:
        expected, drawn, step = text_logits, text, model.step_text
        prefill = lambda n: model.prefill_image(image, text[:, :n])  # noqa: E731
    assert expected.std() > 0.5
    for given, sizes in ((0, [1] * (drawn.shape[1] - 1)), (0, [2, 1]), (1, [3])):
        first, cache = prefill(given)
        got, read = [first[:, None]], given
        for size in sizes:
            got.append(step(drawn[:, read : read + size], cache))
            read += size
        torch.testing.assert_close(torch.cat(got, 1), expected[:, given : read + 1], atol=1e-5, rtol=1e-5)
    assert len(COMBINATIONS) == 16


@pytest.mark.parametrize(
    "options",
    [SPARSE, {**SPARSE, **LLAMA}, {"order": "image_first"}, {**SPARSE, **LLAMA, "order": "image_first"}],
    ids=["dalle", "dalle with llama's blocks", "captions", "captions, all at once"],
)
def test_variants_conform(options):
    torch.manual_seed(0)
    options = {"embed_dim": 32, "num_layers": 3, "num_heads": 2, "gradient_checkpointing": True, **options}
    model = Transformer(text_tokenizer=small_text_tokenizer(), grid=(3, 4), codebook_size=CODES, **options)
    assert len(check_generator(model, CODES)) >= 17


@pytest.mark.parametrize("layout", ["full", "dalle"])
@torch.no_grad()
def test_a_picture_s_logits_do_not_depend_on_its_place_in_the_batch(layout):
    model = make(layout=layout)
    text, image = tokens(8)
    turned = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    one, cache = model.prefill(text)
    other, other_cache = model.prefill(text[turned])
    assert torch.equal(one[turned], other)
    for place in range(IMAGE - 1):
        one, other = (
            model.step(drawn[:, place : place + 1], kept)
            for drawn, kept in ((image, cache), (image[turned], other_cache))
        )
        assert torch.equal(one[turned], other), place


# --- networks that others wrote --------------------------------------------------------------------------------------


def _their_attention_first(model: Transformer) -> list[tuple[torch.Tensor, ...]]:
    """Queries', keys' and values' matrices (D,D) of every block, as others keep them."""
    heads = [block.qkv.weight.view(model.num_heads, 3, -1, 32) for block in model.blocks]
    return [tuple(part[:, i].reshape(32, 32) for i in range(3)) for part in heads]


@torch.no_grad()
def test_full_attention_with_all_biases_is_gpt_2():
    from transformers import GPT2Config, GPT2Model

    model = make(bias="all", qk_norm=False)
    config = GPT2Config(
        vocab_size=3, n_positions=TEXT + IMAGE, n_embd=32, n_layer=4, n_head=2, activation_function="gelu",
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    theirs = GPT2Model(config).eval()
    theirs.wpe.weight.zero_()
    for layer, block, qkv in zip(theirs.h, model.blocks, _their_attention_first(model), strict=True):
        layer.attn.c_attn.weight.copy_(torch.cat(qkv).T)
        layer.attn.c_attn.bias.copy_(block.qkv.bias.view(2, 3, 16).transpose(0, 1).flatten())
        pairs = ((layer.attn.c_proj, block.out), (layer.mlp.c_fc, block.up), (layer.mlp.c_proj, block.down))
        for matrix, ours in pairs:
            matrix.weight.copy_(ours.weight.T)
            matrix.bias.copy_(ours.bias)
        layer.ln_1.load_state_dict(block.attention_norm.state_dict())
        layer.ln_2.load_state_dict(block.mlp_norm.state_dict())
    theirs.ln_f.load_state_dict(model.norm.state_dict())
    text, image = tokens()
    place = model.row.weight[:, None] + model.column.weight
    read = torch.cat([
        model.text_embedding(text) + model.text_position.weight,
        (model.image_embedding(image) + place.flatten(0, 1))[:, :-1],
    ], 1)  # fmt: skip
    hidden = theirs(inputs_embeds=read).last_hidden_state
    text_logits, image_logits = model(text, image)
    expected = hidden @ model.image_head.weight.T + model.image_head.bias
    torch.testing.assert_close(image_logits, expected[:, TEXT - 1 :], atol=1e-4, rtol=1e-4)
    expected = hidden @ model.text_head.weight.T + model.text_head.bias
    torch.testing.assert_close(text_logits, expected[:, : TEXT - 1], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_llama_style_is_llama_with_rotations_in_two_dimensions():
    from transformers import LlamaConfig, LlamaModel

    model = make(**LLAMA, mlp_ratio=1.5)
    config = LlamaConfig(
        vocab_size=3, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=2, rms_norm_eps=1e-5, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    theirs = LlamaModel(config).eval()
    for layer, block, qkv in zip(theirs.layers, model.blocks, _their_attention_first(model), strict=True):
        attention, mlp = layer.self_attn, layer.mlp
        for matrix, ours in zip((attention.q_proj, attention.k_proj, attention.v_proj), qkv, strict=True):
            matrix.weight.copy_(ours)
        pairs = ((attention.o_proj, block.out), (mlp.gate_proj, block.gate), (mlp.up_proj, block.up),
                 (mlp.down_proj, block.down), (layer.input_layernorm, block.attention_norm),
                 (layer.post_attention_layernorm, block.mlp_norm))  # fmt: skip
        for matrix, ours in pairs:
            matrix.weight.copy_(ours.weight)
    theirs.norm.weight.copy_(model.norm.weight)
    angles = torch.tensor(TALL.angles_by_hand("text_first"))[None, :-1].repeat(1, 1, 2)
    theirs.rotary_emb.forward = lambda x, position_ids: (angles.cos(), angles.sin())
    text, image = tokens()
    read = torch.cat([model.text_embedding(text), model.image_embedding(image[:, :-1])], 1)
    expected = theirs(inputs_embeds=read).last_hidden_state[:, TEXT - 1 :] @ model.image_head.weight.T
    torch.testing.assert_close(model(text, image)[1], expected, atol=1e-4, rtol=1e-4)
    assert sum(p.numel() for p in model.blocks.parameters()) == sum(p.numel() for p in theirs.layers.parameters())


# --- rotations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["text_first", "image_first"])
def test_rotations_are_those_written_out(order):
    stream = TokenStream(TEXT, GRID, order)
    cos, sin = rotation(stream, torch.arange(stream.length), 16)
    angles = torch.tensor(TALL.angles_by_hand(order), dtype=torch.float64)
    torch.testing.assert_close((cos.double(), sin.double()), (angles.cos(), angles.sin()), atol=1e-6, rtol=1e-5)
    x = torch.randn(1, 1, stream.length, 16)
    turned = torch.complex(*x.double().chunk(2, -1)) * torch.polar(torch.ones_like(angles), angles)
    expected = torch.cat([turned.real, turned.imag], -1).float()
    torch.testing.assert_close(rotate(x, (cos, sin)), expected, atol=1e-5, rtol=1e-5)


def test_scores_depend_on_how_far_apart_two_image_tokens_are_and_in_which_direction():
    query, key = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    cos, sin = rotation(TokenStream(3, (6, 7)), torch.arange(3, 45), 16)
    queries, keys = (rotate(x.expand(1, 1, 42, 16), (cos, sin)) for x in (query, key))
    scores = (queries @ keys.transpose(-2, -1)).view(6, 7, 6, 7)
    for down, right in ((0, 1), (1, 0), (2, 3), (1, -2)):
        same = [
            float(scores[r, c, r + down, c + right]) for r in range(6 - down) for c in range(7) if 0 <= c + right < 7
        ]
        assert max(same) - min(same) < 1e-4
        assert abs(same[0] - float(scores[0, 2, 0, 2])) > 1e-2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_heads": 16, **LLAMA}, r"embed_dim/num_heads=2 .* multiple of 4: .* with embed_dim=32 .* do: \[1, 2\]"),
        ({"num_heads": 3}, r"num_heads=3 does not divide embed_dim=32; these do: \[1, 2\]"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        make(**options)
