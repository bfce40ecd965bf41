"""Small models of the packages that foreign weights come from, with random weights, saved as these save them."""

from __future__ import annotations

import contextlib
import copy
import io
from pathlib import Path
from typing import Any

import torch
import yaml
from dall_e.decoder import Decoder
from dall_e.encoder import Encoder
from dall_e.utils import map_pixels, unmap_pixels
from taming.modules.diffusionmodules.model import Decoder as VqganDecoder
from taming.modules.diffusionmodules.model import Encoder as VqganEncoder
from taming.modules.vqvae.quantize import GumbelQuantize, VectorQuantizer2
from torch import Tensor, nn
from torch.nn import functional as F


class Dvae:
    """OpenAI's, of package dall_e. The pictures it reads may have any size that is a multiple of 8."""

    def __init__(self, width: int = 16, codes: int = 50, first: int = 12, blocks: int = 1, seed: int = 0) -> None:
        torch.manual_seed(seed)
        sizes = {"n_hid": width, "vocab_size": codes, "n_blk_per_group": blocks}
        self.encoder, self.decoder, self.codes = Encoder(**sizes), Decoder(**sizes, n_init=first), codes
        for module in (self.encoder, self.decoder):  # its biases start at zero, and branches hardly count
            for name, tensor in module.state_dict().items():
                tensor.normal_(std=0.1) if name.endswith(".b") else tensor.mul_(2)
        with torch.no_grad():  # else one code is the likeliest everywhere
            logits = self.encoder(map_pixels(torch.rand(8, 3, 32, 32)))
            self.encoder.state_dict()["blocks.output.conv.b"].sub_(logits.mean((0, 2, 3)))

    def save(self, directory: Path, zipped: bool = True) -> list[str]:
        for name in ("encoder", "decoder"):
            path = directory / f"{name}.pkl"
            torch.save(getattr(self, name), path, _use_new_zipfile_serialization=zipped)
        return ["encoder.pkl", "decoder.pkl"]

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        return self.encoder(map_pixels(images)).argmax(1)

    @torch.no_grad()
    def decode(self, indices: Tensor) -> Tensor:
        weights = F.one_hot(indices, self.codes).permute(0, 3, 1, 2).float()
        return unmap_pixels(torch.sigmoid(self.decoder(weights)[:, :3]))


class Vqgan(nn.Module):
    """taming's VQModel and GumbelVQ, without Lightning: its own encoder, decoder and codebooks, named as there."""

    def __init__(self, gumbel: bool = False, attention: tuple[int, ...] = (8,), seed: int = 0, **changes: Any) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.params: dict[str, Any] = {
            "double_z": False,
            "z_channels": 16,
            "resolution": 32,
            "in_channels": 3,
            "out_ch": 3,
            "ch": 32,
            "ch_mult": [1, 2, 2],
            "num_res_blocks": 1,
            "attn_resolutions": list(attention),
            "dropout": 0.0,
            **changes,
        }
        dim = self.params["z_channels"]
        with contextlib.redirect_stdout(io.StringIO()):
            self.encoder, self.decoder = VqganEncoder(**self.params), VqganDecoder(**self.params)
        self.quantize = GumbelQuantize(dim, dim, 40) if gumbel else VectorQuantizer2(40, dim, beta=0.25)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(dim, dim, 1), nn.Conv2d(dim, dim, 1)
        self.loss = nn.ModuleDict({"discriminator": nn.Conv2d(3, 8, 4), "perceptual_loss": nn.Conv2d(3, 8, 3)})
        if gumbel:  # else few codes are the likeliest, or the nearest, anywhere
            nn.init.zeros_(self.quantize.proj.bias)
            nn.init.zeros_(self.quant_conv.bias)
        else:
            with torch.no_grad():
                side = 4 * 2 ** (len(self.params["ch_mult"]) - 1)
                features = self.quant_conv(self.encoder(torch.rand(4, 3, side, side) * 2 - 1))
                rows = features.permute(0, 2, 3, 1).reshape(-1, dim)
                self.quantize.embedding.weight.copy_(rows[torch.randperm(len(rows))[:40]])
        self.eval()

    def save(self, directory: Path, zipped: bool = True) -> list[str]:
        """As Lightning does, with what else stands in its checkpoints, and the YAML beside it."""
        trained = copy.deepcopy(self.encoder)
        optimizer = torch.optim.Adam(trained.parameters())
        trained(torch.rand(1, 3, 32, 32)).sum().backward()
        optimizer.step()
        checkpoint = {
            "epoch": 3,
            "global_step": 7,
            "pytorch-lightning_version": "1.0.8",
            "callbacks": {torch.optim.Adam: {"best_model_score": torch.tensor(1.0), "best_model_path": "x"}},
            "optimizer_states": [optimizer.state_dict()],
            "lr_schedulers": [],
            "state_dict": self.state_dict(),
        }
        torch.save(checkpoint, directory / "last.ckpt", _use_new_zipfile_serialization=zipped)
        params = {"embed_dim": self.params["z_channels"], "n_embed": 40, "ddconfig": self.params}
        model = {"base_learning_rate": 4.5e-6, "target": "taming.models.vqgan.VQModel", "params": params}
        (directory / "model.yaml").write_text(yaml.safe_dump({"model": model}))
        return ["last.ckpt", "model.yaml"]

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        features = self.quant_conv(self.encoder(images * 2 - 1))
        if isinstance(self.quantize, GumbelQuantize):  # it draws at random even in eval mode
            return self.quantize.proj(features).argmax(1)
        return self.quantize(features)[2][2].view(len(images), *features.shape[2:])

    @torch.no_grad()
    def decode(self, indices: Tensor) -> Tensor:
        shape = (*indices.shape, self.params["z_channels"])
        codes = self.quantize.get_codebook_entry(indices.flatten(), shape)
        return (self.decoder(self.post_quant_conv(codes)) / 2 + 0.5).clamp(0, 1)
