import math

import pytest
import torch

from mmgen.evaluators.reconstruction import Reconstruction, psnr
from mmgen.protocols import Evidence, Setting


def evidence(sample, images, reconstructions, indices):
    return Evidence([sample(image) for image in images], images, indices, reconstructions)


def judge(evaluator, setting, *chunks):
    evaluator.begin(setting)
    for chunk in chunks:
        evaluator.update(chunk)
    return evaluator.compute()


def test_psnr_of_a_known_error():
    grey = torch.full((3, 3, 8, 8), 0.5)
    others = grey + torch.tensor([0.1, 0.01, 0.0])[:, None, None, None]
    assert psnr(grey, others).tolist() == pytest.approx([20, 40, 100], abs=1e-3)


def test_the_mean_is_taken_over_pictures_not_over_pixels(sample, number):
    """20 dB and 40 dB make 30 dB; the pooled error would make 22.97 dB."""
    grey = torch.full((2, 3, 16, 16), 0.5)
    made = evidence(sample, grey, grey + torch.tensor([0.1, 0.01])[:, None, None, None], torch.zeros(2, 2, 2).long())
    found = number(judge(Reconstruction(baseline=False), Setting("val", codebook_size=4), made), "reconstruction/psnr")
    assert found.value == pytest.approx(30, abs=1e-3)
    assert (found.n, found.unit) == (2, "dB")
    assert "val" in found.note


def test_the_codebook_s_use(sample, number):
    """Of 8 codes, three are used, half, a quarter and a quarter of the time: exp(1.5 ln 2) = 2.83."""
    images = torch.rand(2, 3, 16, 16)
    chunks = [evidence(sample, images[:1], images[:1], torch.tensor([[[5, 5], [5, 7]]]))]
    chunks += [evidence(sample, images[1:], images[1:], torch.tensor([[[5, 2], [7, 2]]]))]
    findings = judge(Reconstruction(baseline=False), Setting("val", codebook_size=8), *chunks)
    usage, perplexity = (number(findings, f"reconstruction/codebook_{name}") for name in ("usage", "perplexity"))
    assert usage.value == 3 / 8
    # 3 of code 5, 2 of code 7, 2 of code 2, and one more 5: counts 4, 2, 2
    assert perplexity.value == pytest.approx(2**1.5)
    assert perplexity.note == "of 8 codes, over the judged pictures"


def test_the_codebook_s_use_is_counted_over_the_training_pictures_where_they_are_at_hand(sample, number):
    every = torch.rand(4, 3, 16, 16)
    codes = {0: 5, 1: 5, 2: 6, 3: 1}  # the last is judged, not trained on

    def encode(images):
        if len(images) == 1:  # the judged picture's second pass
            return torch.tensor([[[1]]])
        assert torch.equal(images, every[:3])
        return torch.tensor([codes[i] for i in range(len(images))]).view(-1, 1, 1)

    setting = Setting("val", codebook_size=100, all_images=every, train_positions=[0, 1, 2], encode_images=encode)
    made = evidence(sample, every[3:], every[3:], torch.tensor([[[1]]]))
    findings = judge(Reconstruction(baseline=False), setting, made)
    assert number(findings, "reconstruction/codebook_usage").value == 0.02
    perplexity = number(findings, "reconstruction/codebook_perplexity")
    assert perplexity.value == pytest.approx(3 / 2 ** (2 / 3))  # exp of the entropy of (2/3, 1/3)
    assert "over the training pictures" in perplexity.note
    assert "collapsed" in perplexity.note  # under 5 of 100


def test_how_many_codes_a_second_pass_keeps(sample, number):
    """Of four codes each, the first picture's reconstruction keeps three, the second's one: half of them."""
    images, made = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    indices = torch.tensor([[[1, 2], [3, 4]], [[5, 6], [7, 0]]])

    def encode(pictures):
        (place,) = [i for i in range(2) if torch.equal(pictures[0], made[i])]
        return torch.tensor([[[1, 2], [3, 0]], [[0, 6], [0, 7]]])[place : place + 1]

    setting = Setting("val", codebook_size=8, encode_images=encode)
    chunks = [evidence(sample, images[i : i + 1], made[i : i + 1], indices[i : i + 1]) for i in range(2)]
    found = number(judge(Reconstruction(baseline=False), setting, *chunks), "reconstruction/stable_codes")
    assert (found.value, found.n, found.unit) == (0.5, 2, "%")


def test_a_collapse_is_told_with_the_component_s_advice(sample, number):
    images, indices = torch.rand(1, 3, 16, 16), torch.zeros(1, 2, 2).long()
    setting = Setting("val", codebook_size=100, collapse_advice="raise tokenizer.balance_weight")
    findings = judge(Reconstruction(baseline=False), setting, evidence(sample, images, images, indices))
    assert number(findings, "reconstruction/codebook_usage").note.endswith("collapsed; raise tokenizer.balance_weight")


