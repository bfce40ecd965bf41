"""`mmgen import clip` on what is no CLIP: told what is wrong, with an exit code, nothing run and nothing written."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mmgen import cli
from tests.interop import clip_files, hostile
from tests.interop.clip_files import make_hugging_face, make_open_clip

Refused = Callable[..., str]
PAGE = b"<!DOCTYPE html><html><head><title>404</title></head><body>Not found</body></html>" * 20
NAMES = ["weights.pt", "weights.bin", "weights.safetensors", "epoch_1.ckpt"]


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs it, holds that it fails as an error of ours and that nothing new lies there, and gives what was said."""
    monkeypatch.chdir(tmp_path)
    clip_files.save_vocabulary(tmp_path)

    def refused(*arguments: str, code: int = 5) -> str:
        before = {str(path) for path in tmp_path.rglob("*")}
        capsys.readouterr()
        assert cli.main(["import", "clip", *arguments, "to=out"]) == code, capsys.readouterr().err
        err = capsys.readouterr().err
        assert err.startswith("error[MMG-")
        assert "MMG-E00" not in err
        assert "  fix: " in err
        assert {str(path) for path in tmp_path.rglob("*")} == before
        return err

    return refused


GIVEN = ("vocabulary=vocabulary.txt.gz", "activation=gelu", "heads=[2,2]")


