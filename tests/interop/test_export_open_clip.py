"""`mmgen export RUN DIR format=open_clip`: open_clip opens it, computes the same, and it comes back the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import mmgen
from mmgen import cli
from mmgen.checkpoint.exports import read_export
from mmgen.checkpoint.parts import Part, write_part
from mmgen.data.clip_text import ClipTextTokenizer
from mmgen.data.text import BpeTextTokenizer
from mmgen.interop import clip_export
from mmgen.loading import load_part
from tests.interop.clip_files import CONTEXT, MERGES, randomised
from tests.models.open_clip_models import open_clip

CAPTIONS = ["the cat", "a cat on the mat", "", "the THE &amp; the", "the cat the cat the cat the cat the cat"]
TOWERS: dict[str, dict[str, Any]] = {
    "vit": {"image_tower": "vit", "patch_size": 8, "width": 64, "num_heads": 2, "image_layers": 2},
    "vit without norm": {"image_tower": "vit", "patch_size": 8, "width": 64, "num_heads": 4, "pre_norm": False},
    "resnet": {"image_tower": "resnet", "width": 8, "stages": [1, 2, 1, 1], "num_heads": 4, "text_width": 64},
}


def clip_tokenizer() -> ClipTextTokenizer:
    pairs = [merge.split() for merge in MERGES]
    return ClipTextTokenizer([(left, right) for left, right in pairs], CONTEXT)


def bpe_tokenizer() -> BpeTextTokenizer:
    return BpeTextTokenizer.train(["the cat on the mat", "the cat"] * 3, 262, CONTEXT)


def make(directory: Path, text_tokenizer: Any, **options: Any) -> Part:
    """A finished encoder with random weights, as training leaves it."""
    torch.manual_seed(0)
    config = {"name": "clip", "embed_dim": 16, "text_layers": 1, **options}
    arguments = {"image_size": 64 if options.get("image_tower") == "resnet" else 32}
    model = randomised(mmgen.build("encoder", config, text_tokenizer=text_tokenizer, **arguments))
    text = text_tokenizer.to_json()
    state = model.state_dict()
    return write_part(
        directory / "model", kind="encoder", config=config, arguments=arguments, tensors=state, text_tokenizer=text
    )


def export(capsys: pytest.CaptureFixture[str], source: Path, to: Path, *more: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main(["export", str(source), str(to), "format=open_clip", *more])
    return code, *capsys.readouterr()


def opened(directory: Path) -> Any:
    """By open_clip's own loader. (Its transforms need torchvision, which the tests do without.)"""
    return open_clip().create_model(f"local-dir:{directory}").eval()


@torch.no_grad()
def assert_same(part: Part, theirs: Any, tokens: torch.Tensor, ours: torch.Tensor) -> None:
    encoder = load_part(part)
    images = torch.rand(3, 3, encoder.image_size, encoder.image_size, generator=torch.Generator().manual_seed(5))
    settings = theirs.visual.preprocess_cfg
    assert settings["size"] in (encoder.image_size, (encoder.image_size,) * 2)
    mean, deviation = (torch.tensor(settings[name])[:, None, None] for name in ("mean", "std"))
    pairs = (
        (encoder.encode_image(images), theirs.encode_image((images - mean) / deviation, normalize=True)),
        (encoder.encode_text(ours), theirs.encode_text(tokens, normalize=True)),
    )
    for found, wanted in pairs:
        assert float((found - wanted).abs().max()) <= 1e-5
        assert float((wanted[0] - wanted[1]).abs().max()) > 1e-3  # else nothing would show
    assert float(theirs.logit_scale) == float(encoder.logit_scale)


@pytest.mark.parametrize("pixels", ["symmetric", "openai"])
@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("tower", TOWERS)
def test_open_clip_computes_the_same_and_it_comes_back_the_same(tmp_path, capsys, tower, activation, pixels):
    part = make(tmp_path / "run", clip_tokenizer(), activation=activation, pixels=pixels, **TOWERS[tower])
    code, out, err = export(capsys, tmp_path / "run", tmp_path / "out")
    assert code == 0, err
    assert "note:" not in out
    theirs = opened(tmp_path / "out")
    tokenize = open_clip().get_tokenizer(f"local-dir:{tmp_path / 'out'}")
    tokens, ours = tokenize(CAPTIONS), clip_tokenizer().encode(CAPTIONS)
    until = torch.arange(CONTEXT) <= clip_tokenizer().end(ours)[:, None]
    assert torch.equal(tokens * until, ours)
    assert_same(part, theirs, tokens, ours)
    capsys.readouterr()
    assert cli.main(["import", "clip", str(tmp_path / "out"), f"to={tmp_path / 'back'}"]) == 0
    assert "compared with:" in capsys.readouterr().out
    assert_comes_back(part, tmp_path / "back")


def assert_comes_back(part: Part, directory: Path) -> None:
    back = read_export(directory).parts["encoder"]
    assert back.tensors.keys() == part.tensors.keys()
    assert all(torch.equal(back.tensors[name], part.tensors[name]) for name in part.tensors)
    assert (back.text_tokenizer, back.arguments) == (part.text_tokenizer, part.arguments)
    assert {key: back.config[key] for key in part.config} == part.config


