"""Both tokenizers keep their contract, give every code they promise, and learn."""

import subprocess
import sys

import mmgen_quantizers
import pytest
import torch
from mmgen_quantizers import FSQ, LFQ

import mmgen
from mmgen.testing import check_tokenizer, small_batch

SMALL = {"image_size": 16, "width": 8, "blocks": 1, "channels": 12}
KINDS = {"fsq": (FSQ, {"levels": (4, 3, 3)}, 36), "lfq": (LFQ, {"codebook_size": 32}, 32)}


def make(name: str, **options):
    torch.manual_seed(0)
    kind, own, _ = KINDS[name]
    return kind(**{**SMALL, **own, **options})


@pytest.mark.parametrize("trunk", ["patches", "vqgan"])
@pytest.mark.parametrize("name", KINDS)
def test_they_conform(name, trunk):
    known = {}
    if (name, trunk) == ("fsq", "vqgan"):
        known["gradients_reach_every_parameter"] = "untrained, every feature of this trunk is rounded to the level zero"
    assert len(check_tokenizer(make(name, trunk=trunk, norm_groups=4), expected_failures=known)) >= 16


@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
def test_every_code_is_another_grid_and_leads_back_to_its_index(name):
    model, count = make(name).eval(), KINDS[name][2]
    assert model.codebook_size == count
    every = torch.arange(count)[:, None, None]
    codes = model.quantizer.indices_to_codes(every)
    assert codes.shape == (count, 12, 1, 1)
    assert len(torch.unique(codes.flatten(1), dim=0)) == count
    # Without the linear maps around it, the quantiser knows each of its own points.
    bare = type(model.quantizer)
    plain = (bare([4, 3, 3]) if name == "fsq" else bare(codebook_size=32)).eval()
    points = plain.indices_to_codes(every)
    again = plain.codes_to_indices(points.flatten(1)) if name == "fsq" else plain(points)[1]
    assert torch.equal(again.flatten().long(), every.flatten())


@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
def test_codes_stay_in_range_whatever_the_features(name):
    model = make(name).eval()
    for scale in (1e-3, 1.0, 1e3):
        model.encoder.patches.weight.mul_(scale)
        indices = model.encode(small_batch(16)["image"])
        assert indices.dtype == torch.int64
        assert 0 <= int(indices.min()) <= int(indices.max()) < model.codebook_size


@torch.no_grad()
def test_fsq_rounds_as_its_paper_says():
    """Section 3.1: round(floor(L/2)·tanh(z)) for an odd number of levels L; the index counts in mixed radix."""
    quantizer = make("fsq", levels=(5, 3, 7)).quantizer
    z = 2 * torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    levels = torch.tensor([5, 3, 7])
    rounded = (torch.tanh(z) * (levels - 1) * 1.001 / 2).round()
    index = ((rounded + levels // 2) * torch.tensor([1, 5, 15])).sum(1).long()
    codes = quantizer.quantize(z)
    torch.testing.assert_close(codes, rounded / (levels // 2))
    assert torch.equal(quantizer.codes_to_indices(codes).long(), index)
    assert len(index.unique()) > 40


@torch.no_grad()
def test_lfq_keeps_the_signs():
    quantizer = make("lfq").quantizer.eval()
    z = torch.randn(4, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    plain = type(quantizer)(codebook_size=32).eval()
    codes, indices, _ = plain(z)
    assert torch.equal(codes, torch.where(z > 0, 1.0, -1.0))
    bits = (z > 0).long() * torch.tensor([16, 8, 4, 2, 1])[:, None, None]
    assert torch.equal(indices.long(), bits.sum(1))


@pytest.mark.parametrize("name", KINDS)
def test_they_learn_eight_pictures(name):
    own = {"levels": (8, 5, 5, 5)} if name == "fsq" else {"codebook_size": 1024}
    model = make(name, **own).train()
    batch = small_batch(16, count=8)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    psnr = []
    for step in range(50):
        loss, logs = model.training_loss(batch, step)
        psnr.append(float(logs["psnr"]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert psnr[-1] > psnr[0] + 6


def test_the_entropies_of_lfq_are_logged_and_weighed():
    model = make("lfq", entropy_weight=0.5, diversity=2.0, commitment_weight=0.25).train()
    loss, logs = model.training_loss(small_batch(16), 0)
    wanted = logs["reconstruction"] + 0.25 * logs["commitment_loss"]
    wanted = wanted + 0.5 * (logs["sample_entropy"] - 2.0 * logs["batch_entropy"])
    assert float(loss.detach()) == pytest.approx(float(wanted), rel=1e-5)
    assert float(logs["batch_entropy"]) > 0.5


@pytest.mark.parametrize(("name", "codes"), [("fsq", 1000), ("lfq", 1024)])
def test_they_are_found_by_their_names(name, codes):
    with torch.device("meta"):
        model = mmgen.build("tokenizer", name, image_size=32)
    assert (model.codebook_size, model.grid) == (codes, (8, 8))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("fsq", {"levels": (8, 2)}, r"levels=\[8, 2\] must each be at least 3"),
        ("lfq", {"codebook_size": 1000}, "codebook_size=1000 is not a power of two"),
        ("lfq", {"downsample": 3}, "downsample=3 does not divide image_size=16"),
    ],
)
def test_impossible_options(name, options, words):
    with pytest.raises(ValueError, match=words):
        make(name, **options)


def test_listing_their_options_does_not_wait_for_the_library():
    code = "import sys, mmgen_quantizers; sys.exit('vector_quantize_pytorch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert mmgen_quantizers.FSQ.__doc__
