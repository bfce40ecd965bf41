"""By the commands: trained from a folder of weights, drawn from without it, and the presets."""

import shutil
from pathlib import Path

import mmgen_transformers
import pytest
import torch
import yaml

import mmgen
from mmgen import cli
from mmgen.images import save_png
from mmgen.testing import small_samples

PRESETS = sorted((Path(mmgen_transformers.__file__).parent / "conf" / "generator").glob("*.yaml"))


@pytest.mark.parametrize("file", PRESETS, ids=lambda file: file.stem)
def test_a_preset_builds(file, build):
    options = yaml.safe_load(file.read_text())
    assert options.pop("defaults") == ["hf_causal", "_self_"]
    with torch.device("meta"):
        generator = build(**options)
    assert 1e6 < sum(parameter.numel() for parameter in generator.trunk.parameters()) < 4e6
    assert file.stem == f"hf_{options['architecture']}"


def test_there_are_presets():
    assert len(PRESETS) == 3


def command(*words):
    assert cli.main([*words, "tracking.mode=disabled"] if words[0] == "train" else [*words]) == 0


@pytest.mark.slow
def test_it_is_trained_from_weights_and_draws_without_them(language_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(language_model("llama")[0], "lm")
    Path("pictures").mkdir()
    for sample in small_samples(48, 16):
        save_png(sample["image"], Path("pictures", f"{sample['id']}.png"))
        Path("pictures", f"{sample['id']}.txt").write_text(sample["caption"])
    data = ["dataset=folder", "dataset.path=pictures", "dataset.image_size=16", "task.batch_size=16"]
    small = ["tokenizer.width=8", "tokenizer.blocks=1", "tokenizer.codebook_size=32"]
    command("train", "task=tokenizer", *data, *small, "trainer.max_steps=12", "run.name=tok")
    text = "task.text_tokenizer={vocab_size: 280, context_length: 12, bpe_dropout: 0.1}"
    options = ["generator=hf_causal", "generator.weights=lm", "generator.config.attention_dropout=0.1"]
    steps = ["tokenizer_from=runs/tok", "trainer.max_steps=12", "task.checkpoint_every=6", "run.name=gen"]
    command("train", "task=generator", *options, *data, text, *steps)
    shutil.rmtree("lm")
    drawn = ["a red bar", "run=runs/gen", "tokenizer_from=runs/tok", "num_images=2", "keep=2", "out=drawn"]
    command("sample", *drawn, "sampler=autoregressive", "sampler.guidance_scale=2")
    assert len(list(Path("drawn").glob("0*.png"))) == 2
    generator = mmgen.load("runs/gen", tokenizer_from="runs/tok").part("generator")
    assert generator.trunk.config.model_type == "llama"
    assert generator.trunk.config.attention_dropout == 0.1
    capsys.readouterr()
    assert cli.main(["train", "task=generator", *options, *data, text, *steps[:-1], "run.name=no"]) == 2
    assert "weights=lm is no folder here" in capsys.readouterr().err
    attention = ["generator=hf_causal", *data, text, *steps[:-1], "run.name=no", "tracking.attention=true"]
    assert cli.main(["train", "task=generator", *attention]) == 2
    assert "HfCausal cannot show its attention" in capsys.readouterr().err
    assert not Path("runs/no/checkpoints").exists(), "told before anything is trained"
