"""`mmgen import clip`: OpenAI's, open_clip's and Hugging Face's weights compute here what they compute there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import mmgen
from mmgen import cli
from mmgen.checkpoint.exports import read_export
from mmgen.interop import clip, clip_config
from mmgen.models import clip as component
from tests.interop import clip_files
from tests.interop.clip_files import CONTEXT, IDS, make_hugging_face, make_open_clip
from tests.models.clip_shapes import ours
from tests.models.open_clip_models import open_clip

TOLERANCE = 1e-5
Import = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Import:
    """`mmgen import clip …` in this process, in a directory with a vocabulary: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    clip_files.save_vocabulary(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(["import", "clip", *arguments])
        return code, *capsys.readouterr()

    return run


WITH = "vocabulary=vocabulary.txt.gz"
HEADS = {"vit": "[2,2]", "vit without norm": "[1,2]", "resnet": "[4,2]"}  # of 64 features, as these were made


def captions() -> torch.Tensor:
    tokens = torch.randint(1, IDS - 2, (4, CONTEXT), generator=torch.Generator().manual_seed(3))
    tokens[:, 0] = IDS - 2
    for row, end in enumerate((1, 3, 5, CONTEXT - 1)):
        tokens[row, end] = IDS - 1
        tokens[row, end + 1 :] = 0
    return tokens


@torch.no_grad()
def assert_same(reference: Any, directory: Path) -> None:
    """The features of pictures and captions, from the reference's own code."""
    encoder = mmgen.load(directory).part("encoder")
    images = torch.rand(3, 3, encoder.image_size, encoder.image_size, generator=torch.Generator().manual_seed(7))
    mean, deviation = (torch.tensor(values)[:, None, None] for values in component.PIXELS["openai"])
    pixels, tokens = (images - mean) / deviation, captions()
    if hasattr(reference, "visual"):
        wanted = reference.encode_image(pixels, normalize=True), reference.encode_text(tokens, normalize=True)
    else:
        out = reference(input_ids=tokens, pixel_values=pixels)
        wanted = F.normalize(out.image_embeds, dim=-1), F.normalize(out.text_embeds, dim=-1)
    for found, expected in zip((encoder.encode_image(images), encoder.encode_text(tokens)), wanted, strict=True):
        assert float((found - expected).abs().max()) <= TOLERANCE
        assert float((expected[0] - expected[1]).abs().max()) > 100 * TOLERANCE  # else nothing would show


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("tower", clip_files.VISION)
def test_a_state_dict_of_open_clip_computes_the_same(run, tmp_path, tower, activation):
    reference = make_open_clip(tower, activation)
    torch.save(reference.state_dict(), "weights.pt")
    code, out, err = run("weights.pt", WITH, f"activation={activation}", f"heads={HEADS[tower]}", "to=out")
    assert code == 0, err
    assert "compared with:" in out
    assert "assumed, as nothing tells them: pixels=openai" in " ".join(out.split())
    assert_same(reference, tmp_path / "out")
    part = read_export(tmp_path / "out").parts["encoder"]
    wanted = ours(reference.state_dict())
    assert part.tensors.keys() == wanted.keys()
    assert all(torch.equal(part.tensors[name], wanted[name]) for name in wanted)
    assert part.config["activation"] == activation


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_an_archive_of_openai_is_read_without_its_code(run, tmp_path, monkeypatch, tower):
    reference = clip_files.halved(make_open_clip(tower))
    clip_files.save_archive(reference, Path("archive.pt"))
    monkeypatch.setattr(torch.jit, "load", None)
    code, _, err = run("archive.pt", WITH, "to=out")
    assert code == 0, err
    assert_same(reference, tmp_path / "out")
    parity = json.loads((tmp_path / "out/parity.json").read_text())
    assert {row["dtype"] for row in parity["tensors"]} >= {"float16", "float32"}
    assert sorted(parity["left"]["sizes that the weights tell as well"]) == [
        "context_length",
        "input_resolution",
        "vocab_size",
    ]
    assert {row["limit"] for row in parity["comparison"]["measures"]} == {1e-5}
    config = read_export(tmp_path / "out").parts["encoder"].config
    assert (config["activation"], config["pixels"]) == ("quick_gelu", "openai")


def test_a_training_s_checkpoint_of_several_processes(run, tmp_path):
    reference = make_open_clip("vit", "gelu", init_logit_bias=-10.0)
    state = {f"module.{name}": tensor for name, tensor in reference.state_dict().items()}
    torch.save({"epoch": 3, "name": "x", "state_dict": state, "optimizer": {"state": {}}}, "epoch_3.pt")
    code, _, err = run("epoch_3.pt", WITH, "activation=gelu", "heads=[2,2]", "to=out")
    assert code == 0, err
    assert_same(reference, tmp_path / "out")
    encoder = mmgen.load(tmp_path / "out").part("encoder")
    assert encoder.loss == "sigmoid"
    assert float(encoder.logit_bias.detach()) == float(reference.logit_bias.detach()) == -10.0


def test_a_text_side_of_its_own_module(run, tmp_path):
    reference = make_open_clip("vit", "gelu")
    state = open_clip().model.convert_to_custom_text_state_dict(reference.state_dict())
    assert any(name.startswith("text.") for name in state)
    torch.save(state, "weights.bin")
    code, _, err = run("weights.bin", WITH, "activation=gelu", "heads=[2,2]", "to=out")
    assert code == 0, err
    assert_same(reference, tmp_path / "out")


@pytest.mark.parametrize(("tower", "activation"), [("vit", "gelu"), ("resnet", "quick_gelu")])
def test_a_hub_folder_of_open_clip(run, tmp_path, tower, activation):
    reference = make_open_clip(tower, activation)
    config = clip_files.open_clip_config(tower, activation)
    clip_files.save_hub_folder(reference, Path("hub"), config)
    code, _, err = run("hub", "to=out")
    assert code == 0, err
    assert_same(reference, tmp_path / "out")


def test_openai_s_vocabulary_in_the_folder_or_named_as_a_file(run, tmp_path):
    clip_files.save_hub_folder(make_open_clip(), Path("hub"), clip_files.open_clip_config("vit", "quick_gelu"))
    Path("hub/merges.txt").unlink()
    clip_files.save_vocabulary(tmp_path / "hub", clip.VOCABULARY)
    assert run("hub", "to=out")[0] == 0
    weights, config = "hub/open_clip_model.safetensors", "hub/open_clip_config.json"
    assert run(weights, config, f"hub/{clip.VOCABULARY}", "to=other")[0] == 0
    assert run(weights, config, "vocabulary.txt.gz", "to=third")[0] == 0


def test_ids_that_the_merges_make_may_stand_beside_them(run, tmp_path):
    reference = make_open_clip("vit", "gelu")
    clip_files.save_hub_folder(reference, Path("hub"), clip_files.open_clip_config("vit", "gelu"))
    for name in ("vocab.json", "tokenizer.json"):
        clip_files.save_ids(tmp_path / "hub", name)
    code, _, err = run("hub", "to=out")
    assert code == 0, err
    assert_same(reference, tmp_path / "out")
    names = ("open_clip_model.safetensors", "vocab.json", "open_clip_config.json", "merges.txt")
    code, _, err = run(*(f"hub/{name}" for name in names), "to=other")
    assert code == 0, err


RESIZED = [{"resize_mode": "shortest", "interpolation": "bicubic"}, {"resize_mode": None}, {"interpolation": "random"}]


@pytest.mark.parametrize("said", RESIZED)
def test_pictures_that_open_clip_resizes_as_it_does_by_default(run, said):
    config = clip_files.open_clip_config("vit", "gelu")
    config["preprocess_cfg"] |= {"interpolation": None, **said}
    clip_files.save_hub_folder(make_open_clip("vit", "gelu"), Path("hub"), config)
    code, _, err = run("hub", "to=out")
    assert code == 0, err


@pytest.mark.parametrize(
    "said",
    [
        {"do_center_crop": True, "resample": 3},
        {"do_center_crop": None, "resample": None},
        {"size": 16, "crop_size": 16},
        {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}, "do_resize": True},
    ],
)
def test_pictures_that_hugging_face_resizes_as_it_does_by_default(run, tmp_path, said):
    make_hugging_face().save_pretrained("folder")
    clip_files.save_vocabulary(tmp_path / "folder", "merges.txt")
    Path("folder/preprocessor_config.json").write_text(json.dumps(said))
    code, _, err = run("folder", "to=out")
    assert code == 0, err


