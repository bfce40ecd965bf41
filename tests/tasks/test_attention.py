"""A generator's attention as pictures: which number lands on which place, which words there are, what is refused."""

from __future__ import annotations

import pytest
import torch

from mmgen.errors import ConfigError
from mmgen.models.transformer import Transformer
from mmgen.stream import TokenStream
from mmgen.tasks.attention import HEAT, MARK, SIDE, ShowAttention, check_attention, look, words_of
from mmgen.testing.stand_ins import SmallGenerator, small_samples, small_text_tokenizer
from tests.models.words import Words
from tests.tasks.loops import CODES, Rows, assert_equal, everything, fit, make_task

SPANS = [(0, 1), (1, 3)]  # two words, of one token and of two; the fourth position is a pad


def maps(rows: dict[int, dict[int, float]]) -> torch.Tensor:
    """One layer over four text and four image positions: what each position is predicted from."""
    found = torch.zeros(1, 7, 7)
    for position, read in rows.items():
        for key, share in read.items():
            found[0, position - 1, key] = share
    return found


def test_a_place_is_drawn_from_what_the_position_before_it_reads():
    stream = TokenStream(4, (2, 2))
    # Image positions 4..7: the third place is drawn from places 0 and 1, and from the second word.
    drawn = {4: {0: 1.0}, 5: {4: 0.6, 1: 0.4}, 6: {4: 0.2, 5: 0.5, 2: 0.2, 3: 0.1}, 7: {1: 0.3, 2: 0.3, 3: 0.4}}
    found = look(maps(drawn), stream, [*SPANS, (3, 4)], place=2)
    torch.testing.assert_close(found.layers, torch.tensor([[0.2, 0.5, 0, 0]]))
    torch.testing.assert_close(found.layer_shares, torch.tensor([0.7]))
    torch.testing.assert_close(found.words, torch.tensor([[1.0, 0, 0, 0], [0, 0.4, 0.2, 0.6], [0, 0, 0.1, 0.4]]))
    torch.testing.assert_close(found.word_shares, torch.tensor([0.25, 0.3, 0.125]))


def test_a_word_is_written_from_what_the_position_before_it_reads():
    stream = TokenStream(4, (2, 2), "image_first")
    written = {4: {0: 0.5, 3: 0.5}, 5: {1: 0.8, 4: 0.2}, 6: {1: 0.2, 2: 0.2, 5: 0.6}, 7: {0: 1.0}}
    found = look(maps(written), stream, SPANS, place=0)
    torch.testing.assert_close(found.words, torch.tensor([[0.5, 0, 0, 0.5], [0, 0.5, 0.1, 0]]))
    torch.testing.assert_close(found.word_shares, torch.tensor([1.0, 0.6]))
    torch.testing.assert_close(found.layers, torch.tensor([[0.5 / 3, 1 / 3, 0.2 / 3, 0.5 / 3]]))
    torch.testing.assert_close(found.layer_shares, torch.tensor([2.2 / 3]))


def test_the_words_of_a_caption_and_where_their_tokens_are():
    tokenizer = small_text_tokenizer()
    ids, words, spans = words_of("a  red bar xyz", tokenizer, 15)
    assert torch.equal(ids, tokenizer.encode(["a red bar xyz"]))
    assert words == ["a", "red", "bar", "xyz"]
    assert [tokenizer.decode(ids[0, first:stop]) for first, stop in spans] == words
    assert spans[-1][1] - spans[-1][0] > 1, "a word never seen is of several tokens"
    # More words than a picture shows, and more than the text has positions for.
    assert words_of("1 2 3 4", Words(4), 3)[1:] == (["1", "2", "3 4"], [(0, 1), (1, 2), (2, 4)])
    assert words_of("1 2 3 4 5 6", Words(4), 9)[1:] == (["1", "2", "3", "4"], [(0, 1), (1, 2), (2, 3), (3, 4)])


@pytest.mark.parametrize("order", ["text_first", "image_first"])
@pytest.mark.parametrize("style", [{}, {"layout": "dalle", "positions": "rotary"}], ids=["full", "dalle"])
def test_it_is_shown_at_each_validation_and_changes_nothing(order, style):
    def train(*callbacks, logger=False):
        torch.manual_seed(5)
        options = {"embed_dim": 16, "num_layers": 3, "num_heads": 2, "order": order, **style}
        component = Transformer(text_tokenizer=small_text_tokenizer(8), grid=(2, 2), codebook_size=9, **options)
        task = make_task("generator", component, steps=4)
        fit(task, *callbacks, codes=CODES, logger=logger, val_check_interval=2)
        return everything(task)

    samples = small_samples(3, 8)
    captions = [*(sample["caption"] for sample in samples[:2]), "a word " * 40]
    show = ShowAttention(torch.stack([sample["image"] for sample in samples]), CODES[:3], captions)
    logger = Rows()
    assert_equal(train(show, logger=logger), train())
    shown = [(row["at"], *row["picture"]) for row in logger.rows if "picture" in row]
    assert [(step, name) for step, name, _ in shown] == [(2, "attention"), (4, "attention")]
    picture = shown[-1][2]
    assert picture.shape[0] == 3
    assert picture.shape[1] > 3 * 2 * SIDE
    assert picture.min() >= 0
    assert picture.max() <= 1
    lit, marked = ((picture - torch.tensor(c)[:, None, None]).abs().amax(0) < 1 / 200 for c in (HEAT, MARK))
    place = (SIDE // 2) ** 2
    # The brightest place of every map: of three layers and of the words of each sample.
    assert lit.sum() >= place * 3 * (3 + 3) * 0.8
    assert bool(marked.any()) == (order == "text_first"), "a caption is written from the whole picture"


def test_who_cannot_tell_it_is_refused():
    check_attention(Transformer(text_tokenizer=small_text_tokenizer(), grid=(2, 2), codebook_size=9))
    with pytest.raises(ConfigError, match="SmallGenerator cannot show its attention") as caught:
        check_attention(SmallGenerator())
    assert (caught.value.code, caught.value.fix) == ("MMG-C36", "tracking.attention=false")
    with pytest.raises(ConfigError, match="tensor_parallel_size=2"):
        check_attention(Transformer(text_tokenizer=small_text_tokenizer(), grid=(2, 2), codebook_size=9), 2)