@pytest.mark.parametrize("data", [PAGE, b"", b"PK\x03\x04", b"\x80", b"{}", bytes(4096)])
@pytest.mark.parametrize("name", NAMES)
def test_a_page_or_nothing_in_place_of_weights(refused, name, data):
    Path(name).write_bytes(data)
    assert name in refused(name, *GIVEN)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model in three forms."""
    place, model = tmp_path_factory.mktemp("good"), make_open_clip()
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    torch.save(state, place / "weights.pt")
    save_file(state, place / "weights.safetensors")
    clip_files.save_archive(model, place / "archive.pt")
    return place


@pytest.mark.parametrize("share", [0.001, 0.2, 0.5, 0.999])
@pytest.mark.parametrize("form", ["archive.pt", "weights.pt", "weights.safetensors"])
def test_a_file_cut_anywhere(refused, good, form, share):
    data = (good / form).read_bytes()
    Path(form).write_bytes(data[: int(len(data) * share)])
    assert form in refused(form, *GIVEN)


def test_bytes_of_a_tensor_that_were_changed_are_found_by_the_archive_s_checksum(refused):
    torch.save(make_open_clip().state_dict(), "weights.pt")
    with zipfile.ZipFile("weights.pt") as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    data = bytearray(Path("weights.pt").read_bytes())
    data[largest.header_offset + largest.file_size // 2 + 128] ^= 255
    Path("weights.pt").write_bytes(data)
    refused("weights.pt", *GIVEN)


@pytest.mark.parametrize("what", hostile.calls())
def test_a_pickle_that_asks_to_run_code(refused, what):
    Path("weights.pt").write_bytes(hostile.archive(hostile.calls()[what]))
    assert "weights.pt" in refused("weights.pt", *GIVEN)
    assert not Path("/tmp/mmgen-was-here").exists()  # test_archives.py listens to what else might be done


def test_an_archive_of_torchscript_whose_pickle_asks_to_run_code(refused, good):
    with zipfile.ZipFile(good / "archive.pt") as there, zipfile.ZipFile("evil.pt", "w") as evil:
        for member in there.infolist():
            content = there.read(member)
            if member.filename.endswith("/data.pkl"):
                content = hostile.calls()["os.system"]
            evil.writestr(member.filename, content)
    assert "asks to call" in refused("evil.pt", *GIVEN)


@pytest.mark.parametrize("torchscript", [False, True])
def test_weights_of_another_architecture(refused, torchscript):
    other = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten())
    if torchscript:
        with warnings.catch_warnings():  # that tracing is old
            warnings.simplefilter("ignore")
            torch.jit.trace(other.eval(), torch.rand(1, 3, 8, 8), check_trace=False).save("other.pt")
    else:
        torch.save(other.state_dict(), "other.pt")
    assert "error[MMG-K02]" in refused("other.pt", *GIVEN)


def _without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda state: state.pop(name)


def _as(name: str, tensor: torch.Tensor) -> Callable[[dict[str, Any]], Any]:
    return lambda state: state.update({name: tensor})


SPOILT = {
    "a block's tensor is missing": _without("transformer.resblocks.1.mlp.c_fc.weight"),
    "a whole side is missing": lambda state: [state.pop(name) for name in [*state] if name.startswith("visual.")],
    "no embedding": _without("token_embedding.weight"),
    "a tensor of another shape": _as("visual.conv1.weight", torch.zeros(128, 3, 8, 4)),
    "one of no shape": _as("visual.conv1.weight", torch.tensor(1.0)),
    "places that are no square": _as("visual.positional_embedding", torch.zeros(16, 128)),
    "patches of no size": _as("visual.conv1.weight", torch.zeros(768, 3, 0, 0)),
    "no width": _as("visual.conv1.weight", torch.zeros(0, 3, 8, 8)),
    "no places": _as("positional_embedding", torch.zeros(0, 128)),
    "not a number": _as("ln_final.bias", torch.full((128,), torch.nan)),
    "infinite": _as("ln_final.bias", torch.full((128,), torch.inf)),
    "a tensor more": _as("visual.adapter.weight", torch.zeros(2)),
    "a block that skips a number": _as("transformer.resblocks.7.ln_1.weight", torch.zeros(128)),
}


@pytest.mark.parametrize("what", SPOILT)
def test_weights_that_are_nearly_those_of_a_clip(refused, what):
    state = dict(make_open_clip().state_dict())
    SPOILT[what](state)
    torch.save(state, "weights.pt")
    assert "error[MMG-K02]" in refused("weights.pt", *GIVEN)


def test_no_activation_one_that_there_is_not_and_one_that_the_files_contradict(refused):
    model = make_open_clip("vit", "quick_gelu")
    torch.save(model.state_dict(), "weights.pt")
    assert "does not tell its activation" in refused("weights.pt", GIVEN[0], code=2)
    assert "no activation" in refused("weights.pt", GIVEN[0], "activation=swish", code=2)
    clip_files.save_hub_folder(model, Path("hub"), clip_files.open_clip_config("vit", "quick_gelu"))
    assert "is of a model with quick_gelu" in refused("hub", "activation=gelu", code=2)
    clip_files.save_archive(model, Path("archive.pt"))
    assert "is of a model with quick_gelu" in refused("archive.pt", *GIVEN, code=2)
    make_hugging_face("gelu").save_pretrained("folder")
    clip_files.save_vocabulary(Path("folder"), "merges.txt")
    assert "is of a model with gelu" in refused("folder", "activation=quick_gelu", code=2)


def test_no_heads_some_that_do_not_fit_and_some_that_the_files_contradict(refused):
    model = make_open_clip("vit", "gelu")
    torch.save(model.state_dict(), "weights.pt")
    err = refused("weights.pt", *GIVEN[:2], code=2)
    assert "does not tell its attention heads" in err
    assert "heads=[2,2], of pictures and of text" in err
    for heads in ("[2]", "[2,3]", "[0,2]", "[-2,2]", "[2,2,2]"):
        assert "are none of these weights" in refused("weights.pt", *GIVEN[:2], f"heads={heads}", code=2)
    assert "no pixels 'other'" in refused("weights.pt", *GIVEN, "pixels=other", code=2)
    clip_files.save_hub_folder(model, Path("hub"), clip_files.open_clip_config("vit", "gelu"))
    assert "is of a model with [2, 2]" in refused("hub", "heads=[4,2]", code=2)
    assert "is of a model with openai" in refused("hub", "pixels=symmetric", code=2)


@pytest.mark.parametrize(
    ("side", "key", "value"),
    [
        ("vision_cfg", "width", 256),
        ("vision_cfg", "width", None),  # None: left out, and open_clip's default is another
        ("vision_cfg", "layers", 3),
        ("vision_cfg", "layers", [1, 2, 1, 1]),
        ("vision_cfg", "patch_size", 16),
        ("vision_cfg", "image_size", 64),
        ("vision_cfg", "image_size", [32, 64]),
        ("text_cfg", "width", 256),
        ("text_cfg", "layers", 12),
        ("text_cfg", "vocab_size", 49408),
        ("text_cfg", "context_length", 77),
        (None, "embed_dim", 512),
    ],
)
def test_a_config_of_other_weights(refused, side, key, value):
    config = clip_files.open_clip_config("vit", "quick_gelu")
    options = {**(config["model_cfg"][side] if side else config["model_cfg"]), key: value}
    if value is None:
        del options[key]
    config["model_cfg"] = {**config["model_cfg"], side: options} if side else options
    clip_files.save_hub_folder(make_open_clip(), Path("hub"), config)
    err = refused("hub")
    assert "error[MMG-K02]" in err
    assert "is the config of other weights" in err
    assert key in err


@pytest.mark.parametrize(
    ("side", "key", "value"),
    [
        ("vision_config", "hidden_size", 256),
        ("vision_config", "num_hidden_layers", 3),
        ("vision_config", "patch_size", 16),
        ("vision_config", "image_size", 64),
        ("vision_config", "intermediate_size", 256),
        ("text_config", "hidden_size", 256),
        ("text_config", "max_position_embeddings", 77),
        (None, "projection_dim", 512),
    ],
)
def test_a_config_of_other_weights_of_hugging_face(refused, side, key, value):
    make_hugging_face("gelu").save_pretrained("folder")
    clip_files.save_vocabulary(Path("folder"), "merges.txt")
    path = Path("folder/config.json")
    config = json.loads(path.read_text())
    (config[side] if side else config)[key] = value
    path.write_text(json.dumps(config))
    err = refused("folder")
    assert "is the config of other weights" in err
    assert key in err


@pytest.mark.parametrize("shape", [(768, 3, 0, 0), (0, 3, 8, 8)])
def test_a_side_of_nothing(refused, shape):
    save_file({**make_open_clip().state_dict(), "visual.conv1.weight": torch.zeros(shape)}, "weights.safetensors")
    err = refused("weights.safetensors", *GIVEN)
    assert "error[MMG-K02]" in err
    assert "image.patch_embedding.weight would be empty" in err


def test_folders_without_what_they_should_hold(refused):
    Path("empty").mkdir()
    assert "holds no weights of CLIP" in refused("empty")
    Path("empty/config.json").write_text("{}")
    Path("empty/flax_model.msgpack").write_bytes(b"x")
    assert "holds no weights of CLIP" in refused("empty")
    assert "error[MMG-K05]" in refused("nowhere.pt", *GIVEN)
    clip_files.save_hub_folder(make_open_clip(), Path("hub"), clip_files.open_clip_config("vit", "quick_gelu"))
    Path("hub/merges.txt").unlink()
    assert "need the vocabulary" in refused("hub", code=2)


@pytest.mark.parametrize("text", ["", "<html>", "[]", "[" * 100_000, '{"model_cfg": 3}', '{"model_cfg": {}}', "\xff"])
def test_a_config_that_is_none(refused, text):
    clip_files.save_hub_folder(make_open_clip(), Path("hub"), clip_files.open_clip_config("vit", "quick_gelu"))
    Path("hub/open_clip_config.json").write_text(text, encoding="latin-1")
    assert "open_clip_config.json" in refused("hub")


@pytest.mark.parametrize(
    ("side", "key", "value"),
    [
        ("vision_cfg", "pool_type", "avg"),
        ("vision_cfg", "timm_model_name", "vit_base"),
        ("vision_cfg", "head_width", 0),
        ("vision_cfg", "mlp_ratio", 4.9231),
        ("text_cfg", "hf_model_name", "roberta-base"),
        ("text_cfg", "heads", "many"),
        ("text_cfg", "no_causal_mask", True),
    ],
)
def test_a_config_of_a_model_that_ours_cannot_be(refused, side, key, value):
    config = clip_files.open_clip_config("vit", "quick_gelu")
    config["model_cfg"][side] = {**config["model_cfg"][side], key: value}
    clip_files.save_hub_folder(make_open_clip(), Path("hub"), config)
    err = refused("hub")
    assert "error[MMG-K02]" in err
    assert key in err


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("resize_mode", "squash"),
        ("resize_mode", "longest"),
        ("resize_mode", 3),
        ("interpolation", "bilinear"),
        ("interpolation", ["bicubic"]),
    ],
)
def test_pictures_that_open_clip_resizes_otherwise(refused, key, value):
    config = clip_files.open_clip_config("vit", "quick_gelu")
    config["preprocess_cfg"][key] = value
    clip_files.save_hub_folder(make_open_clip(), Path("hub"), config)
    err = refused("hub")
    assert "error[MMG-K02]" in err
    assert f"preprocess_cfg.{key} is {value!r}" in err


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("do_center_crop", False),
        ("do_resize", False),
        ("do_rescale", False),
        ("resample", 2),
        ("resample", "bilinear"),
        ("size", {"height": 16, "width": 16}),
    ],
)
def test_pictures_that_hugging_face_resizes_otherwise(refused, key, value):
    make_hugging_face().save_pretrained("folder")
    clip_files.save_vocabulary(Path("folder"), "merges.txt")
    Path("folder/preprocessor_config.json").write_text(json.dumps({key: value}))
    err = refused("folder")
    assert "error[MMG-K02]" in err
    assert key in err


@pytest.mark.parametrize("crop", [16, {"height": 16, "width": 16}, {"height": [], "width": {}}])
def test_pictures_whose_border_hugging_face_cuts_off(refused, crop):
    make_hugging_face().save_pretrained("folder")
    clip_files.save_vocabulary(Path("folder"), "merges.txt")
    Path("folder/preprocessor_config.json").write_text(json.dumps({"size": {"shortest_edge": 20}, "crop_size": crop}))
    err = refused("folder")
    assert "error[MMG-K02]" in err
    assert "a border is cut off" in err


@pytest.mark.parametrize("data", [PAGE, b"", b"\x1f\x8b\x08", b"#version: 0.2\nt h e\n", b"#version: 0.2\nx\xff y\n"])
def test_a_vocabulary_that_is_none(refused, data):
    torch.save(make_open_clip().state_dict(), "weights.pt")
    Path("other.txt").write_bytes(data)
    assert "no vocabulary of CLIP" in refused("weights.pt", "vocabulary=other.txt", *GIVEN[1:], code=2)


def test_a_vocabulary_of_other_weights(refused):
    torch.save(make_open_clip().state_dict(), "weights.pt")
    Path("other.txt").write_text("#version: 0.2\nt h\n")
    err = refused("weights.pt", "vocabulary=other.txt", *GIVEN[1:])
    assert "is the vocabulary of other weights" in err
    text = json.dumps({"format": 1, "kind": "clip-bpe", "context_length": 4, "merges": [["t", "h"]]})
    Path("text_tokenizer.json").write_text(text)
    assert "other weights" in refused("weights.pt", "text_tokenizer.json", *GIVEN[1:])
    Path("text_tokenizer.json").write_text(text[:-9])
    refused("weights.pt", "text_tokenizer.json", *GIVEN[1:])


@pytest.mark.parametrize("form", ["open_clip", "hugging face"])
@pytest.mark.parametrize("name", ["vocab.json", "tokenizer.json"])
def test_ids_of_text_beside_merges_that_make_others(refused, form, name):
    if form == "open_clip":
        clip_files.save_hub_folder(make_open_clip(), Path("hub"), clip_files.open_clip_config("vit", "quick_gelu"))
    else:
        make_hugging_face().save_pretrained("hub")
        clip_files.save_vocabulary(Path("hub"), "merges.txt")
    clip_files.save_ids(Path("hub"), name, permuted=True)
    for arguments in (["hub"], ["hub", "vocabulary=vocabulary.txt.gz"]):
        err = refused(*arguments)
        assert "error[MMG-K02]" in err
        assert f"hub/{name} does not number pieces of text as" in err
        assert "'th' has the id 514, and by the merges 512" in err
        assert "vocabulary" in err
    weights = next(Path("hub").glob("*.safetensors"))
    config = next(Path("hub").glob("*config.json"))
    err = refused(str(weights), str(config), "hub/merges.txt", f"hub/{name}")  # named one by one
    assert "'th' has the id 514" in err


def test_ids_of_text_in_two_files_that_differ(refused):
    clip_files.save_hub_folder(make_open_clip(), Path("hub"), clip_files.open_clip_config("vit", "quick_gelu"))
    clip_files.save_ids(Path("hub"), "tokenizer.json")
    clip_files.save_ids(Path("hub"), "vocab.json", permuted=True)
    Path("hub/merges.txt").unlink()
    assert "hub/vocab.json does not number pieces of text as hub/tokenizer.json does" in refused("hub")


@pytest.mark.parametrize("text", ["", "<html>", "[]", "{", '{"a":' * 5_000, '{"model": {"vocab": []}}', "\xff"])
def test_ids_of_text_that_are_none(refused, text):
    clip_files.save_hub_folder(make_open_clip(), Path("hub"), clip_files.open_clip_config("vit", "quick_gelu"))
    for name in ("vocab.json", "tokenizer.json"):
        Path("hub", name).write_text(text, encoding="latin-1")
        assert name in refused("hub")
        Path("hub", name).unlink()


@pytest.mark.parametrize(
    ("activation", "layers", "said"),
    [("gelu", 2, "is of a model with gelu"), ("quick_gelu", 12, "is the config of other weights")],
)
def test_a_config_beside_an_archive_of_openai_is_held_against_it(refused, activation, layers, said):
    clip_files.save_archive(clip_files.halved(make_open_clip("vit")), Path("archive.pt"))
    config = clip_files.open_clip_config("vit", activation)
    config["model_cfg"]["text_cfg"] = {**config["model_cfg"]["text_cfg"], "layers": layers}
    Path("other.json").write_text(json.dumps(config))
    code = 2 if activation == "gelu" else 5
    assert said in refused("archive.pt", "other.json", code=code)
