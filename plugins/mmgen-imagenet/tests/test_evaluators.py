"""FID-effnet-lite0 and KID-effnet-lite0: the mathematics against others', and what they find of known sets."""

import pytest
import scipy.linalg
import torch
from mmgen_imagenet import evaluators
from mmgen_imagenet.distances import PairedKernels, frechet, kernel
from mmgen_imagenet.evaluators import FIDEffnetLite0, KIDEffnetLite0
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_kernel, poly_mmd

import mmgen
from mmgen.protocols import Evidence, Setting
from mmgen.testing import check_evaluator, small_samples

KINDS = [FIDEffnetLite0, KIDEffnetLite0]


class Small(torch.nn.Module):
    """Stands in for the network where its features do not matter: sixteen pictures take it 0.5 s."""

    def features(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images, 5).flatten(1).repeat(1, 17)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(evaluators, "load_network", Small)


def sets(n: int, m: int, features: int = 12, shift: float = 0.3, dtype=torch.float64):
    source = torch.Generator().manual_seed(n + m)
    mix = torch.randn(features, features, generator=source, dtype=dtype)
    one = torch.randn(n, features, generator=source, dtype=dtype) @ mix
    return one, 0.8 * torch.randn(m, features, generator=source, dtype=dtype) @ mix.T + shift


def by_matrix_roots(one, other) -> float:
    """As the paper's authors compute it, with scipy's root of a matrix."""
    a, b = one.T.cov().numpy(), other.T.cov().numpy()
    root = scipy.linalg.sqrtm(a @ b)
    means = (one.mean(0) - other.mean(0)).square().sum().item()
    return means + a.trace() + b.trace() - 2 * root.real.trace()


@pytest.mark.parametrize(("n", "m"), [(40, 40), (200, 30), (13, 500)])
def test_the_frechet_distance_is_that_of_matrix_roots(n, m):
    one, other = sets(n, m)
    assert frechet(one, other) == pytest.approx(by_matrix_roots(one, other), rel=1e-9)


class Plain(torch.nn.Module):
    """Takes features for pictures of them."""

    num_features = 12

    def forward(self, images):
        return images[:, 0, 0].double() / 16 - 8


def test_the_frechet_distance_is_torchmetrics():
    """Over features that survive its bytes: multiples of 1/16."""
    one, other = ((8 + f.clamp(-7, 7)).mul(16).round().byte() for f in sets(60, 90))
    metric = FrechetInceptionDistance(feature=Plain(), normalize=False).set_dtype(torch.float64)
    for features, real in ((one, True), (other, False)):
        metric.update(features[:, None, None].expand(-1, 3, 12, -1), real=real)
    expected = float(metric.compute())
    assert expected > 1
    assert frechet(one.double() / 16 - 8, other.double() / 16 - 8) == pytest.approx(expected, rel=1e-6)


def test_the_frechet_distance_of_fewer_pictures_than_features():
    """Singular covariances: the eigenvalues of their product, in a space that holds all of them, say the same."""
    one, other = (f.float() for f in sets(20, 25, features=1280))
    a, b = one.double().T.cov(), other.double().T.cov()
    basis = torch.linalg.qr(torch.cat([one, other]).double().T).Q
    a, b = basis.T @ a @ basis, basis.T @ b @ basis
    values, vectors = torch.linalg.eigh(a)
    root = vectors @ values.clamp(min=0).sqrt().diag() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()
    means = (one.double().mean(0) - other.double().mean(0)).square().sum()
    assert frechet(one, other) == pytest.approx(float(means + a.trace() + b.trace() - 2 * shared), rel=1e-6)
    assert frechet(one, one) < 1e-8 * float(a.trace())
    assert frechet(one, one.flip(0)) < 1e-8 * float(a.trace())
    assert frechet(one, other) == pytest.approx(frechet(other, one), rel=1e-12)
    with pytest.raises(ValueError, match="two pictures"):
        frechet(one[:1], other)


def test_few_pictures_give_a_larger_frechet_distance():
    one, other = sets(4000, 4000, shift=0.0)
    whole = frechet(one, one[torch.randperm(4000, generator=torch.Generator().manual_seed(0))])
    few = frechet(one[:30], one[30:60])
    assert few > 1 > whole
    assert frechet(one[:30], other[:30]) > frechet(one, other)


def test_the_kernel_is_torchmetrics():
    one, other = sets(30, 40)
    torch.testing.assert_close(kernel(one, other), poly_kernel(one, other))


def test_the_discrepancy_is_torchmetrics_without_the_pairs():
    """poly_mmd takes the two sets for independent and counts number i beside number i; we leave these out."""
    one, other = sets(50, 50)
    n, across = 50, kernel(one, other)
    usual = float(poly_mmd(one, other))
    expected = usual + 2 * float(across.mean()) - 2 * float(across.sum() - across.trace()) / (n * (n - 1))
    assert PairedKernels(one, other).discrepancy() == pytest.approx(expected, rel=1e-10)
    some = torch.tensor([3, 1, 40, 7, 22])
    assert PairedKernels(one, other).discrepancy(some) == pytest.approx(
        PairedKernels(one[some], other[some]).discrepancy(), rel=1e-10
    )
    with pytest.raises(ValueError, match="50 pictures stand beside 40"):
        PairedKernels(one, other[:40])


