"""The loss of a generator on the token stream (DALL·E, section 2.2), with what training does to captions and tokens.

Letters: B batch, T text positions, N image positions, S positions read at once, V ids.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.protocols import Batch, Logs, TextTokenizer
from mmgen.stream import TokenStream


class StreamLoss(nn.Module):
    """What a generator inherits for `training_loss`. It has these attributes, the logits of `mmgen.protocols.Generator`
    (or Captioner), and those of text alone.

    Attributes:
        stream, text_tokenizer: what is read, and what captions become.
        text_head: what gives logits of text; its `weight` lies where the generator computes.
        text_weight: of the text loss; the image loss weighs 1 - text_weight.
        caption_dropout: share of the training pictures whose caption is emptied, for guidance.
        token_noise: mean share of the image tokens read in training that come from elsewhere in the batch.
    """

    stream: TokenStream
    text_tokenizer: TextTokenizer
    text_head: Any
    text_weight: float
    caption_dropout: float
    token_noise: float

    def forward_text(self, text_tokens: Tensor) -> Tensor:
        """Text alone (B,T): text_logits (B,T-1,V), of the text tokens 1..."""
        raise NotImplementedError

    def training_loss(self, batch: Batch, step: int) -> tuple[Tensor, Logs]:
        """Cross-entropy, text and image each averaged over their own tokens, then weighed (the paper: 1/8 and 7/8).

        A batch without image tokens trains language alone, with the text loss and nothing else.
        """
        image_tokens = batch.get("image_tokens")
        text_tokens = self._encode(batch, keeping=image_tokens is None or self.stream.order == "image_first")
        if image_tokens is None:
            text_loss = _surprise(self.forward_text(text_tokens), text_tokens[:, 1:])
            return text_loss, {"text_loss": text_loss.detach()}
        text_logits, image_logits = self(text_tokens, self._with_noise(image_tokens))
        text_loss = _surprise(text_logits, text_tokens[:, -text_logits.shape[1] :])
        image_loss = _surprise(image_logits, image_tokens[:, -image_logits.shape[1] :])
        loss = self.text_weight * text_loss + (1 - self.text_weight) * image_loss
        return loss, {"text_loss": text_loss.detach(), "image_loss": image_loss.detach()}

    def _encode(self, batch: Batch, keeping: bool) -> Tensor:
        """The captions' ids (B,T), known already or not; in training, unless `keeping` them, a share is emptied."""
        if "text_tokens" in batch and (keeping or not self.training or not self.caption_dropout):
            return batch["text_tokens"].to(self._device)
        captions = [
            "" if self.training and not keeping and _share(key) < self.caption_dropout else caption
            for caption, key in zip(batch["caption"], batch["key"], strict=True)
        ]
        text_tokens = self.text_tokenizer.encode(captions, batch["key"] if self.training else None)
        return text_tokens.to(self._device)

    @property
    def _device(self) -> torch.device:
        device: torch.device = self.text_head.weight.device
        return device

    def _with_noise(self, image_tokens: Tensor) -> Tensor:
        """(B,N) as the model reads it: in training, a share of each picture's tokens, between none and twice
        `token_noise`, comes from elsewhere in the batch, so that frequent codes stay frequent."""
        if not self.training or not self.token_noise:
            return image_tokens
        device = image_tokens.device
        others = image_tokens.flatten()[torch.randperm(image_tokens.numel(), device=device)].view_as(image_tokens)
        share = 2 * self.token_noise * torch.rand(len(image_tokens), 1, device=device)
        return torch.where(torch.rand(image_tokens.shape, device=device) < share, others, image_tokens)


def _share(key: int) -> float:
    """A number in [0,1) from the sample's key, other than what BPE dropout draws from it."""
    return (key * 0x9E3779B97F4A7C15 % 2**64) / 2**64


def _surprise(logits: Tensor, tokens: Tensor) -> Tensor:
    """Cross-entropy of logits (B,S,V) for tokens (B,S), in nats a token."""
    return F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten())