def readme_code(directory: Path) -> str:
    return (directory / "README.md").read_text().split("```python\n")[1].split("```")[0]


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_a_text_tokenizer_that_open_clip_has_not_is_told_and_the_readme_s_lines_use_it(tmp_path, capsys, loss):
    part = make(tmp_path / "run", bpe_tokenizer(), loss=loss, **TOWERS["vit"])
    code, out, err = export(capsys, tmp_path / "run", tmp_path / "out")
    assert code == 0, err
    assert "note: open_clip cannot read this encoder's text tokenizer; README.md" in out
    theirs = opened(tmp_path / "out")
    assert (theirs.logit_bias is not None) == (loss == "sigmoid")
    lines = readme_code(tmp_path / "out").replace("THIS_FOLDER", str(tmp_path / "out"))
    # As written, but for the loader of pictures, which needs torchvision.
    opens = "model, preprocess = open_clip.create_model_from_pretrained"
    lines = lines.replace(opens, "model = open_clip.create_model")
    assert lines.count("create_model(") == 1
    scope: dict[str, Any] = {}
    exec(lines, scope)  # noqa: S102
    short = ["the cat", "a cat", "", "the the the"]
    ours = bpe_tokenizer().encode(short)
    assert_same(part, theirs, scope["tokenize"](short), ours)
    assert scope["tokenize"](CAPTIONS[4:]).argmax(1).tolist() == [CONTEXT - 1]  # one that fills every place
    assert cli.main(["import", "clip", str(tmp_path / "out"), f"to={tmp_path / 'back'}"]) == 0
    assert_comes_back(part, tmp_path / "back")


def test_the_published_vocabulary_is_read_by_the_one_that_open_clip_ships(tmp_path, capsys):
    package = open_clip()
    tokenizer = ClipTextTokenizer.from_file(Path(package.__file__).parent / "bpe_simple_vocab_16e6.txt.gz", 12)
    part = make(tmp_path / "run", tokenizer, **TOWERS["vit"])
    assert export(capsys, tmp_path / "run", tmp_path / "out")[0] == 0
    tokenize = package.get_tokenizer(f"local-dir:{tmp_path / 'out'}")
    assert type(tokenize).__name__ == "SimpleTokenizer"
    tokens = tokenize(CAPTIONS)
    assert torch.equal(tokens, tokenizer.encode(CAPTIONS))
    assert_same(part, opened(tmp_path / "out"), tokens, tokens)


def test_what_open_clip_cannot_be_is_told_and_nothing_is_written(tmp_path, capsys):
    make(tmp_path / "run", clip_tokenizer(), pool="average", **TOWERS["vit"])
    code, _, err = export(capsys, tmp_path / "run", tmp_path / "out")
    assert code == 5
    assert "error[MMG-K12]: open_clip has no such model: its pool is average" in err
    assert "fix: train one with encoder.pool=class_token" in err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("spoil", ["missing", "unknown", "shape"])
def test_weights_that_do_not_fit_their_config_are_not_written(tmp_path, capsys, spoil):
    part = make(tmp_path / "run", clip_tokenizer(), **TOWERS["vit"])
    tensors = dict(part.tensors)
    if spoil == "missing":
        del tensors["text.norm.bias"]
    else:
        tensors["text.norm.bias" if spoil == "shape" else "image_blocks.0.bias"] = torch.zeros(3)
    fields = {"config": part.config, "arguments": part.arguments, "text_tokenizer": part.text_tokenizer}
    write_part(tmp_path / "run/model", kind="encoder", tensors=tensors, **fields)
    code, _, err = export(capsys, tmp_path / "run", tmp_path / "out")
    assert (code, "MMG-K02" in err) == (5, True)
    assert "1 tensors are missing" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [(["format=openclip"], "format"), (["to=again"], "to"), (["run=elsewhere"], "")],
)
def test_mistakes_on_the_command_line_are_told(tmp_path, capsys, more, said):
    make(tmp_path / "run", clip_tokenizer(), **TOWERS["vit"])
    code, _, err = export(capsys, tmp_path / "run", tmp_path / "out", *more)
    assert code in (2, 5)
    assert "error[MMG-" in err
    assert said in err
    assert not (tmp_path / "out").exists()


def test_what_lies_there_is_not_overwritten_and_a_failure_leaves_nothing(tmp_path, capsys, monkeypatch):
    make(tmp_path / "run", clip_tokenizer(), **TOWERS["vit"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    code, _, err = export(capsys, tmp_path / "run", tmp_path / "out")
    assert (code, "MMG-K07" in err) == (5, True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(clip_export, "write_tensors", full)
    code, _, err = export(capsys, tmp_path / "run", tmp_path / "new")
    assert (code, "error[MMG-" in err) == (5, True)
    assert not [path for path in tmp_path.iterdir() if path.name not in ("run", "out")]


def test_the_config_is_one_that_open_clip_could_have_written(tmp_path, capsys):
    make(tmp_path / "run", clip_tokenizer(), **TOWERS["resnet"])
    assert export(capsys, tmp_path / "run", tmp_path / "out")[0] == 0
    config = json.loads((tmp_path / "out/open_clip_config.json").read_text())
    assert config.keys() == {"model_cfg", "preprocess_cfg"}
    assert config["model_cfg"]["vision_cfg"]["layers"] == [1, 2, 1, 1]
    assert config["model_cfg"]["vision_cfg"]["head_width"] == 64
