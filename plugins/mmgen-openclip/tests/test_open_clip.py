"""open_clip's models as encoders: conforming, trained, with weights, judged, and refused with a reason."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import mmgen_openclip
import pytest
import torch
from mmgen_openclip import OpenClip, models
from safetensors.torch import save_file
from torch.nn import functional as F

import mmgen
from mmgen import cli
from mmgen.testing import check_encoder, small_batch, small_text_tokenizer

MEAN, DEVIATION = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])


def build(model, image_size=32, text_tokenizer=None, **options):
    text_tokenizer = text_tokenizer or small_text_tokenizer()
    config = {"name": "open_clip", "model": model, **options}
    return mmgen.build("encoder", config, text_tokenizer=text_tokenizer, image_size=image_size)


@pytest.fixture
def folder(tmp_path, package):
    """A hub's folder of a model with CLIP's own vocabulary and random weights, and that model."""
    vision = {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8}
    text = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text, "quick_gelu": True}
    torch.manual_seed(0)
    theirs = package.CLIP(**config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim:
                parameter += 0.1 * torch.randn(parameter.shape)
    path = tmp_path / "hub"
    path.mkdir()
    pixels = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}
    (path / models.CONFIG).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": pixels}))
    save_file({name: t.contiguous() for name, t in theirs.state_dict().items()}, path / models.WEIGHTS[0])
    return path, theirs, pixels


@pytest.mark.parametrize(("tower", "changes"), [("vit", {}), ("vit", {"custom_text": True, "init_logit_bias": -10.0})])
def test_conforms(tiny, tower, changes):
    assert len(check_encoder(build(tiny(tower, **changes)))) >= 8


def test_a_residual_network_learns_too(tiny):
    encoder = build(tiny("resnet")).train()
    loss, logs = encoder.training_loss(small_batch(32), 0)
    loss.backward()
    assert all(p.grad is not None for p in encoder.parameters() if p.requires_grad)
    assert 0 <= float(logs["batch_accuracy"]) <= 1


def test_a_logit_scale_past_a_hundred_comes_back(tiny):
    encoder = build(tiny()).train()
    with torch.no_grad():
        encoder.logit_scale.fill_(4.7)
    encoder.training_loss(small_batch(32), 0)[0].backward()
    assert float(encoder.logit_scale.detach().exp()) == pytest.approx(100)
    assert float(encoder.logit_scale.grad) > 0


@torch.no_grad()
def test_the_loss_is_the_symmetric_cross_entropy(tiny):
    encoder, batch = build(tiny()).eval(), small_batch(32)
    loss, logs = encoder.training_loss(batch, 0)
    images = encoder.encode_image(batch["image"])
    texts = encoder.encode_text(encoder.text_tokenizer.encode(batch["caption"]))
    logits, truth = encoder.logit_scale.exp() * images @ texts.T, torch.arange(len(images))
    expected = (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2
    torch.testing.assert_close(loss, expected)
    assert float(logs["logit_scale"]) == pytest.approx(1 / 0.07)


@pytest.mark.slow
def test_over_two_processes_it_is_the_loss_of_one_large_batch(tmp_path):
    command = [sys.executable, str(Path(__file__).parent / "loss_worker.py"), str(tmp_path)]
    workers = [subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, text=True) for rank in range(2)]
    said = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    whole, mean = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "mean"))
    torch.testing.assert_close(mean, whole, atol=1e-6, rtol=0)
    assert float(whole[1].abs().max()) > 1e-3


@torch.no_grad()
def test_captions_are_read_where_they_end(tiny):
    """mmgen's own text tokenizer fills with ids that rise, and open_clip reads at the highest."""
    encoder = build(tiny()).eval()
    tokenizer = encoder.text_tokenizer
    tokens = tokenizer.encode(["a red bar", "", "much longer than there is room for " * 20])
    seen = mmgen_openclip.as_open_clip_reads(tokens, tokenizer)
    assert seen.argmax(1).tolist() == tokenizer.end(tokens).tolist()
    places = torch.arange(tokens.shape[1])
    before = places < tokenizer.end(tokens)[:, None]
    assert torch.equal(seen[before], tokens[before])
    assert not seen[places > tokenizer.end(tokens)[:, None]].any()
    other = tokens.clone()
    other[0, int(tokenizer.end(tokens)[0]) + 1 :] = tokenizer.num_ids - 1  # what follows the end is not read
    torch.testing.assert_close(encoder.encode_text(other)[0], encoder.encode_text(tokens)[0])


