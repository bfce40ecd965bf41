"""The loaded trio: image tokenizer, generator, contrastive encoder; what `mmgen.load` returns and the commands use.

Letters: C captions, n drawings of each, k kept, L labels, N = h·w, H W pixels, D features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmgen import registry
from mmgen.checkpoint.exports import is_export, read_export
from mmgen.checkpoint.parts import Part, check_requires, load_weights, read_part
from mmgen.data.asked import check_caption, check_labels
from mmgen.data.text import BpeTextTokenizer
from mmgen.errors import CheckpointError, ConfigError, PluginError, quoted
from mmgen.images import decode
from mmgen.protocols import Encoder, Generator, Sampler, Tokenizer
from mmgen.runs.directory import RunDirectory

PARTS = ("tokenizer", "generator", "encoder")
# Pictures are decoded and scored in one batch size, the last batch padded: the last bits of a result depend on it.
BATCH = 64
MAX_LOGIT_SCALE = math.log(100)  # CLIP, section 2.5

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Drawings:
    """Drawings of one caption, best first by the encoder's score. Indexing gives pictures.

    Attributes:
        images: (k,3,H,W) in [0,1].
        scores: (k,) cosine of picture and caption.
        numbers: (k,) which of the drawings each is: the same seed and number draw it again.
        image_tokens: (k,N).
    """

    caption: str
    seed: int
    images: Tensor
    scores: Tensor
    numbers: Tensor
    image_tokens: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.images)


class TextToImage:
    """Draws captions, ranks the drawings, and classifies pictures by naming the classes.

    Args:
        tokenizer, generator, encoder: in eval mode; what is missing cannot be used, and is named when it is asked for.
        sampler: how tokens are drawn.
        fingerprints: of the parts that are there, by kind.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer | None = None,
        generator: Generator | None = None,
        encoder: Encoder | None = None,
        sampler: Sampler | None = None,
        fingerprints: Mapping[str, str] | None = None,
    ) -> None:
        self._parts: dict[str, Any] = {"tokenizer": tokenizer, "generator": generator, "encoder": encoder}
        self.sampler = sampler or registry.build("sampler", {"name": "autoregressive"})
        self.fingerprints = dict(fingerprints or {})

    def part(self, kind: str) -> Any:
        """The part of that kind.

        Raises:
            CheckpointError: it was not trained or not exported.
        """
        if self._parts[kind] is None:
            raise CheckpointError(
                f"there is no trained {kind} here", code="MMG-K05", fix=f"mmgen train task={kind}, or mmgen run"
            )
        return self._parts[kind]

    def generate(self, caption: str, *, num_images: int = 8, keep: int | None = None, seed: int = 1) -> Drawings:
        """Draws a caption and keeps the drawings that fit it best, as DALL·E does (section 2.6).

        Args:
            caption: any text; longer than the generator's context is an error, never cut.
            num_images: how many are drawn.
            keep: how many are kept, all if None.
            seed: image number i depends on (caption, seed, i) alone.

        Raises:
            ConfigError: no caption, one that is too long, or counts that make no sense.
        """
        if num_images < 1 or (keep is not None and not 1 <= keep <= num_images):
            raise ConfigError(
                f"cannot keep {keep} of {num_images} images", code="MMG-C10", where="keep", fix=f"keep={num_images}"
            )
        return self.draw([caption], num_images=num_images, keep=keep, seed=seed)[0]

    @torch.no_grad()
    def draw(
        self,
        captions: Sequence[str],
        *,
        num_images: int,
        keep: int | None = None,
        seed: int = 1,
        progress: Progress | None = None,
        cut: bool = False,
    ) -> list[Drawings]:
        """`generate` for many captions at once, which share batches. `progress` counts finished pictures; with `cut`, a
        caption that is too long is cut, as it is in training."""
        generator, tokenizer, encoder = (self.part(kind) for kind in ("generator", "tokenizer", "encoder"))
        for owner in () if cut else (generator, encoder):
            for caption in captions:
                check_caption(caption, owner.text_tokenizer)
        text_tokens = generator.text_tokenizer.encode(captions)
        tokens = self.sampler.draw(generator, text_tokens, num_images=num_images, seed=seed, progress=progress)
        images = _in_batches(lambda t: tokenizer.decode(t.view(-1, *tokenizer.grid)), tokens.flatten(0, 1))
        features = self.encode_images(images).view(len(captions), num_images, -1)
        scores = (features @ self.encode_captions(captions)[:, :, None]).squeeze(-1)
        images = images.view(len(captions), num_images, *images.shape[1:])
        drawings = []
        for i, caption in enumerate(captions):
            order = scores[i].argsort(descending=True, stable=True)[: keep or num_images]
            drawings.append(Drawings(caption, seed, images[i, order], scores[i, order], order, tokens[i, order]))
        return drawings

    @torch.no_grad()
    def classify(
        self,
        image: Tensor | str | Path,
        labels: Sequence[str],
        templates: Sequence[str] = ("{}",),
        *,
        cut: bool = False,
    ) -> dict[str, float]:
        """Classifies a picture by naming the classes (CLIP, section 3.1).

        Args:
            image: (3,H,W) in [0,1], or a file.
            labels: what it may show; at least one, none twice.
            templates: captions with one place `{}` for the label; their features are averaged (section 3.1.4).
            cut: whether a label that is too long is cut instead of refused.

        Returns:
            Each label's share, the largest first; they add up to one.

        Raises:
            ConfigError: no labels, one that is empty, repeated or too long, a template without a place.
        """
        encoder = self.part("encoder")
        check_labels(labels, templates)
        captions = [[template.replace("{}", label) for label in labels] for template in templates]
        for caption in () if cut else (text for texts in captions for text in texts):
            check_caption(caption, encoder.text_tokenizer)
        if not isinstance(image, Tensor):
            image = decode(image, size=encoder.image_size)
        picture = F.interpolate(image[None], (encoder.image_size, encoder.image_size), mode="area")
        features = torch.stack([self.encode_captions(texts) for texts in captions])
        classes = F.normalize(features.mean(0), dim=-1)
        logits = encoder.logit_scale.clamp_max(MAX_LOGIT_SCALE).exp() * (self.encode_images(picture) @ classes.T)[0]
        shares = logits.softmax(0)
        return {labels[int(i)]: float(shares[i]) for i in shares.argsort(descending=True, stable=True)}

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """(B,3,H,W) in [0,1] to image_features (B,D)."""
        return _in_batches(self.part("encoder").encode_image, images)

    @torch.no_grad()
    def encode_captions(self, captions: Sequence[str]) -> Tensor:
        """Captions to text_features (B,D)."""
        encoder = self.part("encoder")
        return _in_batches(encoder.encode_text, encoder.text_tokenizer.encode(captions))

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B,3,H,W) to indices (B,h,w) and the pictures (B,3,H,W) decoded from them."""
        tokenizer = self.part("tokenizer")
        indices = _in_batches(tokenizer.encode, images)
        return indices, _in_batches(tokenizer.decode, indices)


def _in_batches(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """Applies a function row by row in batches of one size, the last one padded with its first row."""
    results = []
    for part in rows.split(BATCH):
        padded = torch.cat([part, part[:1].expand(BATCH - len(part), *part.shape[1:])]) if len(part) < BATCH else part
        results.append(function(padded)[: len(part)])
    return torch.cat(results)


def load_part(part: Part, *, trusted: bool = False) -> Any:
    """A part read from disk as the component it is, in eval mode; registry names only, unless it is `trusted`.

    Raises:
        CheckpointError: its tensors do not fit the component.
        PluginError: the component's plugin is not installed.
    """
    arguments = dict(part.arguments)
    if "grid" in arguments:
        arguments["grid"] = tuple(arguments["grid"])
    if part.text_tokenizer is not None:
        arguments["text_tokenizer"] = BpeTextTokenizer.from_json(part.text_tokenizer)
    try:
        component = registry.build(part.kind, part.config, trusted=trusted, **arguments)
    except ConfigError as error:
        raise PluginError(
            f"the {part.kind} is a {quoted(part.config['name'])}, which cannot be built here",
            code="MMG-P05",
            why=error.what,
            fix="install the plugin that has it, in the version that wrote it",
        ) from error
    load_weights(component, part, "install the version that wrote it")
    return component.eval()


def read_parts(path: str | Path, *, trusted: bool = False) -> dict[str, Part]:
    """The finished parts, by kind, of an export, a run of all stages, or a run of one; checked to belong together.

    Args:
        path: such as `runs/quickstart`.
        trusted: allows `module:Class`; only for a run that this user's own command has just made.

    Raises:
        CheckpointError: nothing finished lies there, a file is damaged, or the parts were not made for each other.
    """
    root = Path(path)
    if is_export(root):
        return read_export(root).parts
    models = [root / kind / "model" for kind in PARTS] + [root / "model", root]
    parts = [read_part(model, trusted=trusted) for model in models if (model / "manifest.json").is_file()]
    if not parts:
        raise CheckpointError(
            f"{quoted(str(path))} holds no finished run and no export",
            code="MMG-K05",
            why="" if root.exists() else "there is no such directory",
            fix="mmgen run, and then its directory, such as runs/quickstart",
        )
    found = {part.kind: part for part in parts}
    check_requires(found)
    return found


def open_trio(path: str | Path, sampler: Sampler | None = None, *, trusted: bool = False) -> TextToImage:
    """Opens an export or a finished run: every part that is there (see `read_parts` for the errors).

    Args:
        sampler: how tokens are drawn; None takes the one that the run was judged with.
    """
    parts = read_parts(path, trusted=trusted)
    components = {kind: load_part(part, trusted=trusted) for kind, part in parts.items()}
    fingerprints = {kind: part.fingerprint for kind, part in parts.items()}
    return TextToImage(
        tokenizer=components.get("tokenizer"),
        generator=components.get("generator"),
        encoder=components.get("encoder"),
        sampler=sampler or registry.build("sampler", recorded_sampler(path), trusted=False),
        fingerprints=fingerprints,
    )


def recorded_sampler(path: str | Path) -> dict[str, Any]:
    """The sampler that a run or an export was judged with; autoregressive's defaults where it says nothing."""
    default = {"name": "autoregressive"}
    if is_export(path):
        return read_export(path).sampler or default
    if RunDirectory(path).config_file.is_file():
        return RunDirectory(path).read_config().get("sampler") or default
    return default