@pytest.mark.parametrize(("activation", "safe"), [("gelu", True), ("quick_gelu", False)])
def test_a_folder_of_hugging_face(run, tmp_path, activation, safe):
    reference = make_hugging_face(activation)
    reference.save_pretrained("folder", safe_serialization=True)
    if not safe:
        torch.save(reference.state_dict(), "folder/pytorch_model.bin")
        Path("folder/model.safetensors").unlink()
    clip_files.save_vocabulary(tmp_path / "folder", "merges.txt")
    code, out, err = run("folder", "to=out")
    assert code == 0, err
    assert "transformers" in out
    assert_same(reference, tmp_path / "out")
    config = read_export(tmp_path / "out").parts["encoder"].config
    assert (config["num_heads"], config["text_heads"]) == (4, 4)  # of 32 features; without the config, of 64


def test_heads_of_another_width_are_taken_from_the_user(run, tmp_path, monkeypatch):
    monkeypatch.setitem(clip_files.VISION, "vit", {**clip_files.VISION["vit"], "head_width": 32})
    reference = make_open_clip("vit", "gelu")
    torch.save(reference.state_dict(), "weights.pt")
    given = ("weights.pt", WITH, "activation=gelu", "heads=[4,2]")
    assert run(*given, "to=out")[0] == 0
    assert_same(reference, tmp_path / "out")
    assert run(*given, "pixels=symmetric", "to=other")[0] == 0
    configs = [read_export(tmp_path / name).parts["encoder"].config for name in ("out", "other")]
    assert [(config["num_heads"], config["pixels"]) for config in configs] == [(4, "openai"), (4, "symmetric")]