def test_trains(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["train", "task=encoder", "encoder=open_clip", f"encoder.model={tiny()}", "dataset=digits"]
    size = ["dataset.image_size=16", "trainer.max_steps=2", "task.batch_size=16", "run.name=two"]
    assert cli.main([*words, *size]) == 0, capsys.readouterr().err
    encoder = mmgen.load(str(tmp_path / "runs/two")).part("encoder")
    assert type(encoder) is OpenClip
    assert encoder.image_size == 16
    assert encoder.model.visual.positional_embedding.shape[0] == 5
    assert not encoder.training


@torch.no_grad()
def test_with_weights_it_computes_what_open_clip_does(folder, package):
    path, theirs, pixels = folder
    encoder = mmgen.build("encoder", {"name": "open_clip", "model": str(path)}, text_tokenizer=None, image_size=224)
    assert encoder.image_size == 32
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, deviation = (torch.tensor(pixels[name])[:, None, None] for name in ("mean", "std"))
    torch.testing.assert_close(
        encoder.eval().encode_image(images), theirs.encode_image((images - mean) / deviation, normalize=True)
    )
    captions = ["a cat", "", "A photo of <|endoftext|> &amp; many more words than there is any room for at all"]
    tokens = package.SimpleTokenizer(context_length=12)(captions)
    assert torch.equal(encoder.text_tokenizer.encode(captions), tokens)
    torch.testing.assert_close(encoder.encode_text(tokens), theirs.encode_text(tokens, normalize=True))
    assert torch.equal(encoder.logit_scale, theirs.logit_scale)


@torch.no_grad()
def test_a_probe_reads_what_it_does_of_the_imported_weights(folder, tmp_path, capsys):
    path = folder[0]
    config = json.loads((path / models.CONFIG).read_text())
    config["preprocess_cfg"] = {"mean": MEAN, "std": DEVIATION}
    (path / models.CONFIG).write_text(json.dumps(config))
    vocabulary = Path(models.package().__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    words = ["import", "clip", str(path), f"to={tmp_path / 'clip'}", f"vocabulary={vocabulary}"]
    assert cli.main(words) == 0, capsys.readouterr().err
    imported = mmgen.load(str(tmp_path / "clip")).part("encoder")
    encoder = OpenClip(text_tokenizer=None, image_size=32, model=str(path)).eval()
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = encoder.encode_image(images)
    found = encoder.probe_features(images)
    assert found.shape == (3, 64)  # before the projection to 8
    torch.testing.assert_close(found, imported.probe_features(images), atol=1e-5, rtol=0)
    assert torch.equal(encoder.encode_image(images), before)  # the projection is there again


@torch.no_grad()
def test_a_tower_without_a_projection_is_probed_at_its_output(tiny):
    encoder, images = build(tiny("resnet")).eval(), torch.rand(2, 3, 32, 32)
    assert torch.equal(F.normalize(encoder.probe_features(images), dim=-1), encoder.encode_image(images))


def test_it_is_judged_without_a_training(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMGEN_CACHE", str(tmp_path / "caches"))
    monkeypatch.setattr("mmgen.commands.classes.VERY_MANY", 10)  # captions of classes that are kept for the next time
    words = ["evaluate", "encoder=open_clip", f"encoder.model={folder[0]}", "dataset=digits"]
    words.append("evaluator=[retrieval,zero_shot]")
    assert cli.main([*words, f"out={tmp_path / 'out'}"]) == 0, capsys.readouterr().err
    out, err = capsys.readouterr()
    assert "retrieval" in out
    assert "zero_shot/" in out
    assert "encoding: 30/30 captions" in err


def test_weights_of_another_picture_size_are_interpolated_and_pixels_are_said(folder, tiny, tmp_path):
    path, theirs, _ = folder
    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps(json.loads((path / models.CONFIG).read_text())["model_cfg"]))
    weights = str(path / models.WEIGHTS[0])
    source = models.find(str(bare))
    larger = models.build(source, 48, 49408, 12)
    models.load(larger, Path(weights))
    assert larger.visual.positional_embedding.shape[0] == 37
    assert torch.equal(larger.visual.positional_embedding[0], theirs.visual.positional_embedding[0])
    encoder = OpenClip(text_tokenizer=None, image_size=224, model=str(bare), pretrained=weights)
    assert (encoder._mean, encoder._deviation) == (MEAN, DEVIATION)
    chosen = OpenClip(text_tokenizer=None, image_size=224, model=str(bare), pretrained=weights, pixels="symmetric")
    assert chosen._mean == [0.5, 0.5, 0.5]


def test_models_of_open_clip_are_known_by_name(package):
    assert models.find("ViT-B-32").config == package.get_model_config("ViT-B-32")
    with pytest.raises(ValueError, match="near are ViT-B-32"):
        models.find("ViT-B32")


REFUSED = {
    "coca_ViT-B-32": "it writes captions as well",
    "roberta-ViT-B-32": "downloaded from the hub",
    "ViT-B-16-SigLIP": "it reads captions at last",
    "hf-hub:somebody/something": "neither a model of open_clip nor a folder",
    "local-dir:/tmp": "neither a model of open_clip nor a folder",
    "none.json": "cannot be read: No such file",
}


@pytest.mark.parametrize("model", REFUSED)
def test_models_that_it_cannot_be_are_refused(model, package):
    with pytest.raises(Exception, match=REFUSED[model]):
        build(model)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<html>", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[1]", "no config of open_clip"),
        ('{"vision_cfg": {}}', "no config of open_clip"),
        (" " * (1 << 21), "no config of open_clip"),
        ('{"embed_dim": 4, "vision_cfg": {"depth": 3}, "text_cfg": {}}', "cannot build this model: .*depth"),
        ('{"embed_dim": 4, "vision_cfg": {}, "text_cfg": {}, "preprocess_cfg": {"mean": 1}}', "no mean and deviation"),
    ],
)
def test_a_config_that_is_none(tmp_path, package, text, said):
    path = tmp_path / "model.json"
    path.write_text(text)
    with pytest.raises(Exception, match=said):
        build(str(path))


