"""The contrastive encoder `example`: a small convolution for pictures, the mean of the words for captions.

Letters: B batch, T text positions, H W pixels, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.protocols import Batch, Logs, TextTokenizer


class Example(nn.Module):
    """Pictures and captions in one space, told apart within a batch (CLIP, Radford et al. 2021, figure 3).

    Args:
        width: channels of the convolution.
        embed_dim: D.
    """

    def __init__(
        self, *, text_tokenizer: TextTokenizer, image_size: int, width: int = 64, embed_dim: int = 64
    ) -> None:
        super().__init__()
        self.text_tokenizer, self.image_size = text_tokenizer, image_size
        self.image = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=4), nn.GELU(), nn.Conv2d(width, width, 3, padding=1), nn.GELU()
        )
        self.image_projection = nn.Linear(16 * width, embed_dim)
        self.words = nn.Embedding(text_tokenizer.num_ids, width)
        self.text_projection = nn.Linear(width, embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))  # stored as a logarithm

    def encode_image(self, images: Tensor) -> Tensor:
        places = F.adaptive_avg_pool2d(self.image(images * 2 - 1), 4).flatten(1)
        return F.normalize(self.image_projection(places), dim=-1)

    def encode_text(self, text_tokens: Tensor) -> Tensor:
        # Pads have ids of their own, so that an empty caption has features as well.
        return F.normalize(self.text_projection(self.words(text_tokens).mean(1)), dim=-1)

    def training_loss(self, batch: Batch, step: int) -> tuple[Tensor, Logs]:
        keys = batch["key"] if self.training else None
        text_tokens = self.text_tokenizer.encode(batch["caption"], keys).to(self.logit_scale.device)
        image_features, text_features = self.encode_image(batch["image"]), self.encode_text(text_tokens)
        if self.training:
            with torch.no_grad():  # in place: held in the loss alone it would have no gradient once it is past
                self.logit_scale.clamp_(max=4.6)
        logits = self.logit_scale.exp() * image_features @ text_features.T
        pairs = torch.arange(len(logits), device=logits.device)
        loss = (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2
        right = (logits.argmax(-1) == pairs).float().mean()
        return loss, {"accuracy": right.detach()}
