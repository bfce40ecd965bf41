"""`clip`: the contrastive encoders of OpenAI (TorchScript archives), open_clip and Hugging Face.

The architecture follows from names and shapes. Not so the activation, how wide attention heads are, and how pixels are
normalised: OpenAI's archives are known, for the others a config beside the weights says it, or the user. The comparison
with the original's code shows none of the three, as that is built with the same: what is assumed has to be sure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmgen.checkpoint.parts import MAX_TEXT_TOKENIZER, TEXT_TOKENIZER
from mmgen.data import text_tokenizers
from mmgen.data.clip_text import ClipTextTokenizer
from mmgen.data.text_tokenizers import AnyTextTokenizer
from mmgen.errors import CheckpointError, ConfigError, quoted
from mmgen.interop.archives import Archive
from mmgen.interop.clip_config import (
    PIXELS,
    Told,
    hold,
    hugging_face_config,
    open_clip_config,
    preprocessor_config,
)
from mmgen.interop.clip_names import (
    HEAD_WIDTH,
    RESNET_STRIDE,
    architecture,
    flat,
    from_hugging_face,
    from_open_clip,
    is_hugging_face,
)
from mmgen.interop.formats import Archives, Asked, Plan, another, pictures, released, shapes_of
from mmgen.interop.report import Comparison, Measure
from mmgen.interop.sharded import Sharded

FILES = "ViT-B-32.pt|FOLDER"
OPTIONS = ("activation", "vocabulary", "heads", "pixels")
OPENAI = ("input_resolution", "context_length", "vocab_size")  # only OpenAI's archives carry these
REFERENCE = "open_clip_torch, or transformers"
LEFT: Mapping[str, str] = {
    **dict.fromkeys(OPENAI, "sizes that the weights tell as well"),
    "text_model.embeddings.position_ids": "numbers of rows",
    "vision_model.embeddings.position_ids": "numbers of rows",
    "attn_mask": "the causal mask",
}
ACTIVATIONS = ("gelu", "quick_gelu")
HEADS = ("num_heads", "text_heads")
# Widths of both sides, of what OpenAI published: weights of these, with no config, have heads as wide as theirs.
PUBLISHED = {("vit", 768, 512), ("vit", 1024, 768)} | {
    ("resnet", width, text_width) for width, text_width in ((64, 512), (80, 640), (96, 768), (128, 1024))
}
VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
CONFIGS = ("open_clip_config.json", "config.json", "preprocessor_config.json")
# Of a folder: the first of these that there is, and of those.
WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
VOCABULARIES = (TEXT_TOKENIZER, "merges.txt", "tokenizer.json", VOCABULARY, VOCABULARY.removesuffix(".gz"))
WITH_IDS = ("tokenizer.json", "vocab.json")  # say the ids too, and may say others than the merges beside them make
TOLERANCE = 1e-5


def files_in(folder: Path) -> list[Path]:
    """What is read of a folder as hubs hold them.

    Raises:
        CheckpointError: it holds no weights.
    """
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise CheckpointError(
            f"{folder} holds no weights of CLIP",
            code="MMG-K05",
            why=f"none of {', '.join(WEIGHTS)} is there",
            fix="name the file of weights and its config: mmgen import clip FILE CONFIG to=DIR",
        )
    vocabulary = next((folder / name for name in VOCABULARIES if (folder / name).is_file()), None)
    beside = [folder / name for name in CONFIGS if (folder / name).is_file()]
    with_ids = [folder / name for name in WITH_IDS if (folder / name).is_file() and folder / name != vocabulary]
    return [path for path in (weights, *beside, vocabulary, *with_ids) if path is not None]


def plan(archives: Archives, extra: Sequence[Path], asked: Asked) -> Plan:
    """See `formats.Format.plan`."""
    if len(archives) != 1:
        raise ConfigError(
            "clip is one file of weights, with its config and vocabulary if you have them, or a folder of these",
            code="MMG-C40",
            where="command line",
            fix="mmgen import clip ViT-B-32.pt vocabulary=bpe_simple_vocab_16e6.txt.gz to=DIR",
        )
    archive = archives[0]
    theirs = is_hugging_face(archive.weights)
    sources: dict[str, Any]
    if theirs:
        sources = {ours: (0, *names) for ours, names in from_hugging_face(archive.weights).items()}
        turned: frozenset[str] = frozenset()
    else:
        flatly, turned = from_open_clip(archive.weights)
        sources = {ours: (0, name) for ours, name in flatly.items()}
    lacking = [name for _, *names in sources.values() for name in names if name not in archive.weights]
    if lacking:
        raise another(archive, f"{lacking[0]} is not there")
    draft = Plan("encoder", {}, {}, sources, turned)
    try:
        shapes = shapes_of(draft, archives)
        options, image_size = architecture(shapes)
    except (KeyError, IndexError, ValueError) as error:
        raise another(archive, f"no CLIP: {error}") from None
    rows, length = shapes["text.embedding.weight"][0], shapes["text.position"][0]
    told = _told(archive, extra, theirs, options)
    hold(told, _sizes(options, image_size, rows, length))
    options["activation"] = _activation(archive, told, asked.activation)
    options |= _heads(archive, told, asked.heads, options)
    options["pixels"] = _pixels(told, asked.pixels)
    assumed = [
        f"{name}={value}"
        for name, value, known in (
            ("heads", [options[side] for side in HEADS], asked.heads or "num_heads" in told.options),
            ("pixels", options["pixels"], asked.pixels or "pixels" in told.options),
        )
        if not known
    ]
    vocabulary = _vocabulary(extra, asked.vocabulary)
    text_tokenizer = _text_tokenizer(archive, vocabulary, rows, length)
    _hold_ids(text_tokenizer, vocabulary, extra)
    spare: frozenset[str] = frozenset()
    if options["image_tower"] == "resnet":
        norms = (name.removesuffix("running_mean") for name in shapes if name.endswith("running_mean"))
        spare = frozenset(f"{name}num_batches_tracked" for name in norms)
    about = {"hugging_face": theirs, "ids": rows, "length": length}
    arguments = {"image_size": image_size}
    text = text_tokenizer.to_json()
    return Plan("encoder", options, arguments, sources, turned, spare, text, about, tuple(assumed))


def _sizes(options: Mapping[str, Any], image_size: int, rows: int, length: int) -> dict[str, Any]:
    """What the shapes say of sizes that configs name as well, for `hold`."""
    layers = options["stages"] if options["image_tower"] == "resnet" else options["image_layers"]
    named = {name: options.get(name) for name in ("embed_dim", "width", "patch_size", "text_layers", "text_width")}
    mlps = {"mlp_width": 4 * options["width"], "text_mlp_width": 4 * options["text_width"]}
    return {**named, **mlps, "layers": layers, "image_size": image_size, "ids": rows, "length": length}


def _told(archive: Archive | Sharded, extra: Sequence[Path], theirs: bool, options: Mapping[str, Any]) -> Told:
    """What the configs say; OpenAI's own archives need none."""
    of_text = (*VOCABULARIES, *WITH_IDS)
    named = {path.name: path for path in extra if path.suffix == ".json" and path.name not in of_text}
    pixels = named.pop("preprocessor_config.json", None)
    if theirs:
        path = named.get("config.json") or next(iter(named.values()), None)
        told = hugging_face_config(path) if path else Told()
        told.options |= preprocessor_config(pixels) if pixels else {}
        return told
    named = {name: path for name, path in named.items() if name != "config.json"} or named
    path = next(iter(named.values()), None)
    told = open_clip_config(path) if path else Told()
    if not all(name in map(flat, archive.weights) for name in OPENAI):
        return told
    if told.activation not in (None, "quick_gelu"):
        raise ConfigError(
            f"{path} is of a model with {told.activation}",
            code="MMG-C40",
            where="activation",
            why=f"{archive.path} is of OpenAI's form, and all of these have quick_gelu",
            fix="leave the config out, or give that of the model named -quickgelu",
        )
    known = {name: options[name] for name in (*HEADS, "pixels")}
    return Told("quick_gelu", known, told.path or archive.path, told.sizes)


