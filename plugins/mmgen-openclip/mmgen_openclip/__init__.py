"""Models of open_clip as the encoder `open_clip`, with its own code and weights.

Letters: B batch, T text positions, E features, H W pixels.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.protocols import Batch, Logs, TextTokenizer
from mmgen_openclip import models
from mmgen_openclip.text import OwnTextTokenizer, as_open_clip_reads

MAX_LOGIT_SCALE = math.log(100)  # CLIP, section 2.5
PIXELS = {
    "openai": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
    "symmetric": ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
}


class OpenClip(nn.Module):
    """A model of open_clip, with its code: to train from the start, to train further, or, with weights, to judge as it
    is (`mmgen evaluate encoder=open_clip encoder.model=FOLDER …`). The loss is CLIP's symmetric cross-entropy
    (arXiv 2103.00020, figure 3). Nothing is downloaded.

    Args:
        text_tokenizer: caption to ids; None: open_clip's own of the model, and the model's own size of pictures.
        image_size: H = W, set by the dataset; weights of another size have their positions interpolated.
        model: a name of open_clip's such as ViT-B-32, or the path of a hub's folder or of a config in JSON.
        pretrained: a local .safetensors file of weights; null: the folder's, or random ones.
        pixels: what pictures are normalised by; null: what the folder or JSON says, or openai's.

    Raises:
        ValueError: open_clip is not installed; it has no such model; the files do not fit it, or the text tokenizer
            does not fit the weights.
    """

    pretrained = True  # building it may give it weights; where they are needed, one without them is refused
    # Options without weights of their own, that weights trained with one value are wrong with another.
    fixed_options = ("model", "pixels")

    def __init__(
        self,
        *,
        text_tokenizer: TextTokenizer | None,
        image_size: int,
        model: str,
        pretrained: str | None = None,
        pixels: Literal["openai", "symmetric"] | None = None,
    ) -> None:
        super().__init__()
        source = models.find(model)
        weights = Path(pretrained) if pretrained is not None else source.weights
        if text_tokenizer is None:
            if weights is None:
                raise ValueError("without a training it needs weights: pretrained=FILE, or a model=FOLDER with weights")
            text_tokenizer, image_size = OwnTextTokenizer(source), _image_size(source, image_size)
        elif weights is not None:
            _same_text(text_tokenizer, source)
        self.text_tokenizer, self.image_size = text_tokenizer, image_size
        self.model = models.build(source, image_size, text_tokenizer.num_ids, text_tokenizer.context_length)
        if weights is not None:
            models.load(self.model, weights)
        if self.model.logit_bias is not None:
            self.model.logit_bias.requires_grad_(False)  # of another loss: the softmax does not see it
        mean, deviation = PIXELS[pixels] if pixels is not None else source.pixels or PIXELS["openai"]
        self._mean, self._deviation = mean, deviation

    @property
    def logit_scale(self) -> Tensor:
        """(), stored as a logarithm."""
        return self.model.logit_scale

    def encode_image(self, images: Tensor) -> Tensor:
        """(B,3,H,W) in [0,1] to image_features (B,E), of length one."""
        return F.normalize(self.model.encode_image(self._normalised(images)), dim=-1)

    def probe_features(self, images: Tensor) -> Tensor:
        """(B,3,H,W) in [0,1] to (B,F), what a linear probe reads (CLIP, appendix A.3), not of length one: of a vision
        transformer, and of a model of timm with a projection behind it, what is pooled before the projection; of a
        tower that has none of its own (a residual network, whose attention pool is its last layer; a model of timm
        that projects with its own head), its output."""
        visual, pixels = self.model.visual, self._normalised(images)
        if hasattr(visual, "trunk"):
            pooled = visual.trunk(pixels)
            return visual.head.pool(pooled) if hasattr(visual.head, "pool") else pooled
        projection = getattr(visual, "proj", None)
        if projection is None:
            return visual(pixels)
        visual.proj = None  # which open_clip's own code takes for "no projection"
        try:
            return visual(pixels)
        finally:
            visual.proj = projection

    def _normalised(self, images: Tensor) -> Tensor:
        mean, deviation = (images.new_tensor(values)[:, None, None] for values in (self._mean, self._deviation))
        return (images - mean) / deviation

    def encode_text(self, text_tokens: Tensor) -> Tensor:
        """(B,T) to text_features (B,E), of length one."""
        return F.normalize(self.model.encode_text(as_open_clip_reads(text_tokens, self.text_tokenizer)), dim=-1)

    def training_loss(self, batch: Batch, step: int) -> tuple[Tensor, Logs]:
        """The loss over the batch's pairs, of all processes when there are several; open_clip's own."""
        images = batch["image"]
        text_tokens = self.text_tokenizer.encode(batch["caption"], batch["key"] if self.training else None)
        image_features = self.encode_image(images)
        text_features = self.encode_text(text_tokens.to(images.device))
        if self.training:
            with torch.no_grad():  # in place: held in the loss alone it would have no gradient once it is past
                self.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        scale = self.logit_scale.clamp_max(MAX_LOGIT_SCALE).exp()
        loss = _loss()(image_features, text_features, scale)
        with torch.no_grad():
            own = torch.arange(len(images), device=images.device)
            right = ((image_features @ text_features.T).argmax(1) == own).float().mean()
        return loss, {"batch_accuracy": right, "logit_scale": scale.detach()}


def _loss() -> nn.Module:
    loss = models.package().ClipLoss
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return loss()
    # Each process answers for its own rows against everyone's, and gradients go back to whose rows they are: with the
    # mean over processes, which is what averaging gradients takes, that is the loss of one large batch.
    return loss(local_loss=True, gather_with_grad=True, rank=dist.get_rank(), world_size=dist.get_world_size())


def _image_size(source: models.Source, otherwise: int) -> int:
    size = source.config["vision_cfg"].get("image_size", otherwise)
    return max(size) if isinstance(size, list) else int(size)


def _same_text(text_tokenizer: TextTokenizer, source: models.Source) -> None:
    """Raises ValueError where the ids of a text tokenizer are not those of the weights."""
    text = source.config["text_cfg"]
    wanted = int(text.get("vocab_size", 49408)), int(text.get("context_length", 77))
    found = text_tokenizer.num_ids, text_tokenizer.context_length
    if found != wanted:
        vocabulary = Path(models.package().__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
        raise ValueError(
            f"the weights read {wanted[0]:,} ids of text at {wanted[1]} places, and the text tokenizer has "
            f"{found[0]:,} at {found[1]}: task.text_tokenizer.vocabulary={vocabulary} "
            f"task.text_tokenizer.context_length={wanted[1]}"
        )
