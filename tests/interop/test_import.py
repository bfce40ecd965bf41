"""`mmgen import`: what it writes computes what the original does; what does not fit is refused, with nothing left."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mmgen
from mmgen import cli
from mmgen.checkpoint.exports import read_export
from mmgen.checkpoint.files import verify_directory
from mmgen.interop import importing, openai_dvae
from mmgen.loading import read_parts
from tests import tiny
from tests.interop import hostile
from tests.interop.references import Dvae, Vqgan

MODELS: dict[str, tuple[str, Callable[[], Any]]] = {
    "dvae": ("openai_dvae", Dvae),
    "dvae of two blocks": ("openai_dvae", lambda: Dvae(width=8, codes=30, first=20, blocks=2)),
    "vqgan": ("taming_vqgan", Vqgan),
    "vqgan with attention above the grid": (
        "taming_vqgan",
        lambda: Vqgan(attention=(16, 8), num_res_blocks=2, ch_mult=[1, 1, 2]),
    ),
    "vqgan without attention": ("taming_vqgan", lambda: Vqgan(attention=(), ch_mult=[1, 2])),
    "vqgan by Gumbel-softmax": ("taming_vqgan", lambda: Vqgan(gumbel=True)),
}
Import = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Import:
    """`mmgen import …` in this process, in an empty directory: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(["import", *arguments])
        return code, *capsys.readouterr()

    return run


def assert_same(reference: Any, directory: Path, size: int, dtype: torch.dtype = torch.float32) -> None:
    images = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(7)).to(dtype)
    tokenizer = mmgen.load(directory).part("tokenizer").to(dtype)
    with torch.no_grad():
        indices = tokenizer.encode(images)
        assert torch.equal(indices, reference.encode(images))
        assert indices.unique().numel() > 5
        drawn, wanted = tokenizer.decode(indices), reference.decode(indices)
    assert float((drawn - wanted).abs().max()) <= 1e-5
    assert float(wanted.std()) > 0.01


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "zip") for name in MODELS), ("dvae", "legacy"), ("vqgan", "legacy")]
)
def test_an_import_computes_what_the_original_does(run, tmp_path, name, kind):
    format, make = MODELS[name]
    reference = make()
    files = reference.save(tmp_path, zipped=kind == "zip")
    code, out, err = run(format, *files, "to=out", *(["image_size=32"] if format == "openai_dvae" else []))
    assert code == 0, err
    assert "tokenizer_from" not in err
    assert "codes that differ:  " in out
    assert_same(reference, tmp_path / "out", 32)


def test_the_report_says_what_became_of_every_tensor(run, tmp_path):
    reference = Vqgan()
    files = reference.save(tmp_path)
    code, out, err = run("taming_vqgan", *files, "to=out")
    assert code == 0, err
    content = (tmp_path / "last.ckpt").read_bytes()
    parity = json.loads((tmp_path / "out/parity.json").read_text())
    digest = hashlib.sha256(content).hexdigest()
    assert parity["sources"] == [{"name": "last.ckpt", "size": len(content), "sha256": digest}]
    assert digest in out
    theirs = reference.state_dict()
    taken = {row["source"]: row for row in parity["tensors"]}
    (reason,) = parity["left"]
    assert sorted([*taken, *parity["left"][reason]]) == sorted(theirs)
    assert all(name.startswith("loss.") for name in parity["left"][reason])
    assert all(row["shape"] == list(theirs[name].shape) for name, row in taken.items())
    part = read_export(tmp_path / "out").parts["tokenizer"]
    assert {row["name"] for row in parity["tensors"]} == part.tensors.keys()
    assert all(torch.equal(part.tensors[row["name"]], theirs[name]) for name, row in taken.items())
    assert part.info == {"imported": "taming_vqgan", "sha256": [digest]}
    assert parity["comparison"]["reference"] == "taming-transformers-rom1504 0.0.6"
    measures = {row["name"]: row["value"] for row in parity["comparison"]["measures"]}
    assert len(measures) == 3
    assert max(measures.values()) <= 1e-9
    assert "parity.json" in verify_directory(tmp_path / "out")  # what it says is proven whole, too