def test_widths_that_openai_published_have_its_heads(run, tmp_path, monkeypatch):
    monkeypatch.setattr(clip, "PUBLISHED", {("vit", 128, 128)})
    torch.save(make_open_clip().state_dict(), "weights.pt")
    code, out, err = run("weights.pt", WITH, "activation=quick_gelu", "to=out")
    assert code == 0, err
    assert "heads=[2, 2], pixels=openai" in out
    assert json.loads((tmp_path / "out/parity.json").read_text())["assumed"] == ["heads=[2, 2]", "pixels=openai"]


def test_the_published_widths_are_those_of_heads_of_64_alone():
    """In no config that open_clip ships are these widths cut into heads otherwise: what is assumed is sure."""
    found = set()
    for path in (Path(open_clip().__file__).parent / "model_configs").glob("*.json"):
        model = json.loads(path.read_text())
        vision, text = model.get("vision_cfg", {}), model.get("text_cfg", {})
        tower = "resnet" if isinstance(vision.get("layers"), list) else "vit"
        widths = (tower, vision.get("width"), text.get("width"))
        if widths in clip.PUBLISHED:
            assert vision.get("head_width", 64) == text["width"] // text["heads"] == 64, path
            found.add(widths)
    assert found == clip.PUBLISHED


def test_the_words_of_the_imported_vocabulary_are_read(run, tmp_path):
    torch.save(make_open_clip().state_dict(), "weights.pt")
    assert run("weights.pt", WITH, "activation=quick_gelu", "heads=[2,2]", "to=out")[0] == 0
    tokens = mmgen.load(tmp_path / "out").part("encoder").text_tokenizer.encode(["The cat"])
    assert tokens.tolist() == [[IDS - 2, 513, 515, IDS - 1, 0, 0, 0, 0, 0]]


def test_pixels_are_what_the_component_takes_them_for():
    assert clip_config.PIXELS == component.PIXELS
