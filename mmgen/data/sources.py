"""Batches made of slots: of pictures, augmented or not, of image tokens kept in memory, or of token shards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmgen.data.augment import AUGMENTATIONS, original
from mmgen.data.noise import CaptionNoise, Captions
from mmgen.data.order import Slot, sample_key
from mmgen.data.pictures import Pictures
from mmgen.images import to_bytes
from mmgen.protocols import Batch, Record, TokenDataset


class PictureSource(torch.utils.data.Dataset):
    """Makes a whole batch from its slots.

    Args:
        positions: the dataset positions that slots count in.
        codes: (M,N) image tokens by dataset position; batches then carry `image_tokens` and no `image`.
        augment: the augmentation of the pictures (see `mmgen.data.augment`), drawn from each sample's key.
        noise: spoils captions, with those of other `positions`.
    """

    def __init__(
        self,
        pictures: Pictures,
        positions: Sequence[int],
        seed: int,
        alternative_captions: float,
        codes: Tensor | None = None,
        augment: str = "none",
        noise: CaptionNoise | None = None,
    ) -> None:
        self.pictures, self.positions, self.seed, self.noise = pictures, positions, seed, noise
        self.alternative_captions, self.codes, self.augment = alternative_captions, codes, augment

    def __len__(self) -> int:
        return len(self.positions)

    def __getitems__(self, slots: list[Slot]) -> Batch:
        positions = [self.positions[place] for place, _ in slots]
        ids = [self.pictures.ids[i] for i in positions]
        keys = [sample_key(self.seed, epoch, id) for id, (_, epoch) in zip(ids, slots, strict=True)]
        captions = [
            drawn_caption(self._captions(i), key, self.alternative_captions)
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

    def _captions(self, position: int) -> Captions:
        own = self._own_captions(position)
        if self.noise is None:
            return own
        return self.noise(
            self.pictures.ids[position], own, lambda i: self._own_captions(self.positions[i]), len(self.positions)
        )

    def _own_captions(self, position: int) -> Captions:
        return [self.pictures.captions[position], *self.pictures.alternatives[position]]

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
        noise: spoils captions, with those of other `positions`.
    """

    def __init__(
        self,
        tokens: TokenDataset,
        positions: Sequence[int],
        seed: int,
        alternative_captions: float,
        ordinary: bool = False,
        noise: CaptionNoise | None = None,
    ) -> None:
        self.tokens, self.positions, self.seed, self.noise = tokens, positions, seed, noise
        self.alternative_captions, self.ordinary = alternative_captions, ordinary

    def __len__(self) -> int:
        return len(self.positions)

    def __getitems__(self, slots: list[Slot]) -> Batch:
        positions = [self.positions[place] for place, _ in slots]
        records = self.tokens.records(positions)
        ids = [record["id"] for record in records]
        keys = [sample_key(self.seed, epoch, id) for id, (_, epoch) in zip(ids, slots, strict=True)]
        captions = [
            drawn_caption(self._captions(record), key, self.alternative_captions)
            for record, key in zip(records, keys, strict=True)
        ]
        batch: Batch = {"caption": captions, "id": ids, "key": keys}
        if self.ordinary and not self.alternative_captions and self.noise is None:
            batch["text_tokens"] = self.tokens.text_tokens(positions)
        if not getattr(slots, "text_only", False):
            batch["image_tokens"] = self.tokens.image_tokens(positions, [epoch for _, epoch in slots])
        return batch


    def _captions(self, record: Record) -> Captions:
        if self.noise is None:
            return record["captions"]

        def others(i: int) -> Captions:
            return self.tokens.records([self.positions[i]])[0]["captions"]

        return self.noise(record["id"], record["captions"], others, len(self.positions))


def drawn_caption(captions: Captions, key: int, alternative_captions: float) -> str:
    """The first caption, or with the given probability one of the others, drawn from the sample's key."""
    caption = captions[0]
    others = [other for other in captions if other != caption]
    if not others or not alternative_captions:
        return caption
    # Two numbers out of the key's own stream, so that they say nothing about other uses of the key.
    share, which = (sample_key(key, number, "caption") for number in (0, 1))
    return others[which % len(others)] if share < alternative_captions * (1 << 63) else caption
