"""The generator computes what transformers does, draws by mmgen's samplers, and is built again from its checkpoint."""

import json
import os
import socket

import pytest
import torch
from mmgen_transformers import trunk
from mmgen_transformers.trunk import Layout, by_itself
from safetensors.torch import save_file
from torch.nn import functional as F

import mmgen
from mmgen.errors import ConfigError
from mmgen.testing import small_batch

ARCHITECTURES = ("gpt2", "llama", "mistral", "mixtral", "mamba")
CODES, N = 23, 12  # of `build`


def tokens(generator, count=2):
    source = torch.Generator().manual_seed(1)
    text = generator.text_tokenizer.encode(["a red bar on the left", "a blue bar"][:count])
    return text, torch.randint(CODES, (count, N), generator=source)


def embedded(generator, text, image):
    return torch.cat([generator._embed_text(text), generator._embed_image(image, 0)], 1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_with_weights_it_computes_what_transformers_does(architecture, build, language_model):
    from transformers import DynamicCache

    folder, theirs = language_model(architecture)
    ours = build(weights=str(folder)).eval()
    text, image = tokens(ours)
    x = embedded(ours, text, image)
    wanted = theirs.base_model(inputs_embeds=x, use_cache=False).last_hidden_state
    torch.testing.assert_close(ours._read(x), wanted)
    text_logits, image_logits = ours(text, image)
    torch.testing.assert_close(text_logits, F.linear(wanted[:, :11], ours.text_head.weight, ours.text_head.bias))
    torch.testing.assert_close(image_logits, F.linear(wanted[:, 11:-1], ours.image_head.weight, ours.image_head.bias))
    if architecture == "mamba":
        assert ours.layout is None
        return
    # With tables, as with transformers' own cache, of the window's width where there is one.
    cache = DynamicCache(config=theirs.config)
    logits, tables = ours.prefill(text, image[:, :3])
    hidden = theirs.base_model(inputs_embeds=x[:, :15], past_key_values=cache, use_cache=True).last_hidden_state
    torch.testing.assert_close(logits, F.linear(hidden[:, -1], ours.image_head.weight, ours.image_head.bias))
    for first, count in ((3, 1), (4, 4), (8, 1)):
        step = x[:, 12 + first : 12 + first + count]
        hidden = theirs.base_model(inputs_embeds=step, past_key_values=cache, use_cache=True).last_hidden_state
        logits = ours.step(image[:, first : first + count], tables)
        torch.testing.assert_close(logits, F.linear(hidden, ours.image_head.weight, ours.image_head.bias))


def test_the_tables_have_the_sizes_of_the_architecture(build, language_model):
    assert build(weights=str(language_model("gpt2")[0])).layout == Layout(2, 2, 16)
    assert build(weights=str(language_model("llama")[0])).layout == Layout(2, 2, 8), "as many heads as it has for keys"
    assert build(architecture="openai-gpt", embed_dim=16, num_layers=1).layout is None, "it knows no cache"


def test_a_sharded_folder_is_read_whole(build, language_model):
    folder, theirs = language_model("gpt2", max_shard_size="50KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert torch.equal(build(weights=str(folder)).trunk.h[1].mlp.c_fc.weight, theirs.transformer.h[1].mlp.c_fc.weight)


def test_fields_in_place_of_the_folders(build, language_model):
    folder, theirs = language_model("gpt2")
    ours = build(weights=str(folder), config={"resid_pdrop": 0.0, "activation_function": "relu"})
    assert ours.trunk.config.resid_pdrop == 0
    assert ours.trunk.config.activation_function == "relu"
    assert torch.equal(ours.trunk.wpe.weight, theirs.transformer.wpe.weight)


def test_weights_in_half_precision_are_trained_in_single(build, language_model, tmp_path):
    language_model("gpt2")[1].bfloat16().save_pretrained(tmp_path)
    language_model("gpt2")[1].float()
    ours = build(weights=str(tmp_path))
    assert {p.dtype for p in ours.parameters()} == {torch.float32}


def test_a_new_trunk_has_the_sizes_asked_for_and_no_embedding(build):
    ours = build(architecture="llama", embed_dim=48, num_layers=3, num_heads=4, config={"intermediate_size": 80})
    config = ours.trunk.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (48, 3, 4)
    assert (config.head_dim, config.num_key_value_heads, config.intermediate_size) == (12, 4, 80)
    assert config.max_position_embeddings == 24
    assert not [name for name, _ in ours.trunk.named_parameters() if "embed" in name]
    assert build().trunk.config.model_type == "llama"
    assert build(architecture="gpt2", config={"hidden_size": 32, "n_head": 2}).trunk.wpe.weight.shape == (24, 32)


def test_positions_may_be_the_architectures_own(build):
    learned, own = (build(architecture="gpt2", embed_dim=32, num_layers=1, positions=p) for p in ("learned", "own"))
    names = {name for name, _ in learned.named_parameters()} - {name for name, _ in own.named_parameters()}
    assert names == {"text_position.weight", "row.weight", "column.weight"}


def test_each_block_may_be_computed_twice(build):
    losses = []
    for again in (False, True):
        torch.manual_seed(0)
        ours = build(architecture="gpt2", embed_dim=32, num_layers=2, gradient_checkpointing=again).train()
        torch.manual_seed(0)
        loss, _ = ours.training_loss(small_batch(image_tokens=tokens(ours)[1].repeat(2, 1)), 0)
        loss.backward()
        losses.append((loss.detach(), ours.trunk.h[0].mlp.c_fc.weight.grad))
        assert ours.trunk.is_activation_checkpointing == again
    torch.testing.assert_close(losses[0], losses[1])


def test_the_loss_is_weighed_and_language_may_train_alone(build):
    ours = build(architecture="gpt2", embed_dim=32, num_layers=1, text_weight=0.25).eval()
    batch = small_batch(image_tokens=tokens(ours)[1], count=2)
    loss, logs = ours.training_loss(batch, 0)
    text_logits, image_logits = ours(ours.text_tokenizer.encode(batch["caption"]), batch["image_tokens"])
    text_loss = F.cross_entropy(
        text_logits.flatten(0, 1), ours.text_tokenizer.encode(batch["caption"])[:, 1:].flatten()
    )
    image_loss = F.cross_entropy(image_logits.flatten(0, 1), batch["image_tokens"].flatten())
    torch.testing.assert_close(loss, text_loss / 4 + 3 * image_loss / 4)
    torch.testing.assert_close(logs["image_loss"], image_loss)
    del batch["image_tokens"]
    alone, logs = ours.training_loss(batch, 0)
    torch.testing.assert_close(alone, text_loss)
    assert logs.keys() == {"text_loss"}


def test_captions_are_dropped_and_tokens_replaced_in_training_only(build):
    ours = build(architecture="gpt2", embed_dim=32, num_layers=1, caption_dropout=1.0, token_noise=0.5).eval()
    batch, (_, image) = small_batch(image_tokens=tokens(ours)[1], count=2), tokens(ours)
    assert torch.equal(ours._encode(batch, keeping=False), ours.text_tokenizer.encode(batch["caption"]))
    assert torch.equal(ours._with_noise(image), image)
    ours.train()
    assert torch.equal(ours._encode(batch, keeping=False), ours.text_tokenizer.encode(["", ""], batch["key"]))
    share = float((ours._with_noise(image.repeat(50, 1)) != image.repeat(50, 1)).float().mean())
    assert 0.3 < share < 0.6, "half of them, less those that are replaced by their like"


# --- drawing ---


@pytest.fixture(params=["gpt2", "mamba"])
def stirred(request, build):
    torch.manual_seed(0)
    ours = build(architecture=request.param, embed_dim=32, num_layers=1).eval()
    with torch.no_grad():  # as made, every token is as likely as any other
        for head in (ours.image_head, ours.image_embedding, ours.text_embedding):
            head.weight.normal_(std=0.5)
    return ours


def test_it_draws_with_guidance_and_kept_tokens(stirred):
    text = tokens(stirred)[0]
    sampler = mmgen.build("sampler", {"name": "autoregressive", "guidance_scale": 2.0, "batch_size": 4})
    drawn = sampler.draw(stirred, text, num_images=3, seed=3)
    assert drawn.shape == (2, 3, N)
    assert len(drawn.unique()) > 5
    assert torch.equal(sampler.draw(stirred, text[1:], num_images=2, seed=3)[0], drawn[1, :2]), "alone as beside others"
    kept = torch.arange(N) < 6
    again = sampler.draw(stirred, text[:1], num_images=1, seed=3, kept=kept, kept_tokens=drawn[:1, 0])
    assert torch.equal(again, drawn[:1, :1]), "the same random numbers go on from what is kept"
    kept = torch.arange(N) % 3 == 1
    other = sampler.draw(stirred, text[:1], num_images=2, seed=9, kept=kept, kept_tokens=drawn[:1, 0])
    assert (other[..., kept] == drawn[:1, :1, kept]).all()
    assert (other[..., ~kept] != drawn[:1, :1, ~kept]).any()


@torch.no_grad()
def test_the_likeliest_tokens_are_those_of_a_whole_pass(stirred):
    """Guided, at temperature 0: what the cache gives is what reading everything at once gives."""
    text, scale = tokens(stirred)[0], 2.0
    sampler = mmgen.build("sampler", {"name": "autoregressive", "temperature": 0.0, "guidance_scale": scale})
    drawn = sampler.draw(stirred, text, num_images=1, seed=0)[:, 0]
    null = stirred.text_tokenizer.encode(["", ""])
    one, other = (stirred(which, drawn)[1] for which in (text, null))
    assert torch.equal((other + scale * (one - other)).argmax(-1), drawn)


# --- checkpoints ---


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_checkpoint_needs_no_folder(architecture, build, language_model, tmp_path):
    ours = build(weights=str(language_model(architecture)[0])).eval()
    options = json.loads(json.dumps(ours.checkpoint_options))
    assert options["weights"] is None
    assert str(language_model(architecture)[0]) not in json.dumps(options)
    again = build(**options).eval()
    again.load_state_dict(ours.state_dict())
    assert again.checkpoint_options == ours.checkpoint_options
    with torch.no_grad():
        assert all(map(torch.equal, again(*tokens(ours)), ours(*tokens(ours))))


def test_what_a_checkpoint_says_are_all_fields_and_nothing_that_runs(build):
    """So that another version's defaults change nothing; and mmgen reads no part whose keys begin with `_`."""
    config = build(
        architecture="mamba2", embed_dim=32, num_layers=1, config={"num_heads": 8, "head_dim": 8}
    ).checkpoint_options["config"]
    assert config["expand"] == 2
    assert not [name for name in config if name.startswith("_") or "implementation" in name]
    assert "time_step_limit" not in config, "infinity is no JSON; it is the default"
    assert not {"vocab_size", "dtype", "auto_map", "architectures"} & config.keys()


def test_without_memory_only_headers_of_a_folder_are_read(build, copied):
    """As a stage is looked at before anything is trained: its config is, and of its weights the headers."""
    folder = copied()
    save_file({"h": torch.zeros(2)}, folder / "model.safetensors")
    with torch.device("meta"):
        ours = build(weights=str(folder))
    assert all(parameter.is_meta for parameter in ours.parameters())
    (folder / "model.safetensors").write_bytes(b"")
    with torch.device("meta"), pytest.raises(ConfigError, match=r"model\.safetensors cannot be read"):
        build(weights=str(folder))


# --- what all share ---


def test_building_changes_nothing_and_asks_nobody(build, language_model, monkeypatch, recwarn):
    from huggingface_hub import constants
    from transformers.utils import logging

    folder = str(language_model("llama")[0])

    def refuse(*args, **kwargs):
        raise AssertionError("it reaches out")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    logging.set_verbosity_info()
    state = (dict(os.environ), logging.get_verbosity(), logging.is_progress_bar_enabled(), constants.HF_HUB_OFFLINE)
    try:
        build(weights=folder)
        build(architecture="mamba", embed_dim=16, num_layers=1)
        assert state == (
            dict(os.environ), logging.get_verbosity(), logging.is_progress_bar_enabled(), constants.HF_HUB_OFFLINE,
        )  # fmt: skip
    finally:
        logging.set_verbosity_warning()
    assert not [w for w in recwarn if "put back" in str(w.message)]


def test_it_is_by_itself_inside(monkeypatch):
    from huggingface_hub import constants
    from transformers.utils import logging

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with by_itself():
        assert constants.HF_HUB_OFFLINE
        assert not logging.is_progress_bar_enabled()
        os.environ["MMGEN_TEST_ONLY"] = "1"
    assert "MMGEN_TEST_ONLY" not in os.environ
    assert not constants.HF_HUB_OFFLINE


def test_a_cache_that_gives_something_else_is_not_used(build, monkeypatch):
    """Where reading in two pieces is not reading at once, everything is read again."""
    right = trunk.read_on
    monkeypatch.setattr(trunk, "read_on", lambda model, x, cache: 1.01 * right(model, x, cache))
    assert build(architecture="gpt2", embed_dim=32, num_layers=1).layout is None
