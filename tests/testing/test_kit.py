"""The kit finds what it is for: conforming components pass, and each seeded fault fails the check that names it."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.protocols import Evidence, Finding, Findings, Needs, Sample, Setting
from mmgen.testing import (
    Nonconforming,
    SmallGenerator,
    check_dataset,
    check_encoder,
    check_evaluator,
    check_generator,
    check_sampler,
    check_text_tokenizer,
    check_tokenizer,
    small_samples,
    small_text_tokenizer,
)


def failures(check: Callable[..., list[str]], component: object, *arguments: Any) -> dict[str, str]:
    with pytest.raises(Nonconforming) as caught:
        check(component, *arguments)
    assert all(caught.value.failures.values())
    assert all(name in str(caught.value) for name in caught.value.failures)
    return caught.value.failures


# ---- datasets


class Bars:
    """A dataset that conforms, until a test replaces part of a sample."""

    splits = {"train": [0, 1, 2, 3, 4], "val": [5], "far": [6, 7]}  # noqa: RUF012
    classes = {"colour": ["red", "green", "blue", "grey"]}  # noqa: RUF012
    templates = ("a {colour} {name}",)

    def __init__(self, **change: Any) -> None:
        self.change = change

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Sample:
        sample = dict(small_samples(8, image_size=8)[index])
        if index == 7:
            sample.update({k: v(index) if callable(v) else v for k, v in self.change.items()})
        return sample  # type: ignore[return-value]


class Together(Bars):
    """Gives other samples when several are asked for at once."""

    def __init__(self, *, sort: bool = False, skip: int = 0) -> None:
        super().__init__()
        self.sort, self.skip = sort, skip

    def __getitems__(self, positions: Sequence[int]) -> list[Sample]:
        return [self[i] for i in (sorted(positions) if self.sort else positions)[self.skip :]]


class Forgetful(Bars):
    """Its samples share one tensor."""

    images = torch.stack([sample["image"] for sample in small_samples(8, image_size=8)])

    def __getitem__(self, index: int) -> Sample:
        return {**super().__getitem__(index), "image": self.images[index]}


class Endless(Bars):
    def __getitem__(self, index: int) -> Sample:
        return super().__getitem__(index % 8)


class Local(Bars):
    def __init__(self) -> None:
        super().__init__()
        self.read = lambda: None


class Empty(Bars):
    def __len__(self) -> int:
        return 0


class Remembering(Bars):
    """What it gives depends on what was read before."""

    last = 0

    def __getitem__(self, index: int) -> Sample:
        before, self.last = self.last, index
        image = super().__getitem__(index)["image"] * (0.5 if before > index else 1.0)
        return {**super().__getitem__(index), "image": image}


class Forking(Bars):
    """Makes numbers of its own from the global ones, and gives those back."""

    def __getitem__(self, index: int) -> Sample:
        state = torch.get_rng_state()
        image = torch.rand(3, 8, 8)
        torch.set_rng_state(state)
        return {**super().__getitem__(index), "image": image}


class Loud(Bars):
    def __getitem__(self, index: int) -> Sample:
        os.environ["BARS_WERE_READ"] = str(index)
        return super().__getitem__(index)


class Originals(Bars):
    """Has pictures at a size of their own."""

    def __init__(self, read: Callable[[int], Any]) -> None:
        super().__init__()
        self.original = read


def noise(_: int) -> Tensor:
    return torch.rand(3, 8, 8)


def quiet_noise(_: int) -> Tensor:
    return torch.full((3, 8, 8), random.SystemRandom().random())


def numpy_noise(_: int) -> Tensor:
    np.random.rand()
    return torch.zeros(3, 8, 8)


def zeros(_: int) -> Tensor:
    return torch.zeros(3, 20, 9)


def with_attribute(**attributes: Any) -> Bars:
    dataset = Bars()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


DATASETS = [
    (Bars(image=torch.full((3, 8, 8), 1.5)), "samples_are_captioned_pictures"),
    (Bars(image=torch.zeros(3, 8, 8, dtype=torch.uint8)), "samples_are_captioned_pictures"),
    (Bars(image=torch.full((3, 8, 8), torch.nan)), "samples_are_captioned_pictures"),
    (Bars(image=torch.zeros(8, 8, 3)), "samples_are_captioned_pictures"),
    (Bars(caption=" "), "samples_are_captioned_pictures"),
    (Bars(caption=None), "samples_are_captioned_pictures"),
    (Bars(id=7), "samples_are_captioned_pictures"),
    (Bars(captions=[]), "other_captions_are_captions"),
    (Bars(captions=["a", ""]), "other_captions_are_captions"),
    (Bars(attributes={"count": 3}), "attributes_are_texts"),
    (Bars(image=torch.zeros(3, 8, 9)), "pictures_have_one_size"),
    (Bars(id="bar-0"), "ids_are_unique"),
    (Bars(image=quiet_noise), "a_sample_is_always_the_same"),
    (Bars(image=noise), "reading_leaves_the_random_numbers_alone"),
    (Bars(image=numpy_noise), "reading_leaves_the_random_numbers_alone"),
    (Forgetful(), "a_sample_belongs_to_its_reader"),
    (Together(sort=True), "samples_read_together_are_the_same"),
    (Together(skip=1), "samples_read_together_are_the_same"),
    (Originals(lambda i: torch.full((3, 20, 9), 1.5)), "originals_are_pictures"),
    (Originals(lambda i: torch.zeros(20, 9)), "originals_are_pictures"),
    (Originals(lambda i: torch.zeros(3, 20, 9, dtype=torch.uint8)), "originals_are_pictures"),
    (Originals(quiet_noise), "an_original_is_always_the_same"),
    (Originals(noise), "an_original_is_always_the_same"),
    (Originals(numpy_noise), "an_original_is_always_the_same"),
    (Remembering(), "the_order_of_reading_makes_no_difference"),
    (Forking(), "the_global_seed_makes_no_difference"),
    (Loud(), "nothing_that_all_share_changes"),
    (Endless(), "it_ends"),
    (Local(), "it_survives_a_trip_to_a_worker"),
    (Empty(), "it_has_samples"),
    (with_attribute(splits={"train": [0, 1], "far": [1]}), "splits_are_disjoint_positions"),
    (with_attribute(splits={"train": [0, 8]}), "splits_are_disjoint_positions"),
    (with_attribute(splits={"train": [0, 0]}), "splits_are_disjoint_positions"),
    (with_attribute(splits={"far": [0]}), "splits_have_something_to_train_on"),
    (with_attribute(classes={"shape": ["a", "b"]}), "classes_are_values_of_attributes"),
    (with_attribute(classes={"colour": ["red", "red"]}), "classes_are_values_of_attributes"),
    (with_attribute(templates=["a {shape}"]), "templates_name_attributes"),
    (with_attribute(attribution="two\nlines"), "attribution_is_a_line"),
]


def test_a_good_dataset_passes() -> None:
    assert len(check_dataset(Bars())) == 23
    assert len(check_dataset(with_attribute(splits={}, classes={}, templates=[]), limit=3)) == 23
    assert len(check_dataset(Originals(zeros))) == 23


@pytest.mark.parametrize(("dataset", "check"), DATASETS, ids=[f"{i}-{check}" for i, (_, check) in enumerate(DATASETS)])
def test_a_faulty_dataset_fails(dataset: Bars, check: str) -> None:
    assert check in failures(check_dataset, dataset)


def test_the_random_numbers_are_given_back() -> None:
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    before = torch.rand(1), random.random(), np.random.rand()
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    failures(check_dataset, Bars(image=noise))
    assert (torch.rand(1), random.random(), np.random.rand()) == before


# ---- the components that learn


class SmallTokenizer(nn.Module):
    """A tokenizer that conforms: patches, a linear map, the nearest of 12 codes."""

    image_size, codebook_size, grid = 16, 12, (4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 6, 4, stride=4)
        self.decoder = nn.ConvTranspose2d(6, 3, 4, stride=4)
        self.register_buffer("codes", torch.randn(12, 6, generator=torch.Generator().manual_seed(0)))

    def encode(self, images: Tensor) -> Tensor:
        return self._nearest(self.encoder(images).permute(0, 2, 3, 1))

    def _nearest(self, features: Tensor) -> Tensor:
        return (features[..., None, :] - self.codes).square().sum(-1).argmin(-1)

    def quantize(self, images: Tensor) -> tuple[Tensor, Tensor]:
        indices = self.encode(images)
        return self._features(indices), indices

    def _features(self, indices: Tensor) -> Tensor:
        return F.embedding(indices, self.codes).permute(0, 3, 1, 2)

    def decode_features(self, features: Tensor) -> Tensor:
        return self.decoder(features).sigmoid()

    def decode(self, indices: Tensor) -> Tensor:
        return self.decode_features(self._features(indices))

    def training_loss(self, batch: Any, step: int) -> tuple[Tensor, dict]:
        features = self.encoder(batch["image"]).permute(0, 2, 3, 1)
        indices = self._nearest(features)
        codes = F.embedding(indices, self.codes)
        if self.training:
            self.codes.mul_(0.99).add_(0.01 * features.detach().mean())
        output = self.decoder((features + (codes - features).detach()).permute(0, 3, 1, 2)).sigmoid()
        loss = F.mse_loss(output, batch["image"]) + F.mse_loss(features, codes)
        return loss, {"error": loss.detach(), "indices": indices}


class Unbounded(SmallTokenizer):
    def decode(self, indices: Tensor) -> Tensor:
        return super().decode(indices) * 2


class Flat(SmallTokenizer):
    def encode(self, images: Tensor) -> Tensor:
        return super().encode(images).flatten(1)


class Beyond(SmallTokenizer):
    def encode(self, images: Tensor) -> Tensor:
        return super().encode(images) + 12


class Normalising(SmallTokenizer):
    def encode(self, images: Tensor) -> Tensor:
        features = self.encoder(images)
        return self._nearest(4 * (features - features.mean(0)).permute(0, 2, 3, 1))


class Overwriting(SmallTokenizer):
    def encode(self, images: Tensor) -> Tensor:
        return super().encode(images.mul_(0.5))


class Blind(SmallTokenizer):
    def decode(self, indices: Tensor) -> Tensor:
        return super().decode(indices.clone().fill_(3))


class Hidden(SmallTokenizer):
    """Its codebook is not in the state dict."""

    def __init__(self) -> None:
        super().__init__()
        codes = self.codes
        del self.codes
        self.codes = codes


class Idle(SmallTokenizer):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(3))


class Restless(SmallTokenizer):
    """Learns in eval mode too."""

    def training_loss(self, batch: Any, step: int) -> tuple[Tensor, dict]:
        self.codes.add_(0.01)
        return super().training_loss(batch, step)


class Random(SmallTokenizer):
    def training_loss(self, batch: Any, step: int) -> tuple[Tensor, dict]:
        loss, logs = super().training_loss(batch, step)
        return loss * (1 + random.SystemRandom().random()), logs


class Muted(SmallTokenizer):
    """The gradients of its encoder are nothing."""

    def training_loss(self, batch: Any, step: int) -> tuple[Tensor, dict]:
        loss, logs = super().training_loss(batch, step)
        return F.mse_loss(self.decode(logs["indices"]), batch["image"]) + 0 * loss, logs


class Overflowing(SmallTokenizer):
    """Under bfloat16 its loss is no number."""

    def training_loss(self, batch: Any, step: int) -> tuple[Tensor, dict]:
        loss, logs = super().training_loss(batch, step)
        return loss / (not torch.is_autocast_enabled("cpu")), logs


class StaysBehind(SmallTokenizer):
    """Its codebook does not move with it."""

    def __init__(self) -> None:
        super().__init__()
        codes = self.codes
        del self.codes
        self.codes = codes


class Dicing(SmallTokenizer):
    """Draws from the global random numbers in eval mode, to no effect."""

    def encode(self, images: Tensor) -> Tensor:
        torch.rand(1)
        return super().encode(images)


class Doubling(SmallTokenizer):
    """Takes more threads, for everybody."""

    def encode(self, images: Tensor) -> Tensor:
        torch.set_num_threads(torch.get_num_threads() + 1)
        return super().encode(images)


class Holding(SmallTokenizer):
    def training_loss(self, batch: Any, step: int) -> tuple[Tensor, dict]:
        loss, _ = super().training_loss(batch, step)
        return loss, {"loss": loss}


class Listing(SmallTokenizer):
    def training_loss(self, batch: Any, step: int) -> tuple[Tensor, dict]:
        loss, _ = super().training_loss(batch, step)
        return loss, {"each": [1, 2]}


class Vector(SmallTokenizer):
    def training_loss(self, batch: Any, step: int) -> tuple[Tensor, dict]:
        loss, logs = super().training_loss(batch, step)
        return loss.expand(4), logs


class Adding(SmallTokenizer):
    def training_loss(self, batch: Any, step: int) -> tuple[Tensor, dict]:
        batch["more"] = 1
        return super().training_loss(batch, step)


class Rounding(SmallTokenizer):
    """Its features are not those its decoder is fed when it reads indices."""

    def quantize(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder(images), self.encode(images)


class Apart(SmallTokenizer):
    """It has two minds about a picture."""

    def quantize(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features, indices = super().quantize(images)
        return features, (indices + 1) % self.codebook_size


class Miscounting(SmallTokenizer):
    def training_loss(self, batch: Any, step: int) -> tuple[Tensor, dict]:
        loss, logs = super().training_loss(batch, step)
        return loss, {**logs, "indices": logs["indices"] * 0 + 1}


class Forgetful(SmallTokenizer):
    """Saves all but a bias, and loads what there is."""

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        state = super().state_dict(*args, **kwargs)
        return {name: tensor for name, tensor in state.items() if name != "decoder.bias"}

    def load_state_dict(self, state: Any, strict: bool = True, assign: bool = False) -> Any:
        return super().load_state_dict(state, strict=False)


TOKENIZERS = [
    (Rounding, "indices_decode_as_the_features_they_came_from"),
    (Apart, "quantize_gives_features_and_the_indices_of_encode"),
    (Miscounting, "logged_indices_are_those_of_encode"),
    (Forgetful, "it_can_be_saved_and_loaded"),
    (Unbounded, "decode_gives_pictures"),
    (Flat, "encode_gives_indices"),
    (Beyond, "encode_gives_indices"),
    (Normalising, "encode_takes_pictures_one_by_one"),
    (Overwriting, "what_it_is_given_stays"),
    (Blind, "decode_depends_on_each_index"),
    (Hidden, "the_state_dict_holds_everything"),
    (Idle, "every_parameter_learns"),
    (Muted, "gradients_reach_every_parameter"),
    (Overflowing, "it_trains_in_mixed_precision"),
    (StaysBehind, "it_moves_to_another_device"),
    (Dicing, "the_random_numbers_are_left_alone_in_eval_mode"),
    (Doubling, "nothing_that_all_share_changes"),
    (Restless, "validation_is_repeatable"),
    (Random, "training_can_be_repeated"),
    (Holding, "its_logs_are_numbers"),
    (Listing, "its_logs_are_numbers"),
    (Vector, "its_loss_is_a_number"),
    (Adding, "the_batch_is_left_alone"),
]


def test_a_good_tokenizer_passes() -> None:
    tokenizer = SmallTokenizer().eval()
    before = [value.clone() for value in tokenizer.state_dict().values()]
    assert len(check_tokenizer(tokenizer)) == 24
    assert all(map(torch.equal, before, tokenizer.state_dict().values()))
    assert not tokenizer.training


@pytest.mark.parametrize(("fault", "check"), TOKENIZERS)
def test_a_faulty_tokenizer_fails(fault: type[SmallTokenizer], check: str) -> None:
    assert check in failures(check_tokenizer, fault())


class Peeking(SmallGenerator):
    """Predicts an image token from itself."""

    def forward(self, text_tokens: Tensor, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        text, image = super().forward(text_tokens, image_tokens)
        return text, image + image_tokens[..., None]


class Deaf(SmallGenerator):
    """Does not read its text."""

    def forward(self, text_tokens: Tensor, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(text_tokens, image_tokens)[0], super().forward(text_tokens * 0, image_tokens)[1]


class Uncounted(SmallGenerator):
    """Its cache does not count what was read."""

    def step(self, image_tokens: Tensor, kv_cache: Any) -> Tensor:
        logits = super().step(image_tokens, kv_cache)
        kv_cache.length -= 1
        return logits


class Stale(SmallGenerator):
    """With the cache its logits are slightly others."""

    def step(self, image_tokens: Tensor, kv_cache: Any) -> Tensor:
        return super().step(image_tokens, kv_cache) + 1e-3


class LastOnly(SmallGenerator):
    """A step of several tokens gives the logits of the last alone."""

    def step(self, image_tokens: Tensor, kv_cache: Any) -> Tensor:
        return super().step(image_tokens, kv_cache)[:, -1:]


class Mixing(SmallGenerator):
    """Rows of a batch meet."""

    def forward(self, text_tokens: Tensor, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        text, image = super().forward(text_tokens, image_tokens)
        return text, image - image.mean(0)


class Unlucky(SmallGenerator):
    """With the cache it never draws the likeliest token."""

    def step(self, image_tokens: Tensor, kv_cache: Any) -> Tensor:
        logits = super().step(image_tokens, kv_cache)
        return logits.scatter(-1, logits.argmax(-1, keepdim=True), -torch.inf)


class Overwriting(SmallGenerator):
    """A step changes what was read before it."""

    def step(self, image_tokens: Tensor, kv_cache: Any) -> Tensor:
        logits = super().step(image_tokens, kv_cache)
        kv_cache.keys[:, :, :, 0] += 1
        return logits


GENERATORS = [
    (Unlucky, "drawing_with_the_cache_gives_the_same_tokens"),
    (Overwriting, "what_it_is_given_stays"),
    (Peeking, "image_logits_see_only_what_came_before"),
    (Deaf, "text_logits_see_only_what_came_before"),
    (Uncounted, "steps_agree_with_forward"),
    (Stale, "steps_agree_with_forward"),
    (LastOnly, "steps_agree_with_forward"),
    (Mixing, "rows_of_a_batch_do_not_meet"),
]


def test_a_good_generator_passes() -> None:
    assert len(check_generator(SmallGenerator(), 17)) == 25


@pytest.mark.parametrize(("fault", "check"), GENERATORS)
def test_a_faulty_generator_fails(fault: type[SmallGenerator], check: str) -> None:
    assert check in failures(check_generator, fault(), 17)


class SmallEncoder(nn.Module):
    """An encoder that conforms: means, and a linear map on each side."""

    def __init__(self) -> None:
        super().__init__()
        self.text_tokenizer = small_text_tokenizer()
        self.image = nn.Linear(3 * 16, 8)
        self.text = nn.EmbeddingBag(self.text_tokenizer.num_ids, 8)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def encode_image(self, images: Tensor) -> Tensor:
        return F.normalize(self.image(F.adaptive_avg_pool2d(images, 4).flatten(1)), dim=-1)

    def encode_text(self, text_tokens: Tensor) -> Tensor:
        return F.normalize(self.text(text_tokens), dim=-1)

    def training_loss(self, batch: Any, step: int) -> tuple[Tensor, dict]:
        text = self.encode_text(self.text_tokenizer.encode(batch["caption"]))
        logits = self.logit_scale.exp() * self.encode_image(batch["image"]) @ text.T
        return F.cross_entropy(logits, torch.arange(len(logits))), {}


class Long(SmallEncoder):
    def encode_text(self, text_tokens: Tensor) -> Tensor:
        return super().encode_text(text_tokens) * 2


class Uneven(SmallEncoder):
    def encode_text(self, text_tokens: Tensor) -> Tensor:
        return F.normalize(super().encode_text(text_tokens)[:, :4], dim=-1)


class Constant(SmallEncoder):
    def encode_image(self, images: Tensor) -> Tensor:
        return super().encode_image(torch.ones_like(images))


class Centred(SmallEncoder):
    def encode_image(self, images: Tensor) -> Tensor:
        return super().encode_image(images - images.mean(0))


class Exponentiated(SmallEncoder):
    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(14.0))


class WordsOnly(SmallEncoder):
    """Divides by the number of words, which can be none."""

    def encode_text(self, text_tokens: Tensor) -> Tensor:
        words = (text_tokens < self.text_tokenizer.vocab_size).float()
        rows = F.embedding(text_tokens, self.text.weight)
        features = (rows * words[..., None]).sum(1) / words.sum(1, keepdim=True)
        return features / features.norm(dim=-1, keepdim=True)


ENCODERS = [
    (Long, "features_have_length_one"),
    (Uneven, "features_have_length_one"),
    (Constant, "features_tell_inputs_apart"),
    (Centred, "rows_of_a_batch_do_not_meet"),
    (Exponentiated, "logit_scale_is_one_number"),
    (WordsOnly, "any_caption_has_features"),
]


def test_a_good_encoder_passes() -> None:
    assert len(check_encoder(SmallEncoder(), image_size=16)) == 21


@pytest.mark.parametrize(("fault", "check"), ENCODERS)
def test_a_faulty_encoder_fails(fault: type[SmallEncoder], check: str) -> None:
    assert check in failures(check_encoder, fault())


# ---- samplers


class SmallSampler:
    """A sampler that conforms: one picture after another, each with random numbers of its own."""

    def draw(
        self,
        generator: Any,
        text_tokens: Tensor,
        *,
        num_images: int,
        seed: int,
        kept_tokens: Tensor | None = None,
        kept: Tensor | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        length = generator.stream.image_length
        tokens = torch.zeros(len(text_tokens), num_images, length, dtype=torch.long)
        for c in range(len(text_tokens)):
            for i in range(num_images):
                source = self.source(seed, i)
                for n in range(length):
                    with torch.no_grad():
                        logits, _ = generator.prefill(text_tokens[c : c + 1], tokens[c, i : i + 1, :n] if n else None)
                    tokens[c, i, n] = self.choose(logits[0], source)
                    if kept is not None and kept[n]:
                        tokens[c, i, n] = kept_tokens[c, n]
                if progress:
                    progress(1)
        return tokens

    def source(self, seed: int, number: int) -> torch.Generator | None:
        return torch.Generator().manual_seed(1_000 * seed + number)

    def choose(self, logits: Tensor, source: torch.Generator | None) -> Tensor:
        return torch.multinomial(logits.softmax(-1), 1, generator=source)[0]


class Global(SmallSampler):
    def source(self, seed: int, number: int) -> None:
        torch.manual_seed(1_000 * seed + number)


class SeedLess(SmallSampler):
    def source(self, seed: int, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(number)


class NumberLess(SmallSampler):
    def source(self, seed: int, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)


class OneStream(SmallSampler):
    """One stream of random numbers for all the pictures of a call."""

    def draw(self, *args: Any, **options: Any) -> Tensor:
        self.stream = torch.Generator().manual_seed(options["seed"])
        return super().draw(*args, **options)

    def source(self, seed: int, number: int) -> torch.Generator:
        return self.stream


class Ignorant(SmallSampler):
    def choose(self, logits: Tensor, source: torch.Generator | None) -> Tensor:
        return torch.randint(len(logits), (1,), generator=source)[0]


class Losing(SmallSampler):
    def draw(self, *args: Any, kept: Tensor | None = None, **options: Any) -> Tensor:
        return super().draw(*args, **options)


class Stepping(SmallSampler):
    """Over a cache, as it should: what was drawn or kept is read before the next token is."""

    def draw(
        self,
        generator: Any,
        text_tokens: Tensor,
        *,
        num_images: int,
        seed: int,
        kept_tokens: Tensor | None = None,
        kept: Tensor | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        pictures = []
        for c in range(len(text_tokens)):
            for i in range(num_images):
                source, tokens = self.source(seed, i), torch.zeros(generator.stream.image_length, dtype=torch.long)
                with torch.no_grad():
                    logits, cache = generator.prefill(text_tokens[c : c + 1])
                    for n in range(len(tokens)):
                        is_kept = kept is not None and kept[n]
                        tokens[n] = kept_tokens[c, n] if is_kept else self.choose(logits[0], source)
                        if n + 1 < len(tokens):
                            logits = self.read(generator, tokens[n : n + 1][None], cache, is_kept, logits)
                pictures.append(tokens)
                if progress:
                    progress(1)
        return torch.stack(pictures).view(len(text_tokens), num_images, -1)

    def read(self, generator: Any, token: Tensor, cache: Any, is_kept: bool, logits: Tensor) -> Tensor:
        return generator.step(token, cache)[:, -1]


class Skipping(Stepping):
    """Kept tokens are not read at all."""

    def read(self, generator: Any, token: Tensor, cache: Any, is_kept: bool, logits: Tensor) -> Tensor:
        return logits if is_kept else super().read(generator, token, cache, is_kept, logits)


class Meddling(Stepping):
    """What lies in the cache is the generator's own business."""

    def read(self, generator: Any, token: Tensor, cache: Any, is_kept: bool, logits: Tensor) -> Tensor:
        logits = super().read(generator, token, cache, is_kept, logits)
        cache.values += 1
        cache.keys[:, :, :, :3] *= -1
        return logits


