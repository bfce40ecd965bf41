"""Drawing and classifying on a GPU: what goes in and comes out is on the CPU, and the numbers are the CPU's."""

from __future__ import annotations

import copy

import pytest
import torch

from mmgen.data.text import BpeTextTokenizer
from mmgen.devices import device_of
from mmgen.drawings import Redrawing
from mmgen.models.clip import Clip
from mmgen.models.transformer import Transformer
from mmgen.models.vq import VQ
from mmgen.samplers.region import Region
from mmgen.text_to_image import TextToImage

pytestmark = pytest.mark.gpu

CAPTIONS = ["a red circle", "a blue square", "two green hearts"]


@pytest.fixture(scope="module")
def parts():
    """Untrained, and large enough that their answers differ."""
    torch.manual_seed(0)
    text = BpeTextTokenizer.train(CAPTIONS * 20, vocab_size=300, context_length=12)
    tokenizer = VQ(image_size=32, codebook_size=64).eval()
    return {
        "tokenizer": tokenizer,
        "generator": Transformer(text_tokenizer=text, grid=tokenizer.grid, codebook_size=64, embed_dim=64).eval(),
        "encoder": Clip(text_tokenizer=text, image_size=32, width=64, image_layers=2, text_layers=2).eval(),
    }


@pytest.fixture(scope="module")
def pair(parts):
    """The same parts on the CPU and on the GPU."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return [TextToImage(**copy.deepcopy(parts), device=device) for device in ("cpu", "cuda")]


def pictures(count: int = 5) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_auto_is_the_gpu():
    assert device_of("auto").type == "cuda"


def test_features_and_shares_are_the_cpus(pair):
    cpu, gpu = pair
    for make in (lambda m: m.encode_images(pictures()), lambda m: m.encode_captions(CAPTIONS)):
        assert make(gpu).device.type == "cpu"
        torch.testing.assert_close(make(gpu), make(cpu), atol=1e-4, rtol=1e-4)
    shares = [m.classify(pictures()[0], CAPTIONS, ["{}", "a picture of {}"], cut=True) for m in pair]
    assert shares[0] == pytest.approx(shares[1], abs=1e-3)


def test_reconstructions_are_the_cpus(pair):
    (codes, images), (codes_gpu, images_gpu) = (m.reconstruct(pictures()) for m in pair)
    assert images_gpu.device.type == codes_gpu.device.type == "cpu"
    assert (codes == codes_gpu).float().mean() > 0.99  # two codes can be equally near but for the last bits
    same = (codes == codes_gpu).flatten(1).all(1)
    torch.testing.assert_close(images_gpu[same], images[same], atol=1e-4, rtol=1e-4)


def test_drawings_and_redrawings_come_back_to_the_cpu(pair):
    model = pair[1]
    drawn = model.draw(CAPTIONS, num_images=3, keep=2, seed=1, cut=True)
    again = model.draw(CAPTIONS[:1], num_images=5, keep=5, seed=1, cut=True)
    assert all(d.images.device.type == d.image_tokens.device.type == "cpu" for d in drawn)
    numbers = again[0].numbers.tolist()
    for tokens, number in zip(drawn[0].image_tokens, drawn[0].numbers.tolist(), strict=True):
        assert torch.equal(tokens, again[0].image_tokens[numbers.index(number)])
    region = Region.corner(model.part("tokenizer").grid, 4, 0, unit="codes")
    kept = model.draw(CAPTIONS[:1], num_images=2, seed=1, cut=True, redrawing=Redrawing(pictures(1), region))
    codes = model.reconstruct(pictures(1))[0].flatten(1)
    assert torch.equal(kept[0].image_tokens[:, region.kept], codes.expand(2, -1)[:, region.kept])
