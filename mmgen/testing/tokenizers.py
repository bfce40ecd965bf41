"""Checks of an image tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mmgen.protocols import Tokenizer
from mmgen.testing.checks import Prepared, require, require_tensor, require_unchanged, run
from mmgen.testing.stand_ins import small_batch
from mmgen.testing.trainables import TRAINABLE_CHECKS, Subject


def its_sizes_are_whole_numbers(subject: Subject) -> None:
    tokenizer = subject.component
    require(isinstance(tokenizer.image_size, int), f"image_size is {tokenizer.image_size!r}")
    require(isinstance(tokenizer.codebook_size, int) and tokenizer.codebook_size > 1, "codebook_size is below 2")
    grid = tokenizer.grid
    require(
        isinstance(grid, tuple) and len(grid) == 2 and all(isinstance(n, int) and n > 0 for n in grid),
        f"grid is {grid}",
    )


def encode_gives_indices(subject: Subject) -> None:
    tokenizer, images = subject.stirred(), subject.batch["image"]
    indices = require_tensor(tokenizer.encode(images), (len(images), *tokenizer.grid), "encode's result", integral=True)
    inside = bool((indices >= 0).all() and (indices < tokenizer.codebook_size).all())
    require(inside, f"encode gives indices from {int(indices.min())} to {int(indices.max())}")


def encode_takes_pictures_one_by_one(subject: Subject) -> None:
    tokenizer, images = subject.stirred(), subject.batch["image"]
    together = tokenizer.encode(images)
    alone = torch.cat([tokenizer.encode(image[None]) for image in images])
    # Ties in the last bits may fall differently; a normalisation over the batch changes far more.
    require(
        (alone == together).float().mean() > 0.95, "the indices of a picture depend on what is beside it in the batch"
    )


def decode_gives_pictures(subject: Subject) -> None:
    tokenizer = subject.stirred()
    for value in (0, tokenizer.codebook_size - 1):
        indices = torch.full((2, *tokenizer.grid), value)
        size = tokenizer.image_size
        pictures = require_tensor(tokenizer.decode(indices), (2, 3, size, size), "decode's result")
        require(bool((pictures >= 0).all() and (pictures <= 1).all()), "decode leaves [0,1]")


def decode_depends_on_each_index(subject: Subject) -> None:
    tokenizer = subject.stirred()
    indices = torch.zeros(1, *tokenizer.grid, dtype=torch.long)
    before = tokenizer.decode(indices)
    for row, column in ((0, 0), (tokenizer.grid[0] - 1, tokenizer.grid[1] - 1)):
        other = indices.clone()
        other[0, row, column] = tokenizer.codebook_size - 1
        require(not torch.equal(tokenizer.decode(other), before), f"the index at {(row, column)} changes no pixel")


def quantize_gives_features_and_the_indices_of_encode(subject: Subject) -> None:
    tokenizer, images = subject.stirred(), subject.batch["image"]
    features, indices = tokenizer.quantize(images)
    require(isinstance(features, torch.Tensor) and features.dim() == 4, "quantize's features are not (B,D,h,w)")
    require_tensor(features, (len(images), features.shape[1], *tokenizer.grid), "quantize's features")
    require(torch.equal(indices, tokenizer.encode(images)), "quantize gives other indices than encode")


def indices_decode_as_the_features_they_came_from(subject: Subject) -> None:
    tokenizer, images = subject.stirred(), subject.batch["image"]
    features, indices = tokenizer.quantize(images)
    size = tokenizer.image_size
    pictures = require_tensor(tokenizer.decode_features(features), (len(images), 3, size, size), "decode_features")
    require(bool((pictures >= 0).all() and (pictures <= 1).all()), "decode_features leaves [0,1]")
    apart = float((pictures - tokenizer.decode(indices)).detach().abs().max())
    require(apart < 1e-5, f"decoding indices and the features they came from differ by {apart:.2g}")


def logged_indices_are_those_of_encode(subject: Subject) -> None:
    tokenizer, batch = subject.copy(training=False), subject.batch
    logged = tokenizer.training_loss(batch, 0)[1].get("indices")
    if logged is not None:  # they may be left out: then the codes of an epoch are not counted
        shape = (len(batch["image"]), *tokenizer.grid)
        require_tensor(logged, shape, "the log indices", integral=True)
        same = torch.equal(logged, tokenizer.encode(batch["image"]))
        require(same, "the logged indices are not those that encode gives")


def what_it_is_given_stays(subject: Subject) -> None:
    tokenizer, images = subject.stirred(), subject.batch["image"].clone()
    indices = tokenizer.encode(images)
    require_unchanged(lambda: tokenizer.encode(images), images)
    require_unchanged(lambda: tokenizer.decode(indices), indices)
    features, _ = tokenizer.quantize(images)
    require_unchanged(lambda: tokenizer.quantize(images), images)
    require_unchanged(lambda: tokenizer.decode_features(features), features)


TOKENIZER_CHECKS = (
    *TRAINABLE_CHECKS,
    its_sizes_are_whole_numbers,
    encode_gives_indices,
    encode_takes_pictures_one_by_one,
    decode_gives_pictures,
    decode_depends_on_each_index,
    quantize_gives_features_and_the_indices_of_encode,
    indices_decode_as_the_features_they_came_from,
    logged_indices_are_those_of_encode,
    what_it_is_given_stays,
)


def prepare(tokenizer: Tokenizer) -> Prepared:
    """An image tokenizer and the checks of its kind."""
    batch = small_batch(image_size=tokenizer.image_size)

    def outputs(component: Tokenizer, put: Callable[[Tensor], Tensor]) -> list[Tensor]:
        indices = component.encode(put(batch["image"]))
        features, _ = component.quantize(put(batch["image"]))
        return [indices, component.decode(indices), features, component.decode_features(features)]

    return Prepared(tokenizer, Subject(tokenizer, batch, outputs), TOKENIZER_CHECKS)


def check_tokenizer(tokenizer: Tokenizer, expected_failures: Mapping[str, str] | None = None) -> list[str]:
    """Checks an image tokenizer against `mmgen.protocols.Tokenizer`, on copies of it.

    Args:
        tokenizer: an instance, as small as you like, trained or not.
        expected_failures: reasons, by the names of the checks that are known to fail; strict.

    Returns:
        The names of the checks.

    Raises:
        Nonconforming: an AssertionError that names every check that failed and what it found.
    """
    return run(prepare(tokenizer), expected_failures)
