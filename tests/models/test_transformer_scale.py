"""The generator in training and at size: precision, checkpointing, language alone, captions, twelve billion weights."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from mmgen import registry
from mmgen.commands import composition, places
from mmgen.errors import ConfigError
from mmgen.models.transformer import Transformer
from tests.models.generators import LLAMA, SPARSE, TALL, batch_of
from tests.models.words import Words

CODES, IMAGE, TEXT = TALL.codes, TALL.image, TALL.text
make, tokens = TALL.make, TALL.tokens
CAPTIONS = ["3 1", "5 9 2 6"]


# --- gradient checkpointing ------------------------------------------------------------------------------------------


def losses_and_gradients(model: Transformer) -> tuple[torch.Tensor, list[torch.Tensor], int]:
    """A training step: the loss, all gradients, and how many numbers were kept for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(5)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, _ = model.training_loss(batch_of(CAPTIONS, tokens(2)[1]), 0)
    loss.backward()
    return loss, [p.grad for p in model.parameters()], sum(size for at, size in kept.items() if at not in weights)


@pytest.mark.parametrize("options", [SPARSE, {**SPARSE, **LLAMA, "executor": "blocked"}, {"dropout": 0.3}])
def test_checkpointing_changes_memory_and_nothing_else(options):
    plain, again = (losses_and_gradients(make(**options, gradient_checkpointing=on).train()) for on in (False, True))
    assert torch.equal(plain[0], again[0])
    assert all(map(torch.equal, plain[1], again[1]))
    assert again[2] < 0.4 * plain[2]


# --- precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, SPARSE, {**SPARSE, **LLAMA, "executor": "blocked"}])
def test_under_bf16_embeddings_the_stream_and_logits_stay_fp32(options):
    model = make(**options)
    text, image = tokens()
    seen: dict[str, torch.dtype] = {}
    for name in ("text_embedding", "image_embedding", "blocks.1", "norm", "blocks.1.qkv", "blocks.1.down"):
        hook = lambda module, given, out, name=name: seen.update({name: out.dtype})  # noqa: E731
        model.get_submodule(name).register_forward_hook(hook)
    with torch.no_grad():
        exact = model(text, image)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(text, image)
        loss, _ = model.training_loss(batch_of(["1"] * 3, image), 0)
    assert {seen.pop("blocks.1.qkv"), seen.pop("blocks.1.down")} == {torch.bfloat16}, "the bulk of the work is in bf16"
    assert set(seen.values()) == {torch.float32}
    assert {part.dtype for part in logits} == {loss.dtype} == {torch.float32}
    for one, other in zip(logits, exact, strict=True):
        assert not torch.equal(one, other)
        assert float((one - other).detach().abs().mean()) < 0.1 * float(other.std())
        assert not torch.equal(one, one.bfloat16().float()), "more than eight bits of every logit"
    loss.backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


def test_weights_in_bf16_give_logits_in_fp32():
    model = make().to(torch.bfloat16)
    assert {part.dtype for part in model(*tokens())} == {torch.float32}


# --- language alone, and captions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, SPARSE, {**SPARSE, **LLAMA}])
@torch.no_grad()
def test_a_batch_without_pictures_trains_language_alone(options):
    model = make(caption_dropout=1.0, **options).train()
    text = model.text_tokenizer.encode(CAPTIONS)
    loss, logs = model.training_loss(batch_of(CAPTIONS), 0)
    with_picture, _ = model.eval()(text, tokens(2)[1])
    expected = F.cross_entropy(with_picture.flatten(0, 1), text[:, 1:].flatten())
    assert float(loss) == pytest.approx(float(expected), rel=1e-5), "weight one, and no caption is dropped"
    assert set(logs) == {"text_loss"}


@pytest.mark.parametrize("options", [{}, {**SPARSE, **LLAMA}])
@torch.no_grad()
def test_a_captioner_trains_on_language_alone_too(options):
    model = make(order="image_first", **options).train()
    text = model.text_tokenizer.encode(CAPTIONS)
    loss, _ = model.training_loss(batch_of(CAPTIONS), 0)
    logits = model.forward_text(text)
    assert logits.shape == (2, TEXT - 1, Words(TEXT).num_ids)
    assert float(loss) == pytest.approx(float(F.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten())), rel=1e-5)
    changed = text.clone()
    changed[:, 2] = (changed[:, 2] + 1) % 10
    felt = (model.forward_text(changed) != logits).flatten(2).any(2).any(0)
    assert felt.tolist() == [False, False, True, True]


