"""What cannot be is told with its place, its reason and what to write instead."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmgen.errors import ConfigError

SMALL = {"embed_dim": 32, "num_layers": 1}


def refused(build, **options):
    with pytest.raises(ConfigError) as caught:
        build(**options)
    return caught.value.what


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"architecture": "gtp2"}, "did you mean generator.architecture=gpt2"),
        ({"architecture": "no such thing at all"}, "it knows afmoe, apertus"),
        ({"architecture": "openai-community/gpt2"}, "no causal language model of transformers"),
        ({"architecture": "bart"}, "parts besides a decoder of text"),
        ({"architecture": "gemma3"}, "generator.architecture=gemma3_text is it"),
        ({"architecture": "gpt2", "config": {"n_layers": 2}}, "did you mean generator.config.n_layer"),
        ({"architecture": "gpt2", "config": {"_attn_implementation": "a/kernel"}}, "is no field of gpt2's config"),
        ({"architecture": "gpt2", "config": {"auto_map": {}}}, "is no field of gpt2's config"),
        ({"architecture": "gpt2", "config": {"vocab_size": 7}}, "config.vocab_size cannot be set"),
        ({"architecture": "gpt2", "config": {"n_embd": 8, "hidden_size": 8}}, "given twice: n_embd"),
        ({"architecture": "gpt2", "config": {"n_embd": 8}, "embed_dim": 16}, "config.n_embd=8 are the same size"),
        ({"architecture": "gpt2", "config": {"resid_pdrop": "much"}}, "refused by transformers: .*resid_pdrop"),
        ({"architecture": "gpt2", "config": {"activation_function": "gelo"}}, "cannot build this gpt2: .*gelo"),
        ({"architecture": "gpt2", "config": {"n_positions": 8}}, r"24 positions.* reads 8 .*config\.n_positions=24"),
        ({"architecture": "gpt2", "embed_dim": 30, "num_heads": 4}, "cannot build this gpt2: .*divisible"),
        ({"architecture": "gpt2", "num_layers": 0}, "num_layers must be a whole number ≥ 1"),
        ({"architecture": "xlm", **SMALL}, "its positions see what comes after them"),
        ({"architecture": "bloom", "attention": "sdpa", **SMALL}, "cannot build this bloom: .*scaled_dot_product"),
        ({"architecture": "gptj", "config": {"rotary_dim": 64}, **SMALL}, "it cannot read vectors"),
        ({"architecture": "openai-gpt", "gradient_checkpointing": True, **SMALL}, "has none for openai-gpt"),
        ({"architecture": "gpt2", "text_weight": 1.5}, r"text_weight must lie in \[0,1\], got 1.5"),
        ({"architecture": "gpt2", "token_noise": -0.1}, r"token_noise must lie in \[0,1\]"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_options_that_cannot_be(build, options, said):
    with pytest.raises(ConfigError, match=said):
        build(**options)


# --- folders ---


def test_a_folder_that_is_not_there(build, tmp_path):
    said = refused(build, weights="openai-community/gpt2")
    assert "nothing is downloaded" in said
    assert "hf download openai-community/gpt2 --local-dir DIR" in said
    assert "OWNER/NAME" in refused(build, weights=str(tmp_path / "none"))
    assert "config.json cannot be read: No such file" in refused(build, weights=str(tmp_path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<html>", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[1]", "no JSON object"),
        ('{"hidden_size": 4}', "no model_type"),
        ('{"model_type": "mine", "auto_map": {"AutoModel": "mine.Mine"}}', "code of a folder is never run"),
        ('{"model_type": "t5"}', "architecture=t5 is no causal language model"),
        ('{"model_type": "gpt2", "quantization_config": {"quant_method": "gptq"}}', "quantised weights"),
        ('{"model_type": "gpt2", "n_embd": "wide"}', "refused by transformers"),
    ],
)
def test_a_config_that_is_none(build, tmp_path, text, said):
    (tmp_path / "config.json").write_text(text)
    assert said in refused(build, weights=str(tmp_path))


def test_what_the_folder_says_itself(build, copied):
    folder = str(copied())
    assert "are of a gpt2: leave it out" in refused(build, weights=folder, architecture="llama")
    assert "embed_dim is for a new trunk" in refused(build, weights=folder, embed_dim=32)
    assert "reads 64 (n_positions)" in refused(build, weights=folder, grid=(8, 8))
    assert build(weights=folder, architecture="gpt2").layout


def test_code_beside_the_weights_is_not_run(build, copied, tmp_path):
    folder = copied(auto_map={"AutoModel": "mine.Mine", "AutoConfig": "mine.Config"}, _attn_implementation="a/kernel")
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/else"}')
    assert build(weights=str(folder)).trunk.config._attn_implementation == "sdpa"
    assert not (tmp_path / "ran").exists()
    assert "mine" not in sys.modules


def test_weights_that_do_not_fit(build, copied):
    folder = copied()
    weights, tensors = folder / "model.safetensors", load_file(folder / "model.safetensors")
    one = "transformer.h.1.mlp.c_fc.bias"
    for changed, said in {
        "missing": "h.1.mlp.c_fc.bias is missing (1 tensors",
        "short": "h.1.mlp.c_fc.bias (7,) where (128,) is wanted",
        "spare": "h.2.ln_1.bias has no place",
    }.items():
        other = dict(tensors)
        if changed == "spare":
            other["transformer.h.2.ln_1.bias"] = torch.zeros(32)
        else:
            other.pop(one)
            other |= {one: torch.zeros(7)} if changed == "short" else {}
        save_file(other, weights)
        assert said in refused(build, weights=str(folder))
    save_file({**tensors, "score.weight": torch.zeros(2, 32)}, weights)
    assert build(weights=str(folder)).layout, "another head is left out, as the language model's is"
    assert "h.1." in refused(build, weights=str(folder), config={"n_layer": 1})
    assert "is missing" in refused(build, weights=str(folder), config={"n_layer": 3})


def test_weights_that_cannot_be_read(build, copied):
    folder = copied()
    weights, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors cannot be read" in refused(build, weights=str(folder))
    elsewhere = weights.rename(folder.parent / "elsewhere.safetensors")
    for place in ("../elsewhere.safetensors", str(elsewhere), "weights.bin", 7):
        index.write_text(json.dumps({"weight_map": {"transformer.wpe.weight": place}}))
        assert "does not name safetensors of its folder" in refused(build, weights=str(folder))
    index.write_text(json.dumps({"weight_map": {"transformer.wpe.weight": "one.safetensors"}}))
    assert "one.safetensors is missing" in refused(build, weights=str(folder))
    index.unlink()
    assert "holds no model.safetensors" in refused(build, weights=str(folder))
    (folder / "pytorch_model.bin").write_bytes(b"never opened")
    assert "a pickle, which can run code" in refused(build, weights=str(folder))
