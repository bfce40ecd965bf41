"""Checks of a sampler, on a small generator that comes with the kit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmgen.protocols import Sampler
from mmgen.testing.checks import require, require_random_state_kept, require_tensor, require_unchanged, run
from mmgen.testing.stand_ins import CAPTIONS, SmallGenerator

CODES = 17


@dataclass
class Subject:
    """A sampler and what it draws from."""

    sampler: Sampler
    generator: SmallGenerator
    text_tokens: Tensor  # (C,T)

    def draw(self, *, captions: slice = slice(None), num_images: int = 3, seed: int = 5, **options: Any) -> Tensor:
        return self.sampler.draw(
            self.generator, self.text_tokens[captions], num_images=num_images, seed=seed, **options
        )

    @property
    def length(self) -> int:
        return self.generator.stream.image_length


def it_draws_image_tokens(subject: Subject) -> None:
    tokens = subject.draw()
    shape = (len(subject.text_tokens), 3, subject.length)
    require_tensor(tokens, shape, "its result", integral=True)
    require(bool((tokens >= 0).all() and (tokens < CODES).all()), f"it draws {int(tokens.min())} … {int(tokens.max())}")


def a_seed_repeats_its_drawings(subject: Subject) -> None:
    require(torch.equal(subject.draw(), subject.draw()), "the same seed draws something else the second time")


def seeds_and_numbers_make_a_difference(subject: Subject) -> None:
    tokens = subject.draw()
    require(not torch.equal(tokens, subject.draw(seed=6)), "another seed draws the same")
    require(not torch.equal(tokens[:, 0], tokens[:, 1]), "two drawings of a caption are the same")


def a_picture_depends_on_its_number_alone(subject: Subject) -> None:
    many = subject.draw(num_images=5)
    require(torch.equal(subject.draw(num_images=2), many[:, :2]), "a drawing changes with how many are drawn")
    require(
        torch.equal(subject.draw(captions=slice(1, 2)), many[1:2, :3]), "a drawing changes with the captions beside it"
    )


def it_follows_the_generator(subject: Subject) -> None:
    """Of logits that leave no choice, every position must be the likeliest token given those before it."""
    sure = SmallGenerator(codebook_size=CODES, sharpness=2_000.0).eval()
    tokens = subject.sampler.draw(sure, subject.text_tokens, num_images=2, seed=5)
    for number in range(2):
        _, logits = sure(subject.text_tokens, tokens[:, number])
        agree = (logits.argmax(-1) == tokens[:, number]).float().mean()
        # Two of the table's numbers may lie so close that there is a choice; hardly ever.
        require(agree > 0.9, f"only {float(agree):.0%} of the tokens are the ones that a sure generator names")


def kept_tokens_stay(subject: Subject) -> None:
    kept_tokens = torch.randint(CODES, (len(subject.text_tokens), subject.length))
    for pattern in ("first", "scattered", "all", "none"):
        kept = torch.zeros(subject.length, dtype=torch.bool)
        kept[
            {"first": slice(0, 4), "scattered": slice(1, None, 3), "all": slice(None), "none": slice(0, 0)}[pattern]
        ] = True
        tokens = subject.draw(kept_tokens=kept_tokens, kept=kept)
        stays = torch.equal(tokens[:, :, kept], kept_tokens[:, None, kept].expand_as(tokens[:, :, kept]))
        require(stays, f"kept tokens ({pattern}) do not stay")
        if pattern == "none":
            require(torch.equal(tokens, subject.draw()), "tokens that are not kept make a difference")


def drawing_reads_what_is_kept(subject: Subject) -> None:
    kept = torch.zeros(subject.length, dtype=torch.bool)
    kept[0] = True
    one, other = (
        subject.draw(kept_tokens=torch.full((len(subject.text_tokens), subject.length), value), kept=kept)
        for value in (2, 9)
    )
    require(not torch.equal(one[:, :, 1:], other[:, :, 1:]), "what is drawn does not depend on what is kept before it")


def progress_counts_every_picture(subject: Subject) -> None:
    counted: list[int] = []
    subject.draw(progress=counted.append)
    total = 3 * len(subject.text_tokens)
    require(sum(counted) == total, f"of {total} pictures, progress counted {sum(counted)}")


def what_it_is_given_stays(subject: Subject) -> None:
    kept_tokens = torch.zeros(len(subject.text_tokens), subject.length, dtype=torch.long)
    kept = torch.arange(subject.length) % 2 == 0
    require_unchanged(lambda: subject.draw(kept_tokens=kept_tokens, kept=kept), subject.text_tokens, kept_tokens, kept)


def the_generator_stays_as_it_was(subject: Subject) -> None:
    for training in (True, False):
        subject.generator.train(training)
        before = [p.clone() for p in subject.generator.parameters()]
        tokens = subject.draw()
        require(subject.generator.training == training, "it leaves the generator in another mode")
        same = all(map(torch.equal, before, subject.generator.parameters()))
        require(same, "it changes the generator's parameters")
        require(not tokens.requires_grad, "its drawings hold on to the graph")
    subject.generator.eval()


def the_random_numbers_are_left_alone(subject: Subject) -> None:
    require_random_state_kept(subject.draw)


SAMPLER_CHECKS = (
    it_draws_image_tokens,
    a_seed_repeats_its_drawings,
    seeds_and_numbers_make_a_difference,
    a_picture_depends_on_its_number_alone,
    it_follows_the_generator,
    kept_tokens_stay,
    drawing_reads_what_is_kept,
    progress_counts_every_picture,
    what_it_is_given_stays,
    the_generator_stays_as_it_was,
    the_random_numbers_are_left_alone,
)


def check_sampler(sampler: Sampler) -> list[str]:
    """Checks a sampler against `mmgen.protocols.Sampler`.

    Args:
        sampler: an instance that draws at random (no temperature of 0), without guidance.

    Returns:
        The names of the checks.

    Raises:
        Nonconforming: an AssertionError that names every check that failed and what it found.
    """
    generator = SmallGenerator(codebook_size=CODES).eval()
    text_tokens = generator.text_tokenizer.encode(CAPTIONS[:2])
    return run(sampler, Subject(sampler, generator, text_tokens), SAMPLER_CHECKS)
