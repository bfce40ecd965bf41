"""The generator on a GPU: every way to compute attention, caches, precision. `nox -s gpu`; it fails without one."""

from __future__ import annotations

import itertools

import pytest
import torch

from mmgen.models.attention import Executor, attend, attend_cached
from mmgen.models.transformer import Transformer
from mmgen.stream import Mask, MaskName, Order, TokenStream
from tests.models.masks import table
from tests.models.words import Words

pytestmark = pytest.mark.gpu

NAMES: tuple[MaskName, ...] = ("full", "row", "column", "convolution")
ORDERS: tuple[Order, ...] = ("text_first", "image_first")
PLAIN: tuple[Executor, ...] = ("dense", "blocked")
EXECUTORS: tuple[Executor, ...] = (*PLAIN, "flex")  # a test at the end says that "auto" is one of these
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
TEXT, CODES = 20, 64
# FlexAttention compiles seconds for each mask, shape and precision: it is given fewer of them, of every kind one.
PASSES = [
    *itertools.product(PLAIN, PRECISIONS, ORDERS, [(8, 8), (6, 11), (32, 32)]),
    ("flex", "fp32", "text_first", (6, 11)),
    ("flex", "bf16", "image_first", (6, 11)),
    ("flex", "bf16", "text_first", (32, 32)),
]
GRADIENTS = [
    *itertools.product(PLAIN, PRECISIONS, ORDERS),
    ("flex", "fp32", "text_first"),
    ("flex", "bf16", "image_first"),
]


@pytest.fixture(autouse=True, scope="module")
def precise() -> None:
    """A GPU there must be; and fp32 means fp32, not TF32."""
    assert torch.cuda.is_available(), "tests/gpu needs a GPU and a build of torch for it"
    torch.backends.cuda.matmul.allow_tf32 = False


def heads(length: int, dtype: torch.dtype) -> torch.Tensor:
    """Queries, keys, values (3,B,H,S,K)."""
    return torch.randn(3, 2, 2, length, 64, generator=torch.Generator().manual_seed(0)).to("cuda", dtype)