def test_ssim_is_torchmetrics_own_over_all_chunks(sample, number):
    from torchmetrics.image import StructuralSimilarityIndexMeasure

    torch.manual_seed(0)
    images = torch.rand(5, 3, 16, 16)
    others = (images + 0.2 * torch.randn_like(images)).clamp(0, 1)
    indices = torch.zeros(5, 2, 2).long()
    chunks = [
        evidence(sample, images[part], others[part], indices[part]) for part in (slice(0, 3), slice(3, 4), slice(4, 5))
    ]
    findings = judge(Reconstruction(baseline=False), Setting("val", codebook_size=1), *chunks)
    metric = StructuralSimilarityIndexMeasure(data_range=1.0)
    assert number(findings, "reconstruction/ssim").value == pytest.approx(metric(others, images).item(), abs=1e-5)
    perfect = judge(
        Reconstruction(baseline=False), Setting("val", codebook_size=1), evidence(sample, images, images, indices)
    )
    assert number(perfect, "reconstruction/ssim").value == pytest.approx(1)
    assert number(perfect, "reconstruction/psnr").value == 100


def test_k_means_is_fitted_on_the_training_pictures_alone(sample, number):
    """Trained on black and white with two codes, a picture of grey 0.6 becomes white: an error of 0.4, 7.96 dB."""
    every = torch.tensor([0.0, 1.0, 0.6])[:, None, None, None].expand(3, 3, 8, 8)
    setting = Setting("val", codebook_size=2, all_images=every, all_ids=["a", "b", "c"], train_positions=[0, 1])
    made = evidence(sample, every[2:], every[2:] + 0.1, torch.zeros(1, 2, 2).long())
    findings = judge(Reconstruction(), setting, made)
    assert number(findings, "reconstruction/kmeans_psnr").value == pytest.approx(-20 * math.log10(0.4), abs=1e-3)
    assert "+12.04 dB on k-means" in number(findings, "reconstruction/psnr").note


@pytest.mark.parametrize(
    ("grid", "trained"),
    [((3, 3), [0]), ((16, 16), [0]), ((2, 2), [])],
    ids=["uneven", "less than a pixel", "none trained"],
)
def test_where_there_can_be_no_k_means_the_rest_is_judged(sample, grid, trained):
    images = torch.rand(1, 3, 8, 8)
    setting = Setting("val", codebook_size=2, all_images=images, all_ids=["a"], train_positions=trained)
    findings = judge(Reconstruction(), setting, evidence(sample, images, images, torch.zeros(1, *grid).long()))
    assert [n.name for n in findings.numbers] == [
        f"reconstruction/{name}" for name in ("psnr", "ssim", "codebook_usage", "codebook_perplexity")
    ]


def test_the_grid_has_originals_above_reconstructions(sample):
    images, black = torch.ones(30, 3, 8, 8), torch.zeros(30, 3, 8, 8)
    findings = judge(
        Reconstruction(baseline=False),
        Setting("val", codebook_size=1),
        evidence(sample, images, black, torch.zeros(30, 1, 1).long()),
    )
    (picture,) = findings.pictures.values()
    assert picture.shape == (3, 2 + 2 * 10, 2 + 12 * 10)
    assert picture[:, 2:10].min() == 1
    assert picture[:, 12:20, 2:10].max() == 0


def test_a_second_begin_forgets(sample, number):
    images = torch.rand(2, 3, 8, 8)
    evaluator, setting = Reconstruction(baseline=False), Setting("val", codebook_size=1)
    made = evidence(sample, images, images, torch.zeros(2, 1, 1).long())
    judge(evaluator, setting, made)
    assert number(judge(evaluator, setting, made), "reconstruction/psnr").n == 2


def test_what_it_asks_for():
    assert Reconstruction().needs.reconstructions
    assert Reconstruction().needs.all_pictures
    assert not Reconstruction(baseline=False).needs.all_pictures
    assert Reconstruction(split="x", max_pictures=7).needs.split == "x"
    assert Reconstruction(max_pictures=7).needs.max_pictures == 7


def test_of_many_training_pictures_some_are_encoded_few_at_a_time(monkeypatch):
    from mmgen.evaluators import reconstruction

    monkeypatch.setattr(reconstruction, "MAX_ENCODED", 50)
    monkeypatch.setattr(reconstruction, "ENCODED_AT_ONCE", 16)
    asked = []

    def encode(images):
        asked.append(len(images))
        return torch.zeros(len(images), 2, 2, dtype=torch.long)

    images = torch.rand(80, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    evaluator = Reconstruction("val")
    evaluator.begin(Setting("val", all_images=images, train_positions=range(70), codebook_size=4, encode_images=encode))
    evaluator.update(Evidence([], images[70:], indices=encode(images[70:]), reconstructions=images[70:]))
    asked.clear()
    notes = {number.name: number.note for number in evaluator.compute().numbers}
    assert asked == [16, 16, 16, 2]
    assert "over 50 of the training pictures" in notes["reconstruction/codebook_usage"]