@torch.no_grad()
def test_language_alone_stands_where_captions_stand():
    model = make(order="image_first", **{**SPARSE, **LLAMA})
    given = []
    model.blocks[0].register_forward_pre_hook(lambda block, arguments: given.append(arguments))
    model.forward_text(model.text_tokenizer.encode(CAPTIONS))
    ((_, (cos, _), _, first),) = given
    assert first == IMAGE
    expected = torch.tensor(TALL.angles_by_hand("image_first"))[IMAGE:-1].cos()
    torch.testing.assert_close(cos, expected, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_the_loss_of_captions():
    model = make(order="image_first", text_weight=0.7, caption_dropout=1.0).train()
    image = tokens(2)[1]
    loss, logs = model.training_loss(batch_of(CAPTIONS, image), 0)
    text = model.text_tokenizer.encode(CAPTIONS)
    logits = [part.double().log_softmax(-1) for part in model(text, image)]
    assert [part.shape[1] for part in logits] == [TEXT, IMAGE - 1], "the first image token is not predicted"
    surprise = [
        -math.fsum(float(part[row, place, truth[row, place]]) for row in range(2) for place in range(part.shape[1]))
        / (2 * part.shape[1])
        for part, truth in zip(logits, (text, image[:, 1:]), strict=True)
    ]
    assert float(logs["text_loss"]) == pytest.approx(surprise[0], rel=1e-5)
    assert float(logs["image_loss"]) == pytest.approx(surprise[1], rel=1e-5)
    assert float(loss) == pytest.approx(0.7 * surprise[0] + 0.3 * surprise[1], rel=1e-5)


def test_a_captioner_learns_which_picture_it_reads():
    torch.manual_seed(0)
    model = Transformer(
        text_tokenizer=Words(TEXT), grid=(2, 2), codebook_size=CODES, embed_dim=32, num_layers=2, num_heads=2,
        order="image_first", text_weight=7 / 8, layout="dalle",
    )  # fmt: skip
    image = torch.randint(CODES, (8, 4))
    captions = [f"{i} {(i * 3) % 10} {(i * 7) % 10}" for i in range(8)]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(80):
        optimizer.zero_grad()
        model.training_loss(batch_of(captions, image), step)[0].backward()
        optimizer.step()
    with torch.no_grad():
        logits, cache = model.eval().prefill_image(image)
        words = [logits.argmax(1)]
        for _ in range(2):
            words.append(model.step_text(words[-1][:, None], cache)[:, 0].argmax(1))
    assert [" ".join(map(str, caption)) for caption in torch.stack(words, 1).tolist()] == captions


def test_a_stream_is_read_in_its_own_order_only():
    text, image = tokens()
    with pytest.raises(ConfigError, match=r"cannot draw pictures: it was trained with order=image_first") as caught:
        make(order="image_first").prefill(text, image)
    assert (caught.value.code, caught.value.fix) == ("MMG-C25", "train one with generator.order=text_first")
    with pytest.raises(ConfigError, match=r"cannot write captions: it was trained with order=text_first"):
        make().prefill_image(image)


# --- size ------------------------------------------------------------------------------------------------------------


class Captions:
    """The paper's text: 256 positions, 16,384 ids, and a pad of its own for each position."""

    vocab_size, context_length, num_ids = 16_384, 256, 16_640

    def encode(self, captions, keys=None):
        return torch.zeros(len(captions), self.context_length, dtype=torch.long)


def preset(name: str) -> tuple[Transformer, dict]:
    """A preset on the meta device, at the paper's text and grid, and its options."""
    choices = ["task=generator_dalle", "dataset=folder", "dataset.path=x", f"generator={name}"]
    config = composition.checked("train", choices, places.places()).config
    text = config["task"]["text_tokenizer"]
    assert (text["context_length"], text["vocab_size"]) == (256, 16_384)
    with torch.device("meta"):
        model = registry.build(
            "generator", config["generator"], text_tokenizer=Captions(), grid=(32, 32), codebook_size=8192
        )
    assert isinstance(model, Transformer)
    return model, config["generator"]


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_twelve_billion_parameters():
    model, options = preset("dalle_12b")
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert (options["num_layers"], options["num_heads"], options["embed_dim"]) == (64, 62, 3968)
    assert model.head_dim == 64
    assert model.stream.length == 1280
    d, ids, codes = 3968, 16_384 + 256, 8_192
    terms = {
        "text tokens and pads": ids * d,
        "text positions": 256 * d,
        "image tokens": codes * d,
        "rows and columns": (32 + 32) * d,
        "queries, keys, values": 64 * (3 * d * d + 3 * d),
        "attention's output": 64 * (d * d + d),
        "MLP": 64 * (8 * d * d + 5 * d),
        "norms": 64 * 4 * d + 2 * d,
        "text head": d * ids + ids,
        "image head": d * codes + codes,
    }
    print(f"dalle_12b: {count(model):,} parameters")
    assert count(model) == sum(terms.values()) == 12_293_849_088
    page = (Path(__file__).parents[2] / "docs" / "generator.md").read_text(encoding="utf-8")
    for name, number in {**terms, "all": sum(terms.values())}.items():
        assert re.search(rf"\| {re.escape(name)} \|.*\| {number:,} \|", page), (name, f"{number:,}")


def test_the_ladder_of_presets_is_as_the_docs_say():
    page = (Path(__file__).parents[2] / "docs" / "generator.md").read_text(encoding="utf-8")
    names = ["dalle_tiny", "dalle_small", "dalle", "dalle_base", "dalle_large", "dalle_12b", "llama_style"]
    for name in names:
        model, options = preset(name)
        row = [name, *(options[key] for key in ("num_layers", "embed_dim", "num_heads"))]
        cells = " | ".join([f"`{row[0]}`", *map(str, row[1:]), f"{count(model.blocks):,}", f"{count(model):,}"])
        assert f"| {cells} |" in page, cells
        layout = {block.mask.name for block in model.blocks}
        assert layout == ({"full"} if name == "llama_style" else {"row", "column", "convolution"})
    files = {file.stem for file in (Path(__file__).parents[2] / "conf" / "generator").glob("*.yaml")}
    assert files == set(names)


@pytest.mark.parametrize("options", [{"layout": "dalle"}, {"layout": "dalle", **LLAMA, "gradient_checkpointing": True}])
def test_it_can_be_built_and_run_without_memory(options):
    given = {"text_tokenizer": Captions(), "grid": (32, 32), "codebook_size": 8192, "embed_dim": 128, "num_layers": 3}
    with torch.device("meta"):
        text_logits, image_logits = Transformer(**given, **options)(
            torch.zeros(2, 256, dtype=torch.long), torch.zeros(2, 1024, dtype=torch.long)
        )
    assert (text_logits.shape, image_logits.shape) == ((2, 255, 16_640), (2, 1024, 8192))
    with FakeTensorMode():
        model = Transformer(**given, **options)
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = model.training_loss(batch_of(["a", "b"], torch.zeros(2, 1024, dtype=torch.long)), 0)
        loss.backward()
        assert all(p.grad.shape == p.shape for p in model.parameters())


def test_what_was_traced_without_memory_leaves_nothing_behind():
    """Tables are remembered; one that a fake tensor asked for must not be handed to a real one."""

    def loss() -> torch.Tensor:
        model = make(layout="dalle", executor="blocked")
        return model.training_loss(batch_of(CAPTIONS, torch.zeros(2, IMAGE, dtype=torch.long)), 0)[0]

    with FakeTensorMode():
        Transformer(text_tokenizer=Words(TEXT), grid=(5, 4), codebook_size=CODES, layout="dalle", executor="blocked")(
            torch.zeros(2, TEXT, dtype=torch.long), torch.zeros(2, IMAGE, dtype=torch.long)
        )
    assert type(loss()) is torch.Tensor


@torch.no_grad()
def test_the_rows_of_qkv_can_be_split_between_heads():
    """Half of the heads compute from half of the rows, as a tensor-parallel rank does, and their outputs add up."""
    block = make(num_layers=1, **LLAMA | {"positions": "learned"}).blocks[0]
    x = torch.randn(2, TEXT + IMAGE, 32, generator=torch.Generator().manual_seed(0))
    whole = block._attend(x, None, None, 0)
    weight, out = block.qkv.weight.clone(), block.out.weight.clone()
    total = torch.zeros_like(whole)
    for rank in range(2):
        block.qkv.weight = torch.nn.Parameter(weight.chunk(2)[rank])
        block.out.weight = torch.nn.Parameter(out.chunk(2, 1)[rank])
        total += block._attend(x, None, None, 0)
    torch.testing.assert_close(total, whole, atol=1e-5, rtol=1e-5)