def _activation(archive: Archive | Sharded, told: Told, asked: str | None) -> str:
    """The activation, as told or asked for.

    Raises:
        ConfigError: MMG-C40, neither says it, they differ, or there is none of that name.
    """
    if asked is not None and asked not in ACTIVATIONS:
        why = f"there are {' and '.join(ACTIVATIONS)}"
        raise ConfigError(
            f"no activation {quoted(asked)}", code="MMG-C40", where="activation", why=why, fix="activation=quick_gelu"
        )
    if asked is not None:
        _agree(told, "activation", told.activation, asked)
    found = told.activation or asked
    if found is None:
        raise ConfigError(
            f"{archive.path} does not tell its activation",
            code="MMG-C40",
            where="activation",
            why="weights trained with gelu are wrong with quick_gelu, and the other way round",
            fix="activation=gelu, or quick_gelu for open_clip's models named -quickgelu and all of OpenAI's; "
            "or give open_clip_config.json after the file",
        )
    return found


def _heads(
    archive: Archive | Sharded, told: Told, asked: Sequence[int] | None, options: Mapping[str, Any]
) -> dict[str, int]:
    """The attention heads of both sides, as told or asked for, or for widths that OpenAI published as its.

    Raises:
        ConfigError: MMG-C40, nothing says it, they differ, or they do not share out the widths.
    """
    resnet = options["image_tower"] == "resnet"
    widths = (options["width"] * (RESNET_STRIDE if resnet else 1), options["text_width"])
    said = {name: told.options[name] for name in HEADS if name in told.options}
    usual = f"heads=[{options['num_heads']},{options['text_heads']}]"
    if asked is not None:
        fits = len(asked) == 2 and all(h > 0 and width % h == 0 for h, width in zip(asked, widths, strict=True))
        if not fits:
            raise ConfigError(
                f"heads={quoted(list(asked), 60)} are none of these weights",
                code="MMG-C40",
                where="heads",
                why=f"they are two, of pictures and of text, and divide the widths {widths[0]} and {widths[1]}",
                fix=f"{usual} has {HEAD_WIDTH} features a head",
            )
        if said:
            _agree(told, "heads", list(said.values()), list(asked))
        return dict(zip(HEADS, asked, strict=True))
    if said:
        return said
    if (options["image_tower"], options["width"], options["text_width"]) in PUBLISHED:
        return {name: options[name] for name in HEADS}
    raise ConfigError(
        f"{archive.path} does not tell its attention heads",
        code="MMG-C40",
        where="heads",
        why=f"widths of {widths[0]} and {widths[1]} may be cut into heads in several ways, and only one is right",
        fix=f"give open_clip_config.json or config.json after the file; or {usual}, of pictures and of text, if a "
        f"head has {HEAD_WIDTH} features in both",
    )


