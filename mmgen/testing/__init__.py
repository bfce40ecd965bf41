"""The conformance kit for plugin authors: does my component keep its contract?

    from mmgen.testing import conformance
    from mmgen_squares import Squares

    test_conforms = conformance("dataset", Squares)

makes a test of pytest of every named check of the kind. `check_dataset(instance)` and its like run them all over one
instance, and raise an AssertionError that names those that failed. A failure that is known is declared with its reason,
strictly: `expected_failures={"it_ends": "a stream has no end"}`.
"""

from mmgen.testing.checks import Nonconforming
from mmgen.testing.datasets import check_dataset
from mmgen.testing.encoders import check_encoder
from mmgen.testing.evaluators import check_evaluator
from mmgen.testing.generators import check_generator
from mmgen.testing.kits import conformance
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
    "conformance",
    "small_batch",
    "small_samples",
    "small_text_tokenizer",
]
