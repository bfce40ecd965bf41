"""Pictures of a generator's attention while it trains: what a place of the picture is drawn from, what a word is.

Letters: L layers, S positions read, T text positions, N = h·w image positions, H W pixels, W words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from mmgen.errors import ConfigError
from mmgen.images import labelled
from mmgen.protocols import TextTokenizer
from mmgen.stream import TokenStream

SIDE = 96  # of each picture on the sheet, in pixels
COLUMNS = 8  # of layers, and of words in a line, beside the picture
LINES = 2  # of words
HEAT, MARK = (1.0, 0.72, 0.1), (0.2, 0.9, 1.0)
NOTES = {
    "text_first": (
        "Layers: what the marked place is drawn from. %: the picture's share; the rest is the caption's.",
        "Words: which places are drawn from each of them. %: its share in all that the places read, over all layers.",
    ),
    "image_first": (
        "Layers: where the caption is read from. %: the picture's share; the rest is that of the words before.",
        "Words: where each of them is read from, over all layers. %: the picture's share.",
    ),
}
SCALE = "Each map is brightest where most is read in it. All are means over the heads."


def check_attention(component: Any, tensor_parallel_size: int = 1) -> None:
    """Raises ConfigError MMG-C36 where a generator does not tell its attention, or no process has all heads of it."""
    if tensor_parallel_size > 1:
        raise ConfigError(
            f"with tensor_parallel_size={tensor_parallel_size} no process can show the attention of all heads",
            code="MMG-C36",
            where="tracking.attention",
            fix="tracking.attention=false, or trainer.tensor_parallel_size=1",
        )
    if not callable(getattr(component, "attention_maps", None)):
        raise ConfigError(
            f"{type(component).__name__} cannot show its attention",
            code="MMG-C36",
            where="tracking.attention",
            why="it has no method attention_maps, which a generator may have (mmgen/protocols.py)",
            fix="tracking.attention=false",
        )


@dataclass(frozen=True)
class Look:
    """Where a generator looks in one picture.

    layers (L,N), words (W,N): maps over the places of the picture. layer_shares (L,), word_shares (W,): in [0,1].
    """

    layers: Tensor
    layer_shares: Tensor
    words: Tensor
    word_shares: Tensor


def look(maps: Tensor, stream: TokenStream, spans: Sequence[tuple[int, int]], place: int) -> Look:
    """What the maps of a stream say of its words and its picture.

    Args:
        maps: (L,S,S) with S = T+N-1, see `attention_maps` in `mmgen.protocols.Generator`.
        spans: for each word the text positions from one to before the other.
        place: the image position whose drawing the layers' maps are of, where the text comes first.
    """
    text, image = slice(stream.text_start, stream.text_start + stream.text_length), stream.image_start
    # Position p is predicted by the row before it. The last position is never read, and the first never predicted.
    maps = F.pad(maps, (0, 1, 1, 0))
    drawn, written = maps[:, image : image + stream.image_length], maps[:, text]
    if stream.order == "text_first":
        layers = drawn[:, place, image:]
        read = drawn[:, :, text].mean(0)  # (N,T)
        words = torch.stack([read[:, first:stop].sum(1) for first, stop in spans])
        return Look(layers, layers.sum(1), words, words.mean(1))
    read = written[:, :, : stream.image_length]  # (L,T,N)
    layers = torch.cat([read[:, first:stop] for first, stop in spans], 1).mean(1)
    words = torch.stack([read[:, first:stop].mean((0, 1)) for first, stop in spans])
    return Look(layers, layers.sum(1), words, words.sum(1))


def words_of(caption: str, text_tokenizer: TextTokenizer, most: int) -> tuple[Tensor, list[str], list[tuple[int, int]]]:
    """A caption's text tokens (1,T), its words and the text positions of each; beyond `most`, the last is the rest of
    the caption. A word that no token is left for is none."""
    words = caption.split()[: text_tokenizer.context_length]
    ids = text_tokenizer.encode([" ".join(words[: count + 1]) for count in range(len(words))])
    stops = [0, *(ids < text_tokenizer.vocab_size).sum(1).tolist()]
    fitting = sum(stop > before for before, stop in pairwise(stops))
    words, stops = words[:fitting], stops[: fitting + 1]
    if fitting > most:
        words, stops = [*words[: most - 1], " ".join(words[most - 1 :])], [*stops[:most], stops[-1]]
    return ids[-1:], words, list(pairwise(stops))


class ShowAttention(pl.Callback):
    """At each validation, where the averaged generator looks while the true tokens are before it, as a picture in the
    log.

    Args:
        images: (B,3,H,W) in [0,1], as the image tokenizer makes them of the tokens.
        image_tokens: (B,N).
        captions: one each.
    """

    def __init__(self, images: Tensor, image_tokens: Tensor, captions: Sequence[str]) -> None:
        self.images, self.image_tokens, self.captions = images, image_tokens, captions

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        logger: Any = trainer.logger
        if trainer.sanity_checking or logger is None:
            return
        rows = []
        for sample in zip(self.images, self.image_tokens, self.captions, strict=True):
            rows += _rows(module.averaged, *sample, module.device)
        notes = (*NOTES[module.averaged.stream.order], SCALE)
        logger.log_picture("attention", labelled(rows, notes=notes), trainer.global_step)


Row = tuple[str, list[tuple[str, Tensor | None]]]


def _rows(generator: Any, image: Tensor, image_tokens: Tensor, caption: str, device: Any) -> list[Row]:
    """One picture: itself and its layers in a row, its words in one or two."""
    stream: TokenStream = generator.stream
    text_tokens, words, spans = words_of(caption, generator.text_tokenizer, LINES * COLUMNS - 1)
    if stream.order == "text_first" and spans[-1][1] < stream.text_length:
        words, spans = [*words, "(padding)"], [*spans, (spans[-1][1], stream.text_length)]
    maps = generator.attention_maps(text_tokens.to(device), image_tokens[None].to(device))[0].float().cpu()
    place = _most_detailed(image, stream.grid)
    found = look(maps, stream, spans, place)
    picture = F.interpolate(image[None].cpu(), size=(SIDE, SIDE), mode="nearest-exact")[0]
    marked = place if stream.order == "text_first" else None

    def over(weights: Tensor, marked: int | None) -> Tensor:
        return _mark(_heat(picture, weights.view(stream.grid)), stream.grid, marked)

    shown = torch.linspace(0, len(found.layers) - 1, min(len(found.layers), COLUMNS)).round().long().tolist()
    layers = [(f"layer {i + 1}: {_share(found.layer_shares[i])}", over(found.layers[i], marked)) for i in shown]
    cells = [(f"{_share(s)} {w}", over(m, None)) for w, s, m in zip(words, found.word_shares, found.words, strict=True)]
    lines = [cells[first : first + COLUMNS] for first in range(0, len(cells), COLUMNS)]
    head: Row = (caption, [("", _mark(picture, stream.grid, marked)), *layers])
    return [head, *(("", [("", None), *line]) for line in lines)]


def _share(share: Tensor) -> str:
    return f"{float(share) * 100:.0f} %"


def _most_detailed(image: Tensor, grid: tuple[int, int]) -> int:
    """Of the lower half of the grid, for which there is something to read above, where the picture varies most."""
    mean, square = (F.adaptive_avg_pool2d(x, grid) for x in (image, image.square()))
    detail = (square - mean.square()).sum(0)
    above = grid[0] // 2
    return int(detail[above:].argmax()) + above * grid[1]


def _heat(picture: Tensor, weights: Tensor) -> Tensor:
    """Weights (h,w) as light over the dimmed picture (3,H,W), the largest the brightest."""
    dim = picture.mean(0, keepdim=True) * 0.3
    scaled = (weights / weights.max().clamp_min(1e-9))[None, None]
    light = F.interpolate(scaled, size=picture.shape[1:], mode="nearest-exact")[0]
    return dim + light * (torch.tensor(HEAT)[:, None, None] - dim)


def _mark(picture: Tensor, grid: tuple[int, int], place: int | None) -> Tensor:
    """The picture with a frame around a place of the grid."""
    if place is None:
        return picture
    (height, width), (row, column) = picture.shape[1:], divmod(place, grid[1])
    inside = torch.zeros(picture.shape[1:], dtype=torch.bool)
    inside[
        row * height // grid[0] : (row + 1) * height // grid[0],
        column * width // grid[1] : (column + 1) * width // grid[1],
    ] = True
    around = F.max_pool2d(inside[None].float(), 5, 1, 2)[0] > 0
    return torch.where(around & ~inside, torch.tensor(MARK)[:, None, None], picture)