def test_the_discrepancy_is_unbiased_where_pictures_belong_together_and_the_usual_one_is_not():
    """Each of the second set follows its partner, and both have one distribution: the truth is 0."""
    source = torch.Generator().manual_seed(0)
    ours, usual = [], []
    for _ in range(300):
        one, other = torch.randn(2, 20, 8, generator=source, dtype=torch.float64)
        other = 0.9 * one + (1 - 0.9**2) ** 0.5 * other
        ours.append(PairedKernels(one, other).discrepancy())
        usual.append(float(poly_mmd(one, other)))
    for found, biased in ((torch.tensor(ours), False), (torch.tensor(usual), True)):
        error = found.std() / len(found) ** 0.5
        assert bool(found.mean().abs() > 4 * error) == biased
    assert sum(usual) < 0


# ---- as evaluators


def judged(evaluator, made, count: int = 16, chunks=(slice(0, None),), seed: int = 1):
    samples = small_samples(count)
    images = torch.stack([sample["image"] for sample in samples])
    field = "drawings" if evaluator.needs.drawings else "reconstructions"
    evaluator.begin(Setting(split="val", seed=seed))
    for chunk in chunks:
        pictures = made(images)[chunk]
        shown = pictures[:, None] if field == "drawings" else pictures
        evaluator.update(Evidence(samples[chunk], images[chunk], **{field: shown}))
    return evaluator.compute()


def noisy(amount: float):
    def made(images):
        return (images + amount * torch.rand(images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)

    return made


@pytest.mark.parametrize("of", ["drawings", "reconstructions"])
@pytest.mark.parametrize("kind", KINDS)
def test_they_conform(kind, of, small):
    assert len(check_evaluator(kind(of=of, split="val"))) >= 8


@pytest.mark.parametrize(("kind", "of"), [(FIDEffnetLite0, "drawings"), (KIDEffnetLite0, "reconstructions")])
def test_equal_pictures_are_no_distance_apart_and_worse_ones_are_further(kind, of):
    evaluator = kind(of=of)
    same, near, far = (judged(evaluator, noisy(amount)).numbers[0] for amount in (0.0, 0.1, 0.8))
    assert same.name == f"{kind.title}/{of}"
    assert same.value == pytest.approx(0, abs=1e-6)
    assert 0.01 < near.value < far.value
    assert same.n == 16
    assert "true pictures of val" in same.note
    assert "not Inception" in same.note


def test_the_notes_say_how_many_and_what_few_do(small):
    fid = judged(FIDEffnetLite0(of="reconstructions"), noisy(0.1))
    value, halves = fid.numbers
    assert "n is below the 1,280 features" in value.note
    assert "compare at n=16 only" in value.note
    assert (halves.name, halves.n) == ("FID-effnet-lite0/true_halves", 8)
    assert halves.value > 0
    assert fid.depends_on == ("tokenizer", "dataset")
    kid = judged(KIDEffnetLite0(subsets=7), noisy(0.1))
    value, spread = kid.numbers
    assert "one drawing a caption" in value.note
    assert "7 subsets of 8" in value.note
    assert spread.name == "KID-effnet-lite0/drawings_spread"
    assert 0 < spread.value < value.value
    assert "encoder" not in kid.depends_on
    assert "encoder" in judged(KIDEffnetLite0(drawings=3), noisy(0.1)).depends_on


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_the_same_every_time_in_chunks_too(kind):
    whole = judged(kind(), noisy(0.3))
    again = judged(kind(), noisy(0.3))
    assert [n.value for n in whole.numbers] == [n.value for n in again.numbers]
    parts = judged(kind(), noisy(0.3), chunks=(slice(0, 5), slice(5, 16)))
    for one, other in zip(whole.numbers, parts.numbers, strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-4)


def test_an_id_may_be_the_name_of_any_file(small):
    evaluator = FIDEffnetLite0()
    samples = [{**sample, "id": f"\udcff{i}.png"} for i, sample in enumerate(small_samples(8))]
    images = torch.stack([sample["image"] for sample in samples])
    evaluator.begin(Setting(split="val"))
    evaluator.update(Evidence(samples, images, drawings=images[:, None]))
    assert evaluator.compute().numbers[1].n == 4


def test_the_subsets_follow_the_seed(small):
    values = [judged(KIDEffnetLite0(subsets=3), noisy(0.3), seed=seed).numbers[0].value for seed in (1, 1, 2)]
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize("kind", KINDS)
def test_too_few_pictures_step_aside(kind, small):
    found = judged(kind(), noisy(0.1), count=3)
    assert not found.numbers
    assert found.stood_aside == f"{kind.title} needs 4 pictures or more; there are 3"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"drawings": 0}, "drawings is 0; it must be ≥ 1"),
        ({"max_pictures": 3}, "max_pictures is 3; it must be ≥ 4"),
        ({"name": "kid_effnet_lite0", "subsets": 1}, "subsets is 1; it must be ≥ 2"),
        ({"of": "dreams"}, "drawings"),
    ],
)
def test_options_out_of_range(options, words):
    with pytest.raises(Exception, match=words):
        mmgen.build("evaluator", {"name": "fid_effnet_lite0", **options})


@pytest.mark.parametrize(("name", "kind"), [("fid_effnet_lite0", FIDEffnetLite0), ("kid_effnet_lite0", KIDEffnetLite0)])
def test_they_are_found_and_ask_for_what_they_compare(name, kind):
    drawn = mmgen.build("evaluator", {"name": name, "drawings": 2})
    assert isinstance(drawn, kind)
    assert (drawn.needs.drawings, drawn.needs.reconstructions) == (2, False)
    rebuilt = mmgen.build("evaluator", {"name": name, "of": "reconstructions"})
    assert (rebuilt.needs.drawings, rebuilt.needs.reconstructions) == (0, True)
