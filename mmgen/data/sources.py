"""Batches made of slots: of pictures, augmented or not, of image tokens kept in memory, or of token shards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmgen.data.augment import AUGMENTATIONS, original
from mmgen.data.order import Slot, sample_key
from mmgen.data.pictures import Pictures
from mmgen.images import to_bytes
from mmgen.protocols import Batch, TokenDataset


class PictureSource(torch.utils.data.Dataset):
    """Makes a whole batch from its slots.

    Args:
        positions: the dataset positions that slots count in.
        codes: (M,N) image tokens by dataset position; batches then carry `image_tokens` and no `image`.
        augment: the augmentation of the pictures (see `mmgen.data.augment`), drawn from each sample's key.
    """

    def __init__(
        self,
        pictures: Pictures,
        positions: Sequence[int],
        seed: int,
        alternative_captions: float,
        codes: Tensor | None = None,
        augment: str = "none",
    ) -> None:
        self.pictures, self.positions, self.seed = pictures, positions, seed
        self.alternative_captions, self.codes, self.augment = alternative_captions, codes, augment

    def __len__(self) -> int:
        return len(self.positions)

    def __getitems__(self, slots: list[Slot]) -> Batch:
        positions = [self.positions[place] for place, _ in slots]
        ids = [self.pictures.ids[i] for i in positions]
        keys = [sample_key(self.seed, epoch, id) for id, (_, epoch) in zip(ids, slots, strict=True)]
        captions = [
            drawn_caption(self.pictures.captions[i], self.pictures.alternatives[i], key, self.alternative_captions)
            for i, key in zip(positions, keys, strict=True)
        ]
        batch: Batch = {"caption": captions, "id": ids, "key": keys}
        if getattr(slots, "text_only", False):
            return batch
        if self.codes is not None:
            batch["image_tokens"] = self.codes[positions].long()
        elif self.augment != "none":
            batch["image"] = self._augmented(positions, keys)
        else:
            batch["image"] = self.pictures.batch(positions)
        return batch

    def _augmented(self, positions: list[int], keys: list[int]) -> Tensor:
        augmented, size = AUGMENTATIONS[self.augment], self.pictures.shape[0]
        crops = [
            augmented(original(self.pictures.dataset, i), size, key) for i, key in zip(positions, keys, strict=True)
        ]
        return to_bytes(torch.stack(crops)).float().div_(255)


class TokenSource(torch.utils.data.Dataset):
    """Makes a whole batch from its slots, of token shards: the same captions, ids and keys as of the pictures.

    Args:
        positions: the positions that slots count in.
        ordinary: whether captions are segmented the ordinary way, so that the stored `text_tokens` can be handed on.
    """

    def __init__(
        self,
        tokens: TokenDataset,
        positions: Sequence[int],
        seed: int,
        alternative_captions: float,
        ordinary: bool = False,
    ) -> None:
        self.tokens, self.positions, self.seed = tokens, positions, seed
        self.alternative_captions, self.ordinary = alternative_captions, ordinary

    def __len__(self) -> int:
        return len(self.positions)

    def __getitems__(self, slots: list[Slot]) -> Batch:
        positions = [self.positions[place] for place, _ in slots]
        records = self.tokens.records(positions)
        ids = [record["id"] for record in records]
        keys = [sample_key(self.seed, epoch, id) for id, (_, epoch) in zip(ids, slots, strict=True)]
        captions = [
            drawn_caption(record["captions"][0], record["captions"], key, self.alternative_captions)
            for record, key in zip(records, keys, strict=True)
        ]
        batch: Batch = {"caption": captions, "id": ids, "key": keys}
        if self.ordinary and not self.alternative_captions:
            batch["text_tokens"] = self.tokens.text_tokens(positions)
        if not getattr(slots, "text_only", False):
            batch["image_tokens"] = self.tokens.image_tokens(positions, [epoch for _, epoch in slots])
        return batch


def drawn_caption(caption: str, captions: Sequence[str], key: int, alternative_captions: float) -> str:
    """The caption, or with the given probability one of the others, drawn from the sample's key."""
    others = [other for other in captions if other != caption]
    if not others or not alternative_captions:
        return caption
    # Two numbers out of the key's own stream, so that they say nothing about other uses of the key.
    share, which = (sample_key(key, number, "caption") for number in (0, 1))
    return others[which % len(others)] if share < alternative_captions * (1 << 63) else caption
