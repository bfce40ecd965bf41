"""`example` keeps the contract of an evaluator, and its number is right."""

import pytest
import torch
from mmgen_example import Example

from mmgen.protocols import Evidence, Setting
from mmgen.testing import conformance, small_samples

test_conforms = conformance("evaluator", Example)


def test_ten_levels_off_are_ten_levels():
    samples = small_samples(8)
    images = torch.stack([sample["image"] for sample in samples]).clamp(0.1, 0.9)
    evaluator = Example()
    evaluator.begin(Setting(split="val"))
    for rows in (slice(0, 3), slice(3, 8)):
        evaluator.update(Evidence(samples[rows], images[rows], reconstructions=images[rows] + 10 / 255))
    (number,) = evaluator.compute().numbers
    assert number.value == pytest.approx(10, abs=1e-3)
    assert number.n == 8
