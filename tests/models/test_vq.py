"""The vector-quantised tokenizer: nearest codes, moving averages by the paper's formula, revival, straight through."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mmgen.models.codebooks import Codebook
from mmgen.models.vq import VQ
from mmgen.testing import check_tokenizer
from mmgen.testing.stand_ins import small_batch


def make(**options) -> VQ:
    torch.manual_seed(0)
    options = {"image_size": 16, "codebook_size": 40, "width": 8, "blocks": 1, **options}
    return VQ(**options)


@pytest.fixture
def batch():
    return small_batch(16, count=6)


@torch.no_grad()
def test_the_nearest_code_is_the_one_that_torch_finds():
    torch.manual_seed(0)
    codebook = Codebook(50, 7, 0.9, 0.0)
    features = torch.randn(300, 7)
    expected = torch.cdist(features.double(), codebook.codes.double()).argmin(1)
    assert torch.equal(codebook.nearest(features), expected)
    assert len(expected.unique()) > 20


@torch.no_grad()
def test_the_codebook_follows_by_the_paper_s_moving_averages():
    """Equations 6 to 8 of appendix A.1: N := γN + (1-γ)n, m := γm + (1-γ)Σz, e := m / N."""
    torch.manual_seed(0)
    size, dim, decay = 5, 3, 0.8
    codebook = Codebook(size, dim, decay, revive_below=0.0)
    codebook.started.fill_(True)
    counts, sums = codebook.counts.double(), codebook.sums.double()
    for _ in range(3):
        features = torch.randn(20, dim)
        indices = codebook.nearest(features)
        codebook.follow(features, indices)
        for k in range(size):
            mine = features[indices == k].double()
            counts[k] = decay * counts[k] + (1 - decay) * len(mine)
            sums[k] = decay * sums[k] + (1 - decay) * mine.sum(0)
        torch.testing.assert_close(codebook.counts.double(), counts, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(codebook.codes.double(), sums / counts[:, None], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(codebook.counts, torch.ones(size))


@torch.no_grad()
def test_a_code_that_is_never_the_nearest_is_put_back_to_work():
    torch.manual_seed(0)
    codebook = Codebook(6, 3, 0.5, revive_below=0.1)
    codebook.started.fill_(True)
    far = torch.tensor([2, 5])
    codebook.codes[far] = codebook.sums[far] = 100.0
    features = torch.randn(64, 3)
    used = []
    for _ in range(12):
        indices = codebook.nearest(features)
        used.append(len(indices.unique()))
        codebook.follow(features, indices)
    assert used[0] <= 4
    assert used[-1] == 6
    assert codebook.codes.abs().max() < 5


@torch.no_grad()
def test_a_code_in_use_is_left_where_it_is():
    torch.manual_seed(0)
    codebook = Codebook(4, 3, 0.5, revive_below=0.1)
    codebook.started.fill_(True)
    features = codebook.codes.repeat_interleave(8, 0)
    before = codebook.codes.clone()
    for _ in range(5):
        codebook.follow(features, codebook.nearest(features))
    torch.testing.assert_close(codebook.codes, before, atol=0.05, rtol=0.05)


@torch.no_grad()
def test_the_first_batch_places_every_code_on_a_feature():
    torch.manual_seed(0)
    codebook = Codebook(30, 4, 0.99, 0.01)
    features = 10 + torch.randn(500, 4)
    codebook.follow(features, codebook.nearest(features))
    assert bool(codebook.started)
    distance = torch.cdist(codebook.codes, features).amin(1)
    assert float(distance.max()) < 0.5
    assert len(codebook.nearest(features).unique()) == 30


@torch.no_grad()
def test_before_any_training_it_is_k_means_on_patches():
    """The patch maps are an isometry and its inverse: what is lost is lost to the codebook alone."""
    images = F.interpolate(torch.rand(24, 3, 6, 6, generator=torch.Generator().manual_seed(0)), 16, mode="bilinear")
    model = make().train()
    torch.testing.assert_close(model.decoder(model.encoder(images * 2 - 1)), images * 2 - 1, atol=1e-4, rtol=1e-4)
    model.training_loss({"image": images, "caption": [], "id": [], "key": []}, 0)
    rebuilt = model.eval().decode(model.encode(images))
    error = float((rebuilt - images).square().mean())
    assert error < 0.7 * float((images - images.mean((0, 2, 3), keepdim=True)).square().mean())
    # What as many centres taken from the patches themselves leave over.
    patches = F.unfold(images, 4, stride=4).transpose(1, 2).reshape(-1, 48)
    centres = patches[torch.randperm(len(patches), generator=torch.Generator().manual_seed(0))[:40]]
    left_over = (centres[torch.cdist(patches, centres).argmin(1)] - patches).square().mean()
    assert error < 1.2 * float(left_over)


def test_the_gradient_goes_straight_through(batch):
    """At the encoder's output: the decoder's gradient at the codes, and that of the commitment."""
    model = make(commitment_weight=0.7).eval()
    images = batch["image"] * 2 - 1
    kept = []

    def keep(module, inputs, output):
        output.retain_grad()
        kept.append(output)

    hook = model.encoder.register_forward_hook(keep)
    loss, _ = model.training_loss(batch, 0)
    loss.backward()
    hook.remove()
    with torch.no_grad():
        features = model.encoder(images)
        codes = F.embedding(model.encode(batch["image"]), model.codebook.codes).permute(0, 3, 1, 2)
    codes.requires_grad_(True)
    error = (model.decoder(codes) - images).square().mean()
    commitment = (features - codes.detach()).square().mean()
    (through,) = torch.autograd.grad(error, codes)
    expected = through + 0.7 * 2 * (features - codes.detach()) / features.numel()
    torch.testing.assert_close(kept[0].grad, expected, atol=1e-7, rtol=1e-4)
    assert float(loss.detach()) == pytest.approx(float(error.detach()) + 0.7 * float(commitment), rel=1e-5)


def test_no_gradient_reaches_the_codebook(batch):
    model = make().train()
    assert [name for name, _ in model.named_parameters() if name.startswith("codebook")] == []
    model.training_loss(batch, 0)[0].backward()
    assert all(p.grad is not None for p in model.parameters())


@torch.no_grad()
def test_nothing_moves_in_eval_mode(batch):
    model = make()
    model.train().training_loss(batch, 0)
    model.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    losses = [model.training_loss(batch, step)[0] for step in (0, 700)]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@torch.no_grad()
def test_use_of_the_codebook_is_logged(batch):
    model = make().train()
    model.training_loss(batch, 0)
    logs = model.eval().training_loss(batch, 0)[1]
    indices = model.encode(batch["image"]).flatten()
    shares = torch.bincount(indices, minlength=40).double() / len(indices)
    perplexity = torch.distributions.Categorical(probs=shares).entropy().exp()
    assert float(logs["codebook_usage"]) == pytest.approx(len(indices.unique()) / 40)
    assert float(logs["codebook_perplexity"]) == pytest.approx(float(perplexity), rel=1e-4)


def test_it_learns_eight_pictures():
    model = make(codebook_size=16).train()
    batch = small_batch(16, count=8)
    with torch.no_grad():
        model.training_loss(batch, 0)
        start = float(model.eval().training_loss(batch, 0)[1]["psnr"])
    optimizer = torch.optim.Adam(model.train().parameters(), lr=5e-3)
    for step in range(100):
        loss, _ = model.training_loss(batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert float(model.eval().training_loss(batch, 0)[1]["psnr"]) > max(30.0, start + 3)


def test_it_conforms(batch):
    model = make().train()
    model.training_loss(batch, 0)
    assert len(check_tokenizer(model)) >= 3


@torch.no_grad()
def test_its_weights_and_codes_travel_in_a_state_dict(batch):
    one = make().train()
    one.training_loss(batch, 0)
    other = make(codebook_decay=0.5).train()
    other.training_loss(small_batch(16, count=2), 0)
    one.eval(), other.eval()
    indices = one.encode(batch["image"])
    assert not torch.equal(one.decode(indices), other.decode(indices))
    other.load_state_dict(one.state_dict())
    assert torch.equal(indices, other.encode(batch["image"]))
    assert torch.equal(one.decode(indices), other.decode(indices))
    assert bool(other.codebook.started)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"downsample": 3}, "downsample=3"), ({"downsample": 32}, "downsample=32 does not divide image_size=16")],
)
def test_sizes_that_do_not_divide_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        make(**options)