def test_the_order_of_files_does_not_matter(run, tmp_path):
    reference = Dvae()
    encoder, decoder = reference.save(tmp_path)
    assert run("openai_dvae", decoder, encoder, "to=out", "image_size=32")[0] == 0
    assert_same(reference, tmp_path / "out", 32)


def test_the_pictures_size_is_asked_for_told_or_known(run, tmp_path):
    files = Vqgan().save(tmp_path)
    for more, size in (([], 32), (["image_size=48"], 48)):
        assert run("taming_vqgan", *files, *more, f"to=out{size}")[0] == 0
        part = read_export(tmp_path / f"out{size}").parts["tokenizer"]
        assert part.arguments == {"image_size": size}
        assert part.config["attention_sizes"] == [size // 4]
    assert run("taming_vqgan", files[0], "to=without")[0] == 0
    assert read_export(tmp_path / "without").parts["tokenizer"].arguments == {"image_size": 256}


def test_half_precision_is_read_as_what_it_says(run, tmp_path):
    reference = Vqgan()
    reference.save(tmp_path)
    for tensor in reference.state_dict().values():
        tensor.copy_(tensor.half())
    torch.save({"state_dict": {n: t.half() for n, t in reference.state_dict().items()}}, tmp_path / "half.ckpt")
    assert run("taming_vqgan", "half.ckpt", "model.yaml", "to=out")[0] == 0
    assert_same(reference, tmp_path / "out", 32)
    rows = json.loads((tmp_path / "out/parity.json").read_text())["tensors"]
    assert {row["dtype"] for row in rows} == {"float16"}


def test_without_the_originals_package_nothing_is_compared_and_the_report_says_so(run, tmp_path, monkeypatch):
    files = Dvae().save(tmp_path)
    monkeypatch.setitem(sys.modules, "dall_e.encoder", None)
    code, out, err = run("openai_dvae", *files, "to=out", "image_size=32")
    assert code == 0, err
    assert "with nothing: DALL-E is not installed" in out
    assert json.loads((tmp_path / "out/parity.json").read_text())["comparison"] is None


def test_what_computes_something_else_is_not_written(run, tmp_path, monkeypatch):
    files = Dvae().save(tmp_path)
    plan = openai_dvae.plan

    def wrong(*arguments: Any) -> Any:
        made = plan(*arguments)
        made.config["residual_scale"] = 0.5
        return made

    monkeypatch.setattr(openai_dvae, "plan", wrong)
    code, _, err = run("openai_dvae", *files, "to=out", "image_size=32")
    assert code == 5
    assert "MMG-K30" in err
    assert "logits" in err
    assert not (tmp_path / "out").exists()


def change(file: str, edit: Callable[[dict[str, Any]], None]) -> None:
    value = torch.load(file, weights_only=False)
    edit(value["state_dict"])
    torch.save(value, file)


def rewrite(name: str, edit: Callable[[str], str]) -> None:
    path = Path(name)
    path.write_text(edit(path.read_text()))


# What is done to good files, the arguments, the exit code, words of the answer.
VQ = ["taming_vqgan", "last.ckpt", "model.yaml", "to=out"]
DV = ["openai_dvae", "encoder.pkl", "decoder.pkl", "to=out", "image_size=32"]
BAD: dict[str, tuple[Callable[[], Any], list[str], int, list[str]]] = {
    "html": (lambda: Path("last.ckpt").write_text("<html>gone</html>"), VQ, 5, ["MMG-K05", "last.ckpt", "web page"]),
    "cut": (lambda: Path("encoder.pkl").write_bytes(Path("encoder.pkl").read_bytes()[:9999]), DV, 5, ["MMG-K01"]),
    "code": (
        lambda: Path("last.ckpt").write_bytes(hostile.archive(hostile.calls()["os.system"])),
        VQ,
        5,
        ["MMG-X01", "posix.system", "nothing was called"],
    ),
    "gone": (lambda: Path("decoder.pkl").unlink(), DV, 5, ["MMG-K05", "decoder.pkl", "No such file"]),
    "another format": (
        lambda: None,
        ["openai_dvae", "last.ckpt", "last.ckpt", "to=out"],
        5,
        ["MMG-K02", "conv_in.weight"],
    ),
    "the other way round": (lambda: None, ["taming_vqgan", "encoder.pkl", "to=out"], 5, ["MMG-K02", "blocks.input.w"]),
    "twice the encoder": (lambda: shutil.copy("encoder.pkl", "decoder.pkl"), DV, 5, ["both files are of the encoder"]),
    "of another size": (
        lambda: Dvae(width=8).save(Path("small")),
        [*DV[:2], "small/decoder.pkl", *DV[3:]],
        5,
        ["shapes"],
    ),
    "missing": (
        lambda: change("last.ckpt", lambda s: s.pop("decoder.mid.attn_1.q.weight")),
        VQ,
        5,
        ["lack tensors", "decoder.mid.attn_1.q.weight"],
    ),
    "unused": (
        lambda: change("last.ckpt", lambda s: s.update(colorize=torch.zeros(2))),
        VQ,
        5,
        ["nothing takes", "colorize", "allow_unused=true"],
    ),
    "no numbers": (
        lambda: change("last.ckpt", lambda s: s["quant_conv.bias"].fill_(float("nan"))),
        VQ,
        5,
        ["no numbers", "quant_conv.bias"],
    ),
    "another shape": (
        lambda: change("last.ckpt", lambda s: s.update({"encoder.norm_out.bias": torch.zeros(7)})),
        VQ,
        5,
        ["encoder.norm_out.bias is [7]"],
    ),
    "no channels": (
        lambda: change("last.ckpt", lambda s: s.update({"encoder.conv_in.weight": torch.zeros(32, 182, 3, 3)})),
        VQ,
        5,
        ["182 channels"],
    ),
    "levels without end": (
        lambda: change("last.ckpt", lambda s: s.update({"encoder.down.99.block.0.x": torch.zeros(1)})),
        VQ,
        5,
        ["at 100 sizes"],
    ),
    "another's yaml": (lambda: rewrite("model.yaml", lambda t: t.replace("ch: 32", "ch: 128")), VQ, 5, ["ch is 128"]),
    "other attention": (
        lambda: rewrite("model.yaml", lambda t: t.replace("- 8", "- 16")),
        VQ,
        5,
        ["attn_resolutions is [16]", "[8] in the weights"],
    ),
    "no yaml": (lambda: rewrite("model.yaml", lambda t: "hello"), VQ, 5, ["MMG-K05", "no YAML of a VQGAN"]),
    "a yaml that calls": (
        lambda: rewrite("model.yaml", lambda t: "model: !!python/object/apply:os.system ['true']"),
        VQ,
        5,
        ["no YAML of a VQGAN"],
    ),
    "a yaml that laughs": (
        lambda: rewrite("model.yaml", lambda t: "a: &a [1]\nb: [" + "*a," * 100 + "]\n" + t),
        VQ,
        5,
        ["no YAML of a VQGAN"],
    ),
    "a yaml that is deep": (lambda: rewrite("model.yaml", lambda t: "[" * 90_000), VQ, 5, ["no YAML of a VQGAN"]),
    "a size that does not fit": (lambda: None, [*DV[:4], "image_size=30"], 2, ["image_size=30"]),
    "a size that does not fit either": (lambda: None, [*VQ, "image_size=30"], 2, ["image_size=30"]),
    "a directory in use": (
        lambda: Path("out").mkdir() or Path("out/mine").touch(),
        VQ,
        5,
        ["MMG-K07", "not overwritten"],
    ),
    "one file": (lambda: None, ["openai_dvae", "encoder.pkl", "to=out"], 2, ["two files", "decoder.pkl to=DIR"]),
    "three files": (lambda: None, ["taming_vqgan", "last.ckpt", "encoder.pkl", "to=out"], 2, ["one checkpoint"]),
    "no files": (lambda: None, ["taming_vqgan", "to=out"], 2, ["no files", "mmgen import taming_vqgan last.ckpt"]),
    "no directory": (lambda: None, VQ[:-1], 2, ["no directory to write to", "to=imported/taming_vqgan"]),
    "no format": (lambda: None, ["to=out"], 2, ["nothing to import", "openai_dvae, taming_vqgan"]),
    "an unknown format": (
        lambda: None,
        ["taming_vqgam", "x", "to=out"],
        2,
        ["'taming_vqgam'", "mmgen import taming_vqgan"],
    ),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("good")
    Dvae().save(directory)
    Vqgan().save(directory)
    (directory / "small").mkdir()
    return directory


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_told_and_nothing_is_written(run, good, tmp_path, name):
    edit, arguments, code, words = BAD[name]
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    edit()
    before = tiny.files(tmp_path)
    answer = run(*arguments)
    assert answer[0] == code, answer[2]
    assert answer[2].startswith("error[MMG-")
    assert 2 <= len(answer[2].splitlines()) <= 6
    assert "fix: " in answer[2]
    assert [word for word in words if word not in answer[2]] == [], answer[2]
    assert tiny.files(tmp_path) == before


def test_unused_tensors_may_be_left_out_and_are_told(run, good, tmp_path):
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    change("last.ckpt", lambda state: state.update(colorize=torch.zeros(2)))
    code, out, err = run(*VQ, "allow_unused=true")
    assert code == 0, err
    assert "colorize" in out
    assert json.loads(Path("out/parity.json").read_text())["unused"] == ["colorize"]
    assert_same(Vqgan(), tmp_path / "out", 32)


def test_the_real_command_writes_what_other_commands_open(tmp_path):
    """In a process of its own, which has nothing loaded but what the command loads."""
    reference = Dvae(width=8)
    done = tiny.mmgen("import", "openai_dvae", *reference.save(tmp_path), "image_size=16", "to=dalle", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "codes that differ:" in done.stdout
    assert_same(reference, tmp_path / "dalle", 16)
    assert read_parts(tmp_path / "dalle").keys() == {"tokenizer"}  # what tokenizer_from=dalle reads


@pytest.mark.slow
def test_a_generator_is_trained_on_an_imported_tokenizer(run, tmp_path):
    tiny.write_pictures(tmp_path / "pictures", 12)
    assert run("openai_dvae", *Dvae(width=8).save(tmp_path), "image_size=16", "to=dalle")[0] == 0
    options = ["dataset=folder", "dataset.path=pictures", "dataset.image_size=16", "run.name=made", tiny.QUIET]
    sizes = ["generator.embed_dim=16", "generator.num_layers=1", "generator.num_heads=2", "task.batch_size=4"]
    steps = ["trainer.max_steps=1", "task.text_tokenizer={vocab_size: 280, context_length: 12}"]
    assert cli.main(["train", "task=generator", *options, *sizes, *steps, "tokenizer_from=dalle"]) == 0
    required = json.loads((tmp_path / "runs/made/model/config.json").read_text())["requires"]
    assert required == {"tokenizer": read_export(tmp_path / "dalle").parts["tokenizer"].fingerprint}


def test_every_format_says_how_its_files_are_named():
    for name in importing.FORMATS:
        found = importing.find_format(name)
        assert found.FILES
        assert found.REFERENCE
        assert callable(found.plan)
        assert callable(found.compare)


@pytest.mark.slow
def test_openais_own_size(run, tmp_path):
    """As published: 53,786,240 and 43,829,766 parameters in 74 and 76 tensors."""
    reference = Dvae(width=256, codes=8192, first=128, blocks=2)
    code, out, err = run("openai_dvae", *reference.save(tmp_path), "to=out")
    assert code == 0, err
    assert "150, names and shapes; none is missing (97,616,006 numbers)" in out
    part = read_export(tmp_path / "out").parts["tokenizer"]
    assert part.arguments == {"image_size": 256}
    assert_same(reference, tmp_path / "out", 64)


@pytest.mark.slow
def test_vqgans_own_size(run, tmp_path):
    """f16 with 1,024 codes of 256, as published for ImageNet."""
    reference = Vqgan(
        attention=(16,), resolution=256, z_channels=256, ch=128, ch_mult=[1, 1, 2, 2, 4], num_res_blocks=2
    )
    code, _, err = run("taming_vqgan", *reference.save(tmp_path), "to=out")
    assert code == 0, err
    assert read_export(tmp_path / "out").parts["tokenizer"].config["attention_sizes"] == [16]
    assert_same(reference.double(), tmp_path / "out", 64, torch.float64)  # in single precision they round 1.1e-5 apart
