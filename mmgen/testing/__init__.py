"""The conformance kit for plugin authors: does my component keep its contract?

    from mmgen.testing import check_dataset

    def test_conforms():
        check_dataset(MyDataset())

Each function runs named checks over one instance and raises an AssertionError that names all those that failed.
"""

from mmgen.testing.checks import Nonconforming
from mmgen.testing.datasets import check_dataset
from mmgen.testing.encoders import check_encoder
from mmgen.testing.evaluators import check_evaluator
from mmgen.testing.generators import check_generator
from mmgen.testing.samplers import check_sampler
from mmgen.testing.stand_ins import SmallGenerator, small_batch, small_samples, small_text_tokenizer
from mmgen.testing.text_tokenizers import check_text_tokenizer
from mmgen.testing.tokenizers import check_tokenizer

__all__ = [
    "Nonconforming",
    "SmallGenerator",
    "check_dataset",
    "check_encoder",
    "check_evaluator",
    "check_generator",
    "check_sampler",
    "check_text_tokenizer",
    "check_tokenizer",
    "small_batch",
    "small_samples",
    "small_text_tokenizer",
]
