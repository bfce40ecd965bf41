"""The generator: its cache, its mask, its layer and its loss, each against something written independently."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from mmgen.data.order import sample_key
from mmgen.models.layers import Block
from mmgen.models.transformer import Transformer
from mmgen.stream import TokenStream
from mmgen.testing import check_generator
from mmgen.testing.stand_ins import small_text_tokenizer
from tests.models.generators import SMALL
from tests.models.reference import causal_mask, roughen, torch_layer
from tests.models.words import Words

GRID, CODES, TEXT, IMAGE = SMALL.grid, SMALL.codes, SMALL.text, SMALL.image
make, tokens = SMALL.make, SMALL.tokens


@pytest.fixture(params=[True, False], ids=["qk_norm", "plain"])
def model(request):
    return make(qk_norm=request.param)


@pytest.mark.parametrize(
    "chunks", [[1] * (IMAGE - 1), [3, 1, 4, 3], [IMAGE - 1]], ids=["one by one", "several", "all at once"]
)
@torch.no_grad()
def test_steps_over_the_cache_equal_one_pass(model, chunks):
    text, image = tokens()
    expected = model(text, image)[1]
    first, cache = model.prefill(text)
    got, read = [first[:, None]], 0
    for size in chunks:
        got.append(model.step(image[:, read : read + size], cache))
        read += size
    assert expected.std() > 0.5
    torch.testing.assert_close(torch.cat(got, 1), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("given", [1, 5, IMAGE - 1])
@torch.no_grad()
def test_a_prefill_with_image_tokens_equals_one_pass(model, given):
    text, image = tokens()
    logits, cache = model.prefill(text, image[:, :given])
    torch.testing.assert_close(logits, model(text, image)[1][:, given], atol=1e-5, rtol=1e-5)
    assert cache.length == TEXT + given


@torch.no_grad()
def test_a_truncated_cache_forgets_what_was_guessed_wrong(model):
    text, image = tokens()
    _, cache = model.prefill(text)
    model.step(image[:, :3], cache)
    model.step((image[:, 3:8] + 1) % CODES, cache)
    cache.truncate(TEXT + 3)
    got = model.step(image[:, 3:9], cache)
    torch.testing.assert_close(got, model(text, image)[1][:, 4:10], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_rows_of_a_cache_can_be_selected(model):
    text, image = tokens(2)
    _, cache = model.prefill(text)
    rows = torch.tensor([1, 0, 1])
    got = model.step(image[rows, :2], cache.select(rows))
    torch.testing.assert_close(got, model(text, image)[1][rows, 1:3], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_no_token_is_seen_before_it_is_predicted(model):
    """A changed token at position p changes no logit that predicts the tokens up to p, and some of every later one."""
    text, image = tokens()
    before = torch.cat([model(text, image)[0].flatten(1), model(text, image)[1].flatten(1)], 1)
    ids = Words(TEXT).num_ids
    for p in range(TEXT + IMAGE):
        changed_text, changed_image = text.clone(), image.clone()
        if p < TEXT:
            changed_text[:, p] = (changed_text[:, p] + 1) % ids
        else:
            changed_image[:, p - TEXT] = (changed_image[:, p - TEXT] + 1) % CODES
        after = model(changed_text, changed_image)
        same = torch.cat([after[0].flatten(1), after[1].flatten(1)], 1) == before
        # Text logits predict tokens 1 to TEXT - 1, then image logits all image tokens.
        predicts = [*range(1, TEXT), *range(TEXT, TEXT + IMAGE)]
        sizes = [ids] * (TEXT - 1) + [CODES] * IMAGE
        for token, part in zip(predicts, same.split(sizes, 1), strict=True):
            assert part.all() if token <= p else not part.all(), (p, token)


@pytest.mark.parametrize(
    ("table", "entry", "first"),
    [("row", 1, 4), ("row", 2, 8), ("column", 0, 0), ("column", 3, 3), ("text_position", 2, None)],
)
@torch.no_grad()
def test_every_position_has_its_place(model, table, entry, first):
    """A changed entry of a table of positions is felt from the first token read there, and no earlier."""
    text, image = tokens()
    before = model(text, image)
    getattr(model, table).weight[entry] += 1
    after = model(text, image)
    changed = [(a != b).flatten(2).any(2).any(0).tolist() for a, b in zip(before, after, strict=True)]
    if first is None:
        assert changed == [[False, False, True], [True] * IMAGE]
    else:
        assert changed == [[False] * (TEXT - 1), [place > first for place in range(IMAGE)]]


@torch.no_grad()
def test_the_block_is_torch_s_layer():
    torch.manual_seed(0)
    block = Block(32, 4, layer=0, mask=TokenStream(7, (1, 1)).mask("full"), qk_norm=False)
    roughen(block)
    x = torch.randn(2, 7, 32)
    expected = torch_layer(block, by_heads=True)(x, src_mask=causal_mask(7))
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_qk_norm_takes_the_length_out_of_queries_and_keys():
    block = Block(32, 4, layer=0, mask=TokenStream(7, (1, 1)).mask("full"), qk_norm=True)
    x = torch.randn(2, 7, 32)
    expected = block(x)
    parts = block.qkv.weight.view(4, 3, 8, 32)
    parts[:, :2].mul_(10)
    torch.testing.assert_close(block(x), expected, atol=1e-4, rtol=1e-4)
    parts[:, 2].mul_(10)
    assert not torch.allclose(block(x), expected, atol=1e-2)


def batch_of(captions: list[str], image: torch.Tensor, keys: list[int] | None = None):
    keys = keys or list(range(len(captions)))
    return {"caption": captions, "id": [str(k) for k in keys], "key": keys, "image_tokens": image}


@pytest.mark.parametrize("text_weight", [1 / 8, 0.5])
@torch.no_grad()
def test_the_loss_is_the_weighed_mean_of_both_kinds(text_weight):
    model = make(text_weight=text_weight)
    _, image = tokens(2)
    captions = ["3 1", "5 9 2 6"]
    text = model.text_tokenizer.encode(captions)
    logits = [part.double() for part in model(text, image)]
    surprise = []
    for part, truth in zip(logits, (text[:, 1:], image), strict=True):
        terms = [
            float(torch.log(torch.exp(part[row, place]).sum()) - part[row, place, truth[row, place]])
            for row in range(2)
            for place in range(truth.shape[1])
        ]
        surprise.append(math.fsum(terms) / len(terms))
    loss, logs = model.training_loss(batch_of(captions, image), 0)
    assert float(loss) == pytest.approx(text_weight * surprise[0] + (1 - text_weight) * surprise[1], rel=1e-5)
    assert float(logs["text_loss"]) == pytest.approx(surprise[0], rel=1e-5)
    assert float(logs["image_loss"]) == pytest.approx(surprise[1], rel=1e-5)


@torch.no_grad()
def test_ids_that_are_known_are_not_made_again():
    model = make(caption_dropout=0.5)
    _, image = tokens(8)
    captions = ["3 1", "5 9 2 6"] * 4
    known = {**batch_of(captions, image), "text_tokens": model.text_tokenizer.encode(["7"] * 8)}
    loss, _ = model.training_loss(known, 0)
    assert float(loss) == float(model.training_loss(batch_of(["7"] * 8, image), 0)[0])
    assert float(loss) != float(model.training_loss(batch_of(captions, image), 0)[0])
    # In training some captions are emptied, whose ids nobody knows.
    model.train()
    torch.manual_seed(1)
    loss, _ = model.training_loss(known, 0)
    torch.manual_seed(1)
    assert float(loss) == float(model.training_loss(batch_of(captions, image), 0)[0])


def test_the_paper_s_weights_are_the_default():
    assert make().text_weight == 1 / 8


def dropped(model: Transformer, count: int, seed: int) -> list[bool]:
    keys = [sample_key(seed, 0, f"picture-{i}") for i in range(count)]
    model.text_tokenizer.encoded.clear()
    model.training_loss(batch_of(["1"] * count, torch.zeros(count, IMAGE, dtype=torch.long), keys), 0)
    return [caption == "" for caption in model.text_tokenizer.encoded]


@torch.no_grad()
def test_the_asked_share_of_captions_is_dropped_in_training_only():
    model = make(embed_dim=4, num_layers=1, num_heads=1, caption_dropout=0.1).train()
    count = 4000
    first = dropped(model, count, seed=1)
    # Binomial: the standard deviation of the share is 0.0047; four of them to either side.
    assert abs(sum(first) / count - 0.1) < 0.019
    assert dropped(model, count, seed=1) == first
    assert dropped(model, count, seed=2) != first
    assert model.text_tokenizer.keys[-1] is not None
    assert not any(dropped(model.eval(), count, seed=1))
    assert model.text_tokenizer.keys[-1] is None


@pytest.mark.parametrize(("share", "expected"), [(0.0, False), (1.0, True)])
@torch.no_grad()
def test_no_caption_or_every_caption_is_dropped(share, expected):
    model = make(embed_dim=4, num_layers=1, num_heads=1, caption_dropout=share).train()
    assert dropped(model, 200, seed=1) == [expected] * 200


def noisy(model: Transformer, image: torch.Tensor) -> torch.Tensor:
    """The image tokens that the model reads when it is trained on `image`."""
    seen = []
    hook = model.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[1]))
    model.training_loss(batch_of(["1"] * len(image), image), 0)
    hook.remove()
    return seen[0]


@torch.no_grad()
def test_noise_replaces_the_asked_share_of_what_is_read_in_training_only():
    model = make(embed_dim=4, num_layers=1, num_heads=1, token_noise=0.2).train()
    source = torch.Generator().manual_seed(0)
    # Only code 3 is rare: what replaces a token comes from the batch, not from the whole codebook.
    image = torch.tensor([1, 1, 2, 2, 2, 3, 1, 2])[torch.randint(8, (3000, IMAGE), generator=source)]
    torch.manual_seed(0)
    read = noisy(model, image)
    equal = float(torch.bincount(image.flatten()).double().div(image.numel()).square().sum())
    # Each picture's share lies evenly between 0 and 0.4; a token may be replaced by its like. Standard deviation of the
    # share over 3000 pictures of 12 tokens: below 0.003; four of them to either side.
    assert abs(float((read != image).float().mean()) - 0.2 * (1 - equal)) < 0.012
    assert set(read.unique().tolist()) == {1, 2, 3}
    assert abs(float((read == 3).float().mean()) - float((image == 3).float().mean())) < 0.01
    shares = (read != image).float().mean(1)
    assert float(shares.std()) > 0.105, "as if every picture had the same share, which gives 0.095"
    assert torch.equal(noisy(model.eval(), image), image)


@torch.no_grad()
def test_noise_changes_what_is_read_and_not_what_is_to_be_predicted():
    model = make(token_noise=0.5).train()
    _, image = tokens(4)
    torch.manual_seed(3)
    read = noisy(model, image)
    torch.manual_seed(3)
    logs = model.training_loss(batch_of(["1"] * 4, image), 0)[1]
    model.eval()
    dropped = [caption == "" for caption in model.text_tokenizer.encoded[-4:]]
    text = model.text_tokenizer.encode(["" if empty else "1" for empty in dropped])
    logits = model(text, read)[1]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), image.flatten())
    assert not torch.equal(read, image)
    assert float(logs["image_loss"]) == pytest.approx(float(expected), rel=1e-5)


def test_it_learns_eight_samples_by_heart():
    torch.manual_seed(0)
    model = Transformer(
        text_tokenizer=Words(TEXT), grid=GRID, codebook_size=CODES, embed_dim=32, num_layers=2, num_heads=4,
        caption_dropout=0.0,
    )  # fmt: skip
    image = torch.randint(CODES, (8, IMAGE))
    batch = batch_of([f"{i} {(i * 3) % 10} {(i * 7) % 10}" for i in range(8)], image)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(120):
        loss, _ = model.training_loss(batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert float(model.eval().training_loss(batch, 0)[0]) < 0.02
        text = model.text_tokenizer.encode(batch["caption"])
        assert (model(text, image)[1].argmax(2) == image).all()


def test_it_conforms():
    torch.manual_seed(0)
    model = Transformer(
        text_tokenizer=small_text_tokenizer(), grid=GRID, codebook_size=CODES, embed_dim=32, num_layers=1, num_heads=2
    )
    assert len(check_generator(model, CODES)) >= 5


@torch.no_grad()
def test_its_weights_travel_in_a_state_dict():
    one, other = make(), make()
    roughen(other, seed=5)
    text, image = tokens()
    assert not torch.equal(one(text, image)[1], other(text, image)[1])
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert torch.equal(one(text, image)[1], other(text, image)[1])
    assert torch.equal(one(text, image)[0], other(text, image)[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_heads": 5}, r"num_heads=5 does not divide embed_dim=32; these do: \[1, 2\]"),
        ({"text_weight": 1.5}, r"text_weight must lie in \[0,1\], got 1.5"),
        ({"token_noise": 1.1}, r"token_noise must lie in \[0,1\], got 1.1"),
        ({"caption_dropout": -0.1}, r"caption_dropout must lie in \[0,1\], got -0.1"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        make(**options)