def by_hand(parts: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Attention in double precision, straight from its formula."""
    queries, keys, values = parts.double()
    scores = queries @ keys.transpose(-2, -1) / 8
    return scores.masked_fill(~seen.to(scores.device), -torch.inf).softmax(-1) @ values


@pytest.mark.parametrize(("executor", "precision", "order", "grid"), PASSES, ids=str)
def test_a_pass_is_the_formula_s(executor, precision, order, grid):
    dtype = PRECISIONS[precision]
    close = {"atol": 2e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 2e-2, "rtol": 2e-2}
    for name in NAMES:
        mask = TokenStream(TEXT, grid, order).mask(name)
        length = mask.stream.length - 1
        parts = heads(length, dtype)
        expected = by_hand(parts, table(name, TEXT, grid, order)[:length, :length])
        got = attend(*parts, mask, executor=executor).double()
        torch.testing.assert_close(got, expected, **close, msg=lambda text, mask=mask: f"{mask}: {text}")


@pytest.mark.parametrize(("executor", "precision", "order"), GRADIENTS)
def test_gradients_agree(executor, precision, order):
    dtype = PRECISIONS[precision]
    close = {"atol": 1e-4, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 5e-2, "rtol": 5e-2}
    weights = torch.linspace(-1, 1, 64, device="cuda", dtype=torch.float64)
    for name in NAMES:
        mask = TokenStream(TEXT, (16, 12), order).mask(name)
        length = mask.stream.length - 1
        exact = heads(length, dtype).double().requires_grad_()
        seen = table(name, TEXT, (16, 12), order)[:length, :length]
        (by_hand(exact, seen) * weights).sum().backward()
        parts = heads(length, dtype).requires_grad_()
        (attend(*parts, mask, executor=executor) * weights.to(dtype)).sum().backward()
        torch.testing.assert_close(parts.grad.double(), exact.grad, **close)


def test_steps_over_a_cache_are_the_formula_s():
    for name in NAMES:
        mask: Mask = TokenStream(TEXT, (6, 11)).mask(name)
        parts = heads(mask.stream.length, torch.float32)
        expected = by_hand(parts, table(name, TEXT, (6, 11), "text_first"))
        for first, size in ((TEXT, 1), (TEXT + 40, 1), (TEXT + 40, 5), (0, mask.stream.length)):
            stop = first + size
            out = attend_cached(parts[0][:, :, first:stop], parts[1][:, :, :stop], parts[2][:, :, :stop], mask)
            torch.testing.assert_close(out.double(), expected[:, :, first:stop], atol=2e-5, rtol=1e-5)


def make(**options) -> Transformer:
    torch.manual_seed(0)
    given = {"grid": (6, 11), "codebook_size": CODES, "embed_dim": 128, "num_layers": 4, "num_heads": 2, **options}
    return Transformer(text_tokenizer=Words(TEXT), **given).to("cuda").eval()


def tokens(device: str = "cuda") -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    text = torch.randint(Words(TEXT).num_ids, (4, TEXT), generator=source)
    return text.to(device), torch.randint(CODES, (4, 66), generator=source).to(device)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("layout", ["full", "dalle"])
@pytest.mark.parametrize("positions", ["learned", "rotary"])
@torch.no_grad()
def test_a_cache_changes_no_logits(positions, layout, executor):
    model = make(positions=positions, layout=layout, executor=executor)
    text, image = tokens()
    expected = model(text, image)[1]
    logits, cache = model.prefill(text)
    got, read = [logits[:, None]], 0
    for size in [1] * 20 + [5] * 9:
        got.append(model.step(image[:, read : read + size], cache))
        read += size
    torch.testing.assert_close(torch.cat(got, 1), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("executor", EXECUTORS)
@torch.no_grad()
def test_a_caption_s_cache_changes_no_logits(executor):
    model = make(order="image_first", layout="dalle", executor=executor)
    text, image = tokens()
    expected = model(text, image)[0]
    logits, cache = model.prefill_image(image)
    got = [logits[:, None], *(model.step_text(text[:, n : n + 1], cache) for n in range(TEXT - 1))]
    torch.testing.assert_close(torch.cat(got, 1), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("again", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_step_of_training_is_that_of_the_cpu(executor, again):
    """The loss and its gradients in fp32; under bf16 the loss, with logits and gradients in fp32."""
    options = {"layout": "dalle", "caption_dropout": 0.0}
    model = make(**options, executor=executor, gradient_checkpointing=again).train()
    reference = make(**options).cpu().train()
    batch = {"caption": ["1 2", "3", "4 5 6", ""], "id": list("abcd"), "key": [1, 2, 3, 4]}
    loss, _ = model.training_loss({**batch, "image_tokens": tokens()[1]}, 0)
    loss.backward()
    expected, _ = reference.training_loss({**batch, "image_tokens": tokens("cpu")[1]}, 0)
    expected.backward()
    torch.testing.assert_close(loss.cpu(), expected, atol=1e-5, rtol=1e-5)
    for one, other in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one.grad.cpu(), other.grad, atol=1e-5, rtol=1e-3)
    model.zero_grad()
    with torch.autocast("cuda", torch.bfloat16):
        text_logits, image_logits = model(*tokens())
        loss, _ = model.training_loss({**batch, "image_tokens": tokens()[1]}, 0)
    loss.backward()
    assert text_logits.dtype == image_logits.dtype == torch.float32
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-2)


def test_auto_is_flexattention_where_a_layer_is_sparse(monkeypatch):
    from mmgen.models import attention

    used = []
    compute = attention._flex
    monkeypatch.setattr(attention, "_flex", lambda *given: (used.append(given[3].name), compute(*given))[1])
    make(layout="dalle")(*tokens())
    assert used == ["row", "column", "row", "convolution"]
