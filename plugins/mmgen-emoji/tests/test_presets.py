"""The presets of image tokenizers are what their component understands, and fit the pictures."""

from pathlib import Path

import mmgen_emoji
import pytest
import torch
import yaml

import mmgen

PRESETS = sorted((Path(mmgen_emoji.__file__).parent / "conf" / "tokenizer").glob("*.yaml"))


@pytest.mark.parametrize("file", PRESETS, ids=lambda file: file.stem)
def test_a_tokenizer_s_preset_builds(file):
    options = yaml.safe_load(file.read_text())
    component, itself = options.pop("defaults")
    assert itself == "_self_"
    with torch.device("meta"):
        tokenizer = mmgen.build("tokenizer", {"name": component, **options}, image_size=32)
    assert tokenizer.grid == (8, 8)
    assert tokenizer.codebook_size >= 512


def test_there_are_presets():
    assert {file.stem for file in PRESETS} >= {"emoji_vq", "emoji_dvae"}