class Peeking(SmallSampler):
    """Tokens that are not kept shift what is drawn in their place."""

    def draw(self, *args: Any, kept_tokens: Tensor | None = None, kept: Tensor | None = None, **options: Any) -> Tensor:
        tokens = super().draw(*args, kept_tokens=kept_tokens, kept=kept, **options)
        return tokens if kept is None else torch.where(kept, tokens, (tokens + kept_tokens[:, None]) % 17)


class Miscounting(SmallSampler):
    def draw(self, *args: Any, progress: Any = None, **options: Any) -> Tensor:
        return super().draw(*args, **options)


class Training(SmallSampler):
    def draw(self, generator: Any, *args: Any, **options: Any) -> Tensor:
        generator.eval()
        return super().draw(generator, *args, **options)


class Seeded(SmallSampler):
    """Its numbers begin where the global ones stand."""

    def source(self, seed: int, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(torch.initial_seed() + 1_000 * seed + number)


class Double(SmallSampler):
    def draw(self, *args: Any, **options: Any) -> Tensor:
        torch.set_default_dtype(torch.float64)
        return super().draw(*args, **options)


class Floating(SmallSampler):
    def draw(self, *args: Any, **options: Any) -> Tensor:
        return super().draw(*args, **options).float()


SAMPLERS = [
    (Global, "the_random_numbers_are_left_alone"),
    (SeedLess, "seeds_and_numbers_make_a_difference"),
    (NumberLess, "seeds_and_numbers_make_a_difference"),
    (OneStream, "a_picture_depends_on_its_number_alone"),
    (Ignorant, "it_follows_the_generator"),
    (Losing, "kept_tokens_stay"),
    (Skipping, "it_follows_the_generator"),
    (Meddling, "the_cache_makes_no_difference"),
    (Peeking, "what_is_not_kept_is_not_read"),
    (Miscounting, "progress_counts_every_picture"),
    (Training, "the_generator_stays_as_it_was"),
    (Floating, "it_draws_image_tokens"),
    (Seeded, "the_global_seed_makes_no_difference"),
    (Double, "nothing_that_all_share_changes"),
]


def test_a_good_sampler_passes() -> None:
    assert len(check_sampler(SmallSampler())) == len(check_sampler(Stepping())) == 16


@pytest.mark.parametrize(("fault", "check"), SAMPLERS)
def test_a_faulty_sampler_fails(fault: type[SmallSampler], check: str) -> None:
    assert check in failures(check_sampler, fault())


# ---- evaluators


class Error:
    """An evaluator that conforms: the mean squared error of reconstructions."""

    needs = Needs(split="val", reconstructions=True)

    def begin(self, setting: Setting) -> None:
        self.sum, self.n = 0.0, 0

    def update(self, evidence: Evidence) -> None:
        assert evidence.reconstructions is not None
        errors = (evidence.reconstructions - evidence.images).square().mean((1, 2, 3))
        self.sum, self.n = self.sum + float(errors.double().sum()), self.n + len(errors)

    def compute(self) -> Findings:
        numbers = [Finding("error/mse", self.sum / self.n, self.n)]
        return Findings(numbers, {"all": [{"n": self.n}]}, depends_on=("dataset", "tokenizer"))


class Accumulating(Error):
    """Forgets to begin anew."""

    sum, n = 0.0, 0

    def begin(self, setting: Setting) -> None:
        pass


class MeanOfMeans(Error):
    def update(self, evidence: Evidence) -> None:
        super().begin(None) if not hasattr(self, "chunks") else None  # type: ignore[arg-type]
        assert evidence.reconstructions is not None
        self.sum += float((evidence.reconstructions - evidence.images).square().mean())
        self.n += 1


class Undefined(Error):
    def compute(self) -> Findings:
        return Findings([Finding("error/mse", float("nan"), 3)], depends_on=("dataset",))


class Percent(Error):
    def compute(self) -> Findings:
        return Findings([Finding("error/share", 55.0, 3, unit="%")], depends_on=("dataset",))


class Silent(Error):
    def compute(self) -> Findings:
        return Findings([], depends_on=("dataset",))


class Twice(Error):
    def compute(self) -> Findings:
        return Findings([Finding("a/b", 1.0, 3), Finding("a/b", 2.0, 3)], depends_on=("dataset",))


class Foreign(Error):
    def compute(self) -> Findings:
        return Findings(super().compute().numbers, depends_on=("weather",))


class TensorRow(Error):
    def compute(self) -> Findings:
        return Findings(super().compute().numbers, {"t": [{"x": torch.zeros(())}]}, depends_on=("dataset",))


class Bright(Error):
    def compute(self) -> Findings:
        return Findings(super().compute().numbers, pictures={"p": torch.full((3, 4, 4), 2.0)}, depends_on=("dataset",))


class Clobbering(Error):
    def update(self, evidence: Evidence) -> None:
        evidence.images.mul_(0.5)
        super().update(evidence)


class Jittery(Error):
    def compute(self) -> Findings:
        number = super().compute().numbers[0]
        return Findings([Finding("a/b", number.value + torch.initial_seed(), number.n)], depends_on=("dataset",))


class Quiet(Error):
    def update(self, evidence: Evidence) -> None:
        warnings.simplefilter("ignore")
        super().update(evidence)


class Drawing(Error):
    def compute(self) -> Findings:
        torch.rand(1)
        return super().compute()


EVALUATORS = [
    (Accumulating, "begin_forgets_what_was"),
    (MeanOfMeans, "chunks_make_no_difference"),
    (Undefined, "its_numbers_can_be_read"),
    (Percent, "its_numbers_can_be_read"),
    (Silent, "its_numbers_can_be_read"),
    (Twice, "its_numbers_can_be_read"),
    (Foreign, "it_says_what_it_depends_on"),
    (TensorRow, "its_tables_and_pictures_can_be_shown"),
    (Bright, "its_tables_and_pictures_can_be_shown"),
    (Clobbering, "what_it_is_given_stays"),
    (Drawing, "the_random_numbers_are_left_alone"),
    (Jittery, "the_global_seed_makes_no_difference"),
    (Quiet, "nothing_that_all_share_changes"),
]


def test_a_good_evaluator_passes() -> None:
    assert len(check_evaluator(Error())) == 10


@pytest.mark.parametrize(("fault", "check"), EVALUATORS)
def test_a_faulty_evaluator_fails(fault: type[Error], check: str) -> None:
    assert check in failures(check_evaluator, fault())


# ---- text tokenizers


class Wrapped:
    """A text tokenizer that conforms, until a test changes what it gives."""

    def __init__(self, change: Callable[[Tensor, Any], Tensor] = lambda tokens, keys: tokens) -> None:
        self.inner, self.change = small_text_tokenizer(), change
        self.vocab_size, self.context_length = self.inner.vocab_size, self.inner.context_length
        self.num_ids = self.inner.num_ids

    def encode(self, captions: list[str], keys: list[int] | None = None) -> Tensor:
        return self.change(self.inner.encode(captions, keys), keys)


TEXT_TOKENIZERS = [
    (lambda tokens, keys: tokens.int(), "ids_come_first_then_the_pads"),
    (lambda tokens, keys: tokens.clamp(max=300), "ids_come_first_then_the_pads"),
    (lambda tokens, keys: tokens * 0 + 5, "captions_differ"),
    (
        lambda tokens, keys: tokens if keys is None else tokens + len(keys) + torch.randint(2, (1,)),
        "a_copy_encodes_the_same",
    ),
    (lambda tokens, keys: tokens + 0 * torch.randint(2, (1,)), "the_random_numbers_are_left_alone"),
    (lambda tokens, keys: tokens.cumsum(0), "a_caption_is_encoded_by_itself"),
]


def test_a_good_text_tokenizer_passes() -> None:
    assert len(check_text_tokenizer(Wrapped())) == 7
    assert len(check_text_tokenizer(small_text_tokenizer())) == 7


@pytest.mark.parametrize(("change", "check"), TEXT_TOKENIZERS, ids=[check for _, check in TEXT_TOKENIZERS])
def test_a_faulty_text_tokenizer_fails(change: Callable, check: str) -> None:
    assert check in failures(check_text_tokenizer, Wrapped(change))