def test_pictures_that_the_patches_do_not_divide(tiny):
    with pytest.raises(Exception, match="image_size is 30, and the model's patches have 8"):
        build(tiny(), image_size=30)


def test_weights_that_do_not_fit_are_told(folder, tiny, tmp_path):
    path, theirs, _ = folder
    weights = path / models.WEIGHTS[0]
    with pytest.raises(Exception, match=r"49,408 ids of text at 12 places.*task\.text_tokenizer\.vocabulary=\S+\.gz"):
        build(str(path))
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "page.safetensors").write_text("<html>")
    (tmp_path / "cut.safetensors").write_bytes(weights.read_bytes()[:-100])
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    for name, said in {
        "weights.pt": "others are pickles: python -c .*mmgen import clip",
        "page.safetensors": "cannot be read",
        "cut.safetensors": "cannot be read",
        "none.safetensors": "cannot be read",
        "other.safetensors": "weights of another model",
    }.items():
        with pytest.raises(Exception, match=said):
            OpenClip(text_tokenizer=None, image_size=32, model=str(path), pretrained=str(tmp_path / name))
    weights.rename(path / "open_clip_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"open_clip_pytorch_model\.bin only, a pickle: python -c .*mmgen import clip"):
        models.find(str(path))
    with pytest.raises(ValueError, match="without a training it needs weights"):
        OpenClip(text_tokenizer=None, image_size=32, model=tiny())


@pytest.mark.parametrize("trained", [False, True])
def test_a_pickle_of_what_clip_cannot_be_is_turned_by_the_line_that_is_told(folder, trained):
    path, theirs, _ = folder
    config = json.loads((path / models.CONFIG).read_text())
    config["model_cfg"]["vision_cfg"]["pool_type"] = "avg"  # `mmgen import clip` refuses that
    (path / models.CONFIG).write_text(json.dumps(config))
    weights = path / models.WEIGHTS[0]
    weights.unlink()
    state = theirs.state_dict()
    if trained:
        state = {"epoch": 1, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}
    torch.save(state, path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin only, a pickle") as caught:
        models.find(str(path))
    assert "timm or with another pooling" in str(caught.value)
    _, command, code, *files = shlex.split(str(caught.value).split("a pickle: ")[1])[:5]
    assert (command, files) == ("-c", [str(path / "pytorch_model.bin"), str(weights)])
    subprocess.run([sys.executable, command, code, *files], check=True)
    source = models.find(str(path))
    assert source.weights == weights
    model = models.build(source, 32, 49408, 12)
    models.load(model, source.weights)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in theirs.state_dict().items())


def test_of_a_model_that_it_cannot_be_no_advice_is_given_on_its_weights(folder):
    path, _, _ = folder
    config = json.loads((path / models.CONFIG).read_text())
    config["model_cfg"]["text_cfg"]["pool_type"] = "avg"
    (path / models.CONFIG).write_text(json.dumps(config))
    (path / models.WEIGHTS[0]).rename(path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="it reads captions at avg, and here where they end"):
        models.find(str(path))


def test_what_is_missing_is_named(tiny, monkeypatch):
    model = tiny()
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(Exception, match=r"pip install 'mmgen-openclip\[open_clip\]', with a torchvision"):
        build(model)
    assert cli.main(["plugins", "info", "open_clip"]) == 0  # its options need no open_clip