def _pixels(told: Told, asked: str | None) -> str:
    """What pixels are normalised by, as told or asked for; else OpenAI's, as open_clip and transformers take them.

    Raises:
        ConfigError: MMG-C40, they differ, or there is none of that name.
    """
    if asked is not None and asked not in PIXELS:
        why = f"there are {' and '.join(PIXELS)}"
        raise ConfigError(f"no pixels {quoted(asked)}", code="MMG-C40", where="pixels", why=why, fix="pixels=openai")
    if asked is not None:
        _agree(told, "pixels", told.options.get("pixels"), asked)
    return str(asked or told.options.get("pixels", "openai"))


def _agree(told: Told, name: str, said: Any, asked: Any) -> None:
    """Raises ConfigError MMG-C40 where a file says something else than the user."""
    if said not in (None, asked):
        raise ConfigError(
            f"{name}={asked}, but {told.path} is of a model with {said}",
            code="MMG-C40",
            where=name,
            why="weights trained with one are wrong with the other, and nothing would show it",
            fix=f"leave {name} out, or {name}={said}",
        )


def _vocabulary(extra: Sequence[Path], asked: str | None) -> Path:
    """The text tokenizer's file.

    Raises:
        ConfigError: MMG-C40, there is none.
    """
    among = [path for path in extra if path.name.endswith((".txt", ".txt.gz")) or path.name in VOCABULARIES]
    if asked is None and not among:
        raise ConfigError(
            "the weights need the vocabulary of CLIP's text tokenizer",
            code="MMG-C40",
            where="vocabulary",
            why="without it nothing says what their ids of text mean, and mmgen holds no copy",
            fix=f"vocabulary={VOCABULARY}, from the repository openai/CLIP; or a merges.txt of CLIP",
        )
    return Path(asked) if asked is not None else among[0]


