"""The augmentations of the DALL·E paper: which square of a picture a model sees, and at which scale.

Everything drawn is a function of the sample's key alone (see `Batch.key`), so that a resumed run, another number of
processes or a worker process changes nothing. Pictures are (3,H,W) in [0,1].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from mmgen.data.order import sample_key
from mmgen.protocols import Dataset

Augmentation = Literal["none", "dalle_tokenizer", "dalle_generator"]
NAMES: tuple[str, ...] = get_args(Augmentation)
MAX_ASPECT = 2  # of what a generator trains on (DALL·E, appendix on data collection): 1/2 to 2


def dalle_tokenizer(image: Tensor, size: int, key: int) -> Tensor:
    """Listing 1 of the paper: any largest square, scaled to between 9/8 and 12/8 of `size`, any `size`-pixel square of
    that, flipped every other time.

    Args:
        image: (3,H,W) in [0,1], at the picture's own size.
        size: pixels a side of the result.
        key: 63 bits.

    Returns:
        (3,size,size), rounded to 256 levels as the paper does.
    """
    side = min(image.shape[1:])
    top, left = (_drawn(key, number, 0, extent - side) for number, extent in enumerate(image.shape[1:]))
    square = image[:, top : top + side, left : left + side]
    crop = _crop(_scaled(square, size, key, round(9 / 8 * size), round(12 / 8 * size)), size, key)
    return crop.flip(2) if _drawn(key, 5, 0, 1) else crop


def dalle_generator(image: Tensor, size: int, key: int) -> Tensor:
    """Listing 2: the largest square near the middle (its offset lies in the middle quarter of what is possible), scaled
    to between 1 and 9/8 of `size`, any `size`-pixel square of that. Never flipped: a picture may hold text.

    Arguments and result as in `dalle_tokenizer`.
    """
    side = min(image.shape[1:])
    tops = [(3 * slack // 8, max(3 * slack // 8, 5 * slack // 8 - 1)) for slack in (n - side for n in image.shape[1:])]
    top, left = (_drawn(key, number, *limits) for number, limits in enumerate(tops))
    square = image[:, top : top + side, left : left + side]
    return _crop(_scaled(square, size, key, size, round(9 / 8 * size)), size, key)


AUGMENTATIONS: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    "dalle_tokenizer": dalle_tokenizer,
    "dalle_generator": dalle_generator,
}


def keeps(augment: str, image: Tensor) -> bool:
    """Whether a picture (3,H,W) is trained on: for `dalle_generator`, one at most twice as long as wide."""
    return augment != "dalle_generator" or max(image.shape[1:]) <= MAX_ASPECT * min(image.shape[1:])


def original(dataset: Dataset, index: int) -> Tensor:
    """The picture at its own size (3,H,W), or, of a dataset that has no `original`, the one it gives."""
    own = getattr(dataset, "original", None)
    return own(index) if own is not None else dataset[index]["image"]


def _drawn(key: int, number: int, low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included: the key's draw of that number."""
    return low + sample_key(key, number, "augment") % (high - low + 1)


def _scaled(square: Tensor, size: int, key: int, low: int, high: int) -> Tensor:
    """The square (3,S,S) at a side from `low` to `high` pixels, in 256 levels.

    As in the paper, a picture is not enlarged, unless it is no larger than `size`: then nothing could be cut out of it,
    and it is enlarged first.
    """
    side = square.shape[1]
    if side > size:
        low, high = min(side, low), min(side, high)
    wanted = _drawn(key, 2, low, high)
    if wanted <= side:
        scaled = area(square, wanted)
    else:
        scaled = F.interpolate(square[None], size=(wanted, wanted), mode="bicubic", align_corners=False)[0]
    return scaled.clamp(0, 1).mul(255).round().div(255)


def _crop(square: Tensor, size: int, key: int) -> Tensor:
    top, left = (_drawn(key, number, 0, square.shape[1] - size) for number in (3, 4))
    return square[:, top : top + size, left : left + size]


def area(square: Tensor, size: int) -> Tensor:
    """Shrinks a square (3,S,S) to (3,size,size): each new pixel is the mean over the area it covers, where a pixel that
    it covers in part counts in part (TensorFlow's AREA, which the paper uses)."""
    channels, side, _ = square.shape
    if size == side:
        return square
    indices, weights = _covered(side, size)
    # A bag of rows with a weight each: a row of the result.
    rows = F.embedding_bag(
        indices, square.permute(1, 2, 0).reshape(side, -1), per_sample_weights=weights, mode="sum"
    ).view(size, side, channels)
    columns = F.embedding_bag(indices, rows.transpose(0, 1).reshape(side, -1), per_sample_weights=weights, mode="sum")
    return columns.view(size, size, channels).permute(2, 1, 0).contiguous()


@lru_cache(maxsize=512)
def _covered(side: int, size: int) -> tuple[Tensor, Tensor]:
    """Of each of `size` new pixels, which of `side` old ones it covers (size,n) and by which share (size,n)."""
    edges = torch.arange(size + 1, dtype=torch.float64) * side / size
    first = edges[:-1].floor().long()
    count = int((edges[1:].ceil().long() - first).max())
    indices = first[:, None] + torch.arange(count)
    shares = torch.minimum(edges[1:, None], indices + 1.0) - torch.maximum(edges[:-1, None], indices.double())
    return indices.clamp(max=side - 1), (shares.clamp(min=0) * size / side).float()
