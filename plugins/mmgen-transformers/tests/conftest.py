"""A small language model of each architecture with random weights, in a folder as transformers saves it."""

import json

import pytest
import torch
from mmgen_transformers.trunk import by_itself

from mmgen.testing import small_text_tokenizer

GRID, CODES = (3, 4), 23
# 24 positions: 12 of text, 12 of the picture. Llama's keys are fewer than its queries, Mistral's window is narrower.
FIELDS = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "llama": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    "mistral": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    "mixtral": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
}
FIELDS["llama"]["num_key_value_heads"] = 2
FIELDS["mistral"] |= {"num_key_value_heads": 2, "sliding_window": 5, "head_dim": 8}
FIELDS["mixtral"] |= {"num_key_value_heads": 2, "num_local_experts": 3}


@pytest.fixture(scope="session")
def build():
    """Builds the generator with options, for 24 positions."""
    import mmgen

    text_tokenizer = small_text_tokenizer()

    def make(grid=GRID, **options):
        parts = {"text_tokenizer": text_tokenizer, "grid": grid, "codebook_size": CODES}
        return mmgen.build("generator", {"name": "hf_causal", **options}, **parts)

    return make


@pytest.fixture(scope="session")
def language_model(tmp_path_factory):
    """A folder with a language model of an architecture, and that model itself."""
    made = {}

    def make(architecture, **changes):
        from transformers import CONFIG_MAPPING, AutoModelForCausalLM

        if architecture in made and not changes:
            return made[architecture]
        config = CONFIG_MAPPING[architecture](vocab_size=99, bos_token_id=0, eos_token_id=0, **FIELDS[architecture])
        torch.manual_seed(0)
        with by_itself():
            model = AutoModelForCausalLM.from_config(config).eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.1 * torch.randn(parameter.shape)
            folder = tmp_path_factory.mktemp(architecture)
            model.save_pretrained(folder, **changes)
        if not changes:
            made[architecture] = (folder, model)
        return folder, model

    return make


@pytest.fixture
def copied(language_model, tmp_path):
    """A copy of GPT-2's folder, to spoil; its config.json may be changed."""
    import shutil

    folder = tmp_path / "lm"
    shutil.copytree(language_model("gpt2")[0], folder)

    def change(**fields):
        content = json.loads((folder / "config.json").read_text()) | fields
        (folder / "config.json").write_text(json.dumps(content))
        return folder

    return change
