"""`clip`: pictures and captions in one space (Radford et al. 2021, arXiv 2103.00020, section 2 and figure 3).

Letters: B batch, T text positions, P patches, D width, E features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.protocols import Batch, Logs, TextTokenizer

MAX_LOGIT_SCALE = math.log(100)  # section 2.5: clipped, so that no logit is scaled by more than 100


class EncoderBlock(nn.Module):
    """Pre-norm attention and MLP, causal or not.

    Args:
        width: D.
        num_heads: divides D.
        causal: whether a position sees only those before it (the text).
    """

    def __init__(self, width: int, num_heads: int, causal: bool) -> None:
        super().__init__()
        self.num_heads, self.causal = num_heads, causal
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], is_causal=self.causal)
        x = x + self.out(out.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


class Clip(nn.Module):
    """The contrastive encoder: a vision transformer and a text transformer, trained to tell matching pairs in a batch.

    Args:
        text_tokenizer: caption to ids; the text's feature is taken at the first pad, which ends the caption.
        image_size: H = W, set by the dataset.
        embed_dim: E, features shared by both sides.
        patch_size: pixels a side of a patch; divides the image size.
        width: D of both transformers.
        image_layers: blocks of the vision transformer.
        text_layers: blocks of the text transformer.
        num_heads: of both; divides D.

    Raises:
        ValueError: sizes that do not divide.
    """

    def __init__(
        self,
        *,
        text_tokenizer: TextTokenizer,
        image_size: int,
        embed_dim: int = 128,
        patch_size: int = 8,
        width: int = 192,
        image_layers: int = 4,
        text_layers: int = 2,
        num_heads: int = 4,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"patch_size={patch_size} does not divide image_size={image_size}")
        if width % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide width={width}")
        self.text_tokenizer, self.image_size = text_tokenizer, image_size
        patches = (image_size // patch_size) ** 2
        self.patch_embedding = nn.Conv2d(3, width, patch_size, stride=patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        self.patch_position = nn.Parameter(torch.randn(patches + 1, width) * 0.02)
        self.image_blocks = nn.ModuleList(EncoderBlock(width, num_heads, False) for _ in range(image_layers))
        self.image_norm_before, self.image_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.image_projection = nn.Linear(width, embed_dim, bias=False)
        self.text_embedding = nn.Embedding(text_tokenizer.num_ids, width)
        self.text_position = nn.Parameter(torch.randn(text_tokenizer.context_length, width) * 0.01)
        self.text_blocks = nn.ModuleList(EncoderBlock(width, num_heads, True) for _ in range(text_layers))
        self.text_norm = nn.LayerNorm(width)
        self.text_projection = nn.Linear(width, embed_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self._start(image_layers, text_layers)

    def _start(self, image_layers: int, text_layers: int) -> None:
        """The original's initialisation, by width and depth."""
        nn.init.normal_(self.text_embedding.weight, std=0.02)
        for blocks, layers in ((self.image_blocks, image_layers), (self.text_blocks, text_layers)):
            for block in blocks:
                assert isinstance(block, EncoderBlock)
                width = block.out.in_features
                nn.init.normal_(block.qkv.weight, std=width**-0.5)
                nn.init.normal_(block.out.weight, std=width**-0.5 * (2 * layers) ** -0.5)
                nn.init.normal_(block.up.weight, std=(2 * width) ** -0.5)
                nn.init.normal_(block.down.weight, std=width**-0.5 * (2 * layers) ** -0.5)
        for projection in (self.image_projection, self.text_projection):
            nn.init.normal_(projection.weight, std=projection.in_features**-0.5)

    def encode_image(self, images: Tensor) -> Tensor:
        """(B,3,H,W) in [0,1] to image_features (B,E), of length one."""
        x = self.patch_embedding(images * 2 - 1).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.patch_position
        x = self.image_norm_before(x)
        for block in self.image_blocks:
            x = block(x)
        return F.normalize(self.image_projection(self.image_norm(x[:, 0])), dim=-1)

    def encode_text(self, text_tokens: Tensor) -> Tensor:
        """(B,T) to text_features (B,E), of length one."""
        # Causal attention and pooling at the caption's end make the positions after it idle: they are cut off.
        words = (text_tokens < self.text_tokenizer.vocab_size).sum(1)
        end = words.clamp_max(text_tokens.shape[1] - 1)
        length = int(end.max()) + 1
        x = self.text_embedding(text_tokens[:, :length]) + self.text_position[:length]
        for block in self.text_blocks:
            x = block(x)
        pooled = self.text_norm(x[torch.arange(len(x), device=x.device), end])
        return F.normalize(self.text_projection(pooled), dim=-1)

    def training_loss(self, batch: Batch, step: int) -> tuple[Tensor, Logs]:
        """Symmetric cross-entropy over the batch's pairs (figure 3)."""
        images = batch["image"]
        text_tokens = self.text_tokenizer.encode(batch["caption"], batch["key"] if self.training else None)
        scale = self.logit_scale.clamp_max(MAX_LOGIT_SCALE).exp()
        logits = scale * self.encode_image(images) @ self.encode_text(text_tokens.to(images.device)).T
        truth = torch.arange(len(logits), device=logits.device)
        loss = (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2
        right = (logits.argmax(1) == truth).float().mean()
        return loss, {"batch_accuracy": right, "logit_scale": scale.detach()}
