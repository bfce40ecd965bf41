"""Labels in templates become class features as open_clip makes them, however many, in whatever order."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mmgen import trio
from mmgen.data.clip_text import ClipTextTokenizer
from mmgen.errors import ConfigError
from mmgen.models.clip import Clip
from mmgen.trio import BATCH, Trio
from tests.models.clip_shapes import ours
from tests.models.open_clip_models import open_clip

LABELS = ["cat", "a very long-haired dog", "emu", "bus", "9"]
TEMPLATES = ["a photo of a {}.", "{}", "the {}, small"]


@pytest.fixture(scope="module")
def text_tokenizer() -> ClipTextTokenizer:
    """CLIP's rules without a merge: each byte is a token."""
    return ClipTextTokenizer([("t", "h"), ("th", "e</w>")], context_length=48)


@pytest.fixture(scope="module")
def pair(text_tokenizer) -> tuple[torch.nn.Module, Trio]:
    """open_clip's model, and ours with its random weights."""
    torch.manual_seed(0)
    text = {"context_length": 48, "vocab_size": text_tokenizer.num_ids, "width": 64, "heads": 2, "layers": 2}
    vision = {"image_size": 16, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8}
    theirs = open_clip().model.CLIP(16, vision, text).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name != "logit_scale":
                parameter.add_(torch.randn_like(parameter) * 0.2)
    options = {"patch_size": 8, "width": 64, "image_layers": 1, "num_heads": 2, "text_layers": 2, "embed_dim": 16}
    mine = Clip(text_tokenizer=text_tokenizer, image_size=16, **options).eval()
    mine.load_state_dict(ours(theirs.state_dict()))
    return theirs, Trio(encoder=mine, fingerprints={"encoder": "0" * 64})


def test_class_features_are_open_clips(pair, text_tokenizer):
    theirs, mine = pair
    expected = open_clip().build_zero_shot_classifier(theirs, text_tokenizer.encode, LABELS, TEMPLATES).T
    found = mine.class_features(LABELS, TEMPLATES)
    assert found.shape == (5, 16)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    single = mine.class_features(LABELS)
    assert (single - expected).abs().max() > 1e-2  # the templates matter, so that the comparison says something


def test_many_captions_in_the_order_of_their_lengths_are_the_same_features(pair, text_tokenizer):
    _, mine = pair
    labels = [f"{'x' * (7 * i % 31)}{i}" for i in range(BATCH + 30)]
    counted: list[int] = []
    found = mine.class_features(labels, TEMPLATES, progress=counted.append)
    assert sum(counted) == len(labels) * len(TEMPLATES)
    assert len(counted) == -(-len(labels) * len(TEMPLATES) // BATCH)
    encoder = mine.part("encoder")
    with torch.no_grad():
        for i in (0, 30, len(labels) - 1):
            each = encoder.encode_text(text_tokenizer.encode([t.replace("{}", labels[i]) for t in TEMPLATES]))
            torch.testing.assert_close(found[i], F.normalize(each.mean(0), dim=-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(mine.encode_captions(labels)[41], mine.encode_captions(labels[41:42])[0])


def test_batches_hold_captions_of_like_length(pair, monkeypatch):
    """Sorted, a batch is as long as its captions are; unsorted, each would be as long as the longest of all."""
    _, mine = pair
    read: list[int] = []
    encoder = mine.part("encoder")
    encode, end = encoder.encode_text, encoder.text_tokenizer.end
    monkeypatch.setattr(encoder, "encode_text", lambda tokens: read.append(int(end(tokens).max())) or encode(tokens))
    mine.class_features(["x" * (i % 40 + 1) + chr(0x100 + i // 40) for i in range(8 * BATCH)])
    assert read == sorted(read)
    assert read[0] <= 8
    assert len(set(read)) >= 7


def test_a_labels_captions_may_lie_in_two_pieces(pair, monkeypatch):
    _, mine = pair
    whole = mine.class_features(LABELS, TEMPLATES)
    monkeypatch.setattr(trio, "CAPTIONS", 4)
    torch.testing.assert_close(mine.class_features(LABELS, TEMPLATES), whole, atol=1e-6, rtol=0)


def test_names_of_a_class_are_averaged_with_its_templates(pair):
    _, mine = pair
    found = mine.class_features({"happy": ("happy", "smiling"), "sad": ("sad",)}, TEMPLATES)
    captions = [t.replace("{}", name) for name in ("happy", "smiling") for t in TEMPLATES]
    torch.testing.assert_close(found[0], F.normalize(mine.encode_captions(captions).mean(0), dim=-1))
    torch.testing.assert_close(found[1], mine.class_features(["sad", "x"], TEMPLATES)[0])
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    shares = mine.classify(image, {"happy": ("happy", "smiling"), "sad": ("sad",)}, TEMPLATES)
    assert shares.keys() == {"happy", "sad"}


@pytest.mark.parametrize(
    ("labels", "templates", "words"),
    [
        ({"a": (), "b": ("b",)}, ["{}"], "missing or empty"),
        ({"a": ("x", " "), "b": ("b",)}, ["{}"], "missing or empty"),
        (["a", "b"], [], "0 templates"),
        (["a", "b"], ["{}"] * 1001, "1,001 templates"),
        ([str(i) for i in range(100_001)], ["{}"], "100,001 labels, at most 100,000"),
        (["a", "b" * 1_000_000], ["{}"], "longer than the 48 tokens"),
        (["a", "many words " * 20], ["{}"], "longer than the 48 tokens"),
    ],
)
def test_questions_that_make_no_sense_are_refused(pair, labels, templates, words):
    with pytest.raises(ConfigError, match=words):
        pair[1].class_features(labels, templates)


def test_titles_of_a_mapping_are_no_captions_and_may_differ_by_a_blank(pair):
    found = pair[1].class_features({"crane": ("a bird",), "crane ": ("a machine",)})
    torch.testing.assert_close(found, pair[1].class_features(["a bird", "a machine"]))


def test_what_may_be_cut_is_cut(pair):
    assert pair[1].class_features(["a", "many words " * 20], cut=True).isfinite().all()
