"""Checks of a sampler, on a small generator that comes with the kit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmgen.protocols import Sampler
from mmgen.testing.checks import (
    Prepared,
    require,
    require_random_state_kept,
    require_shared_state_kept,
    require_tensor,
    require_unchanged,
    run,
    seed_everything,
)
from mmgen.testing.stand_ins import CAPTIONS, SmallGenerator, Uncached

CODES = 17


@dataclass
class Subject:
    """A sampler and what it draws from."""

    sampler: Sampler
    generator: SmallGenerator
    text_tokens: Tensor  # (C,T)

    def draw(self, *, captions: slice = slice(None), num_images: int = 3, seed: int = 5, **options: Any) -> Tensor:
        generator = options.pop("generator", self.generator)
        return self.sampler.draw(generator, self.text_tokens[captions], num_images=num_images, seed=seed, **options)

    def kept(self) -> dict[str, dict[str, Any]]:
        """Arguments that keep tokens, by the name of their pattern: the first ones, some here and there, a left half as
        a redraw of the right half keeps it, all, none."""
        kept_tokens = torch.randint(CODES, (len(self.text_tokens), self.length))
        places = torch.arange(self.length)
        columns = self.generator.stream.grid[1]
        patterns = {
            "first": places < 4,
            "scattered": places % 3 == 1,
            "left": places % columns < columns // 2,
            "all": places >= 0,
            "none": places < 0,
        }
        return {name: {"kept_tokens": kept_tokens, "kept": kept} for name, kept in patterns.items()}

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
    for pattern in (None, "scattered", "left"):
        options = subject.kept()[pattern] if pattern else {}
        free = ~options["kept"] if pattern else torch.ones(subject.length, dtype=torch.bool)
        tokens = subject.draw(generator=sure, num_images=2, **options)
        for number in range(2):
            _, logits = sure(subject.text_tokens, tokens[:, number])
            agree = (logits.argmax(-1) == tokens[:, number])[:, free].float().mean()
            # Two of the table's numbers may lie so close that there is a choice; hardly ever.
            what = f"with kept tokens ({pattern}) " if pattern else ""
            require(agree > 0.9, f"{what}only {float(agree):.0%} of the tokens are those that a sure generator names")


def the_cache_makes_no_difference(subject: Subject) -> None:
    """Under one seed, the tokens of a generator without a cache, with and without kept tokens."""
    uncached = Uncached(subject.generator).eval()
    for pattern, options in {"none": {}, **subject.kept()}.items():
        same = torch.equal(subject.draw(**options), subject.draw(generator=uncached, **options))
        require(same, f"with kept tokens ({pattern}) it draws something else without a cache")


def kept_tokens_stay(subject: Subject) -> None:
    for pattern, options in subject.kept().items():
        kept_tokens, kept = options["kept_tokens"], options["kept"]
        tokens = subject.draw(**options)
        stays = torch.equal(tokens[:, :, kept], kept_tokens[:, None, kept].expand_as(tokens[:, :, kept]))
        require(stays, f"kept tokens ({pattern}) do not stay")
        if pattern == "none":
            require(torch.equal(tokens, subject.draw()), "tokens that are not kept make a difference")


def what_is_not_kept_is_not_read(subject: Subject) -> None:
    options = subject.kept()["scattered"]
    other = torch.where(options["kept"], options["kept_tokens"], CODES - 1 - options["kept_tokens"])
    same = torch.equal(subject.draw(**options), subject.draw(kept_tokens=other, kept=options["kept"]))
    require(same, "it reads tokens that are not kept")


def what_is_kept_does_not_change_with_its_neighbours(subject: Subject) -> None:
    """A redrawn picture depends on its number alone, too."""
    options = subject.kept()["left"]
    many = subject.draw(num_images=5, **options)
    require(torch.equal(subject.draw(num_images=2, **options), many[:, :2]), "it changes with how many are drawn")
    alone = subject.draw(captions=slice(1, 2), kept_tokens=options["kept_tokens"][1:2], kept=options["kept"])
    require(torch.equal(alone, many[1:2, :3]), "it changes with the captions beside it")


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


def the_global_seed_makes_no_difference(subject: Subject) -> None:
    drawn = []
    for seed in (1, 2):
        seed_everything(seed)
        drawn.append(subject.draw())
    require(torch.equal(*drawn), "its drawings depend on the global random numbers")


def nothing_that_all_share_changes(subject: Subject) -> None:
    require_shared_state_kept(subject.draw)


SAMPLER_CHECKS = (
    it_draws_image_tokens,
    a_seed_repeats_its_drawings,
    seeds_and_numbers_make_a_difference,
    a_picture_depends_on_its_number_alone,
    it_follows_the_generator,
    the_cache_makes_no_difference,
    kept_tokens_stay,
    what_is_not_kept_is_not_read,
    what_is_kept_does_not_change_with_its_neighbours,
    drawing_reads_what_is_kept,
    progress_counts_every_picture,
    what_it_is_given_stays,
    the_generator_stays_as_it_was,
    the_random_numbers_are_left_alone,
    the_global_seed_makes_no_difference,
    nothing_that_all_share_changes,
)


def prepare(sampler: Sampler) -> Prepared:
    """A sampler, the kit's generator, and the checks of its kind."""
    generator = SmallGenerator(codebook_size=CODES).eval()
    text_tokens = generator.text_tokenizer.encode(CAPTIONS[:2])
    return Prepared(sampler, Subject(sampler, generator, text_tokens), SAMPLER_CHECKS)


def check_sampler(sampler: Sampler, expected_failures: Mapping[str, str] | None = None) -> list[str]:
    """Checks a sampler against `mmgen.protocols.Sampler`.

    Args:
        sampler: an instance that draws at random (no temperature of 0), without guidance.
        expected_failures: reasons, by the names of the checks that are known to fail; strict.

    Returns:
        The names of the checks.

    Raises:
        Nonconforming: an AssertionError that names every check that failed and what it found.
    """
    return run(prepare(sampler), expected_failures)
