"""Small generators with weights that are not their initial ones, and what to feed them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mmgen.models.transformer import Transformer
from tests.models.reference import roughen
from tests.models.words import Words

LLAMA = {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": "none", "qk_norm": False}
SPARSE = {"layout": "dalle", "bias": "all"}


@dataclass(frozen=True)
class Size:
    """The sizes of a stream, and generators over it."""

    grid: tuple[int, int]
    text: int
    num_layers: int
    num_heads: int
    codes: int = 13

    @property
    def image(self) -> int:
        return self.grid[0] * self.grid[1]

    def make(self, **options) -> Transformer:
        torch.manual_seed(0)
        options = {"embed_dim": 32, "num_layers": self.num_layers, "num_heads": self.num_heads, **options}
        model = Transformer(text_tokenizer=Words(self.text), grid=self.grid, codebook_size=self.codes, **options)
        roughen(model)
        return model.eval()

    def tokens(self, count: int = 3, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        source = torch.Generator().manual_seed(seed)
        text = torch.randint(Words(self.text).num_ids, (count, self.text), generator=source)
        return text, torch.randint(self.codes, (count, self.image), generator=source)

    def angles_by_hand(self, order: str) -> list[list[float]]:
        """For every position of the stream, by how much each pair of a head of 16 turns."""
        speeds = [10000 ** (-i / 4) for i in range(4)]
        image_from = self.text if order == "text_first" else 0
        rows, columns = self.grid
        image = [(image_from + row, image_from + column) for row in range(rows) for column in range(columns)]
        text_from = 0 if order == "text_first" else max(self.grid)
        text = [(text_from + i, text_from + i) for i in range(self.text)]
        places = text + image if order == "text_first" else image + text
        return [[row * speed for speed in speeds] + [column * speed for speed in speeds] for row, column in places]


SMALL = Size(grid=(3, 4), text=4, num_layers=2, num_heads=4)
TALL = Size(grid=(5, 4), text=5, num_layers=4, num_heads=2)


def batch_of(captions: list[str], image: torch.Tensor | None = None) -> dict:
    batch = {"caption": captions, "id": [str(i) for i in range(len(captions))], "key": list(range(len(captions)))}
    return batch if image is None else {**batch, "image_tokens": image}