def _text_tokenizer(archive: Archive | Sharded, path: Path, rows: int, length: int) -> AnyTextTokenizer:
    """CLIP's own, for so many positions, or one that mmgen wrote; it has to have as many ids as the weights have rows.

    Raises:
        ConfigError: the file is no vocabulary.
        CheckpointError: MMG-K02, it is another one.
    """
    if length < 3:
        raise another(archive, f"{length} positions of text")
    found: AnyTextTokenizer
    try:
        found = _written(path) if path.name == TEXT_TOKENIZER else ClipTextTokenizer.from_file(path, length)
    except ConfigError as error:
        fix = f"vocabulary={VOCABULARY}, as in the repository openai/CLIP"
        raise ConfigError(error.what, code=error.code, where="vocabulary", why=error.why, fix=fix) from None
    if found.num_ids != rows or found.context_length != length:
        raise CheckpointError(
            f"{path} is the vocabulary of other weights",
            code="MMG-K02",
            where="vocabulary",
            why=f"it has {found.num_ids:,} ids at {found.context_length} places, "
            f"{archive.path.name} has {rows:,} at {length}",
            fix="vocabulary=FILE of the text tokenizer that they were trained with",
        )
    return found


def _hold_ids(text_tokenizer: AnyTextTokenizer, path: Path, extra: Sequence[Path]) -> None:
    """Holds the ids of files beside the vocabulary against its own: as many of another order would fit the weights.

    Raises:
        CheckpointError: MMG-K02, they differ.
    """
    if not isinstance(text_tokenizer, ClipTextTokenizer):
        return
    for other in extra:
        if other.name not in WITH_IDS or other == path:
            continue
        try:
            text_tokenizer.hold_ids_of(other)
        except ValueError as error:
            raise CheckpointError(
                f"{other} does not number pieces of text as {path} does",
                code="MMG-K02",
                where="vocabulary",
                why=str(error),
                fix="import weights whose ids are those that their merges make; or, if these are and that file is not "
                f"theirs, name the files without it: mmgen import clip WEIGHTS CONFIG {path} to=DIR",
            ) from None


def _written(path: Path) -> AnyTextTokenizer:
    """A text tokenizer that mmgen wrote beside weights that it exported."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_TEXT_TOKENIZER + 1)
    except OSError as error:
        why = error.strerror or str(error)
        raise CheckpointError(f"cannot read {path}", code="MMG-K05", why=why, fix="name a file") from None
    return text_tokenizers.from_json(data[:MAX_TEXT_TOKENIZER].decode("utf-8", "replace"))


@torch.no_grad()
def compare(component: Any, plan: Plan, tensors: Sequence[Mapping[str, Tensor]]) -> Comparison:
    """See `formats.Format.compare`: features of length one, of pictures and of captions of any length."""
    from mmgen.interop import clip_reference

    images, text_tokens = pictures(plan.arguments["image_size"]), _captions(component.text_tokenizer)
    ends = component.text_tokenizer.end(text_tokens)[:, None]
    filled = text_tokens.masked_fill(torch.arange(text_tokens.shape[1]) > ends, 0)  # they read at the highest id
    build = clip_reference.transformers if plan.about["hugging_face"] else clip_reference.open_clip
    reference, theirs = build(plan, tensors[0])
    image_features, text_features = theirs(component._normalised(images), filled)
    measures = (
        Measure(
            "largest difference of features of pictures",
            float((component.encode_image(images) - image_features).abs().max()),
            TOLERANCE,
        ),
        Measure(
            "largest difference of features of captions",
            float((component.encode_text(text_tokens) - text_features).abs().max()),
            TOLERANCE,
        ),
    )
    size = images.shape[-1]
    return Comparison(released(reference), f"2 pictures of {size}×{size} pixels, {len(text_tokens)} captions", measures)


def _captions(text_tokenizer: AnyTextTokenizer) -> Tensor:
    """Ids (3,T) of captions of one word, of some, and of as many as there is room for."""
    length, source = text_tokenizer.context_length, torch.Generator().manual_seed(0)
    ends = (min(2, length - 1), length // 2, length - 1)
    if not isinstance(text_tokenizer, ClipTextTokenizer):
        text_tokens = torch.randint(0, text_tokenizer.vocab_size, (3, length), generator=source)
        pads = torch.arange(text_tokenizer.vocab_size, text_tokenizer.num_ids)
        return torch.where(torch.arange(length) >= torch.tensor(ends)[:, None], pads, text_tokens)
    start, stop = text_tokenizer.start, text_tokenizer.stop
    text_tokens = torch.randint(0, start, (3, length), generator=source)
    text_tokens[:, 0] = start
    for row, end in enumerate(ends):
        text_tokens[row, end] = stop
        text_tokens[row, end + 1 :] = 0
    return text_tokens
