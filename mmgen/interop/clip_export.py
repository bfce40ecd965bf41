"""mmgen's `clip` as a folder that open_clip opens: `open_clip.create_model_from_pretrained("local-dir:FOLDER")`.

    open_clip_config.json           the architecture and how pixels are normalised
    open_clip_model.safetensors     the tensors by open_clip's names
    tokenizer.json …                CLIP's text tokenizer, where the encoder has one
    text_tokenizer.json             the text tokenizer as mmgen reads it
    README.md                       how to open it, and what does not fit
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmgen import registry
from mmgen.checkpoint.exports import refuse_filled
from mmgen.checkpoint.files import write_directory_atomic
from mmgen.checkpoint.parts import TEXT_TOKENIZER, Part
from mmgen.checkpoint.tensors import num_bytes, write_tensors
from mmgen.data import text_tokenizers
from mmgen.data.clip_text import MARKS, ClipTextTokenizer
from mmgen.data.text_tokenizers import AnyTextTokenizer
from mmgen.errors import CheckpointError, quoted
from mmgen.files import write_json
from mmgen.interop.clip_config import PIXELS
from mmgen.interop.clip_names import RESNET_STRIDE, to_open_clip

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        image_tower: vit or resnet.
        notes: what the user has to know, a line each.
    """

    image_tower: str
    notes: tuple[str, ...]


def write_open_clip(directory: str | Path, part: Part) -> Exported:
    """Writes an encoder atomically in open_clip's form.

    Raises:
        CheckpointError: MMG-K12, open_clip has no such model; MMG-K02, the weights do not fit their config; MMG-K07,
            the directory is not empty; or it cannot be written. Nothing was written.
    """
    directory = Path(directory)
    refuse_filled(directory)
    if part.config["name"].partition("@")[0] != "clip" or part.text_tokenizer is None:
        name = part.config["name"]
        raise _inexpressible(f"the encoder is {name}", "export one that is a `clip`, or leave out format")
    options = registry.complete("encoder", part.config, trusted=False)
    text_tokenizer = text_tokenizers.from_json(part.text_tokenizer)
    config = open_clip_config(options, part.arguments["image_size"], text_tokenizer)
    _check_weights(part, text_tokenizer)
    tensors = open_clip_tensors(part.tensors)
    notes = _notes(text_tokenizer)

    def fill(temp: Path) -> None:
        write_json(temp / CONFIG, config)
        with open(temp / WEIGHTS, "wb") as file:
            write_tensors(file, tensors)
        (temp / TEXT_TOKENIZER).write_text(part.text_tokenizer or "", encoding="utf-8")
        if isinstance(text_tokenizer, ClipTextTokenizer):
            (temp / "tokenizer.json").write_text(text_tokenizer.to_hugging_face(), encoding="utf-8")
            write_json(temp / "tokenizer_config.json", _tokenizer_config(text_tokenizer))
        (temp / "README.md").write_text(_readme(text_tokenizer, notes), encoding="utf-8")

    write_directory_atomic(directory, fill, needed=num_bytes(tensors) + 65536)
    return Exported(options["image_tower"], notes)


def _check_weights(part: Part, text_tokenizer: AnyTextTokenizer) -> None:
    """Raises CheckpointError MMG-K02 unless the part holds what its config describes, as one of an early version may
    not; open_clip would tell it by names that nobody here knows."""
    with torch.device("meta"):
        component = registry.build(
            "encoder", part.config, trusted=False, text_tokenizer=text_tokenizer, **part.arguments
        )
    wanted = {name: tensor.shape for name, tensor in component.state_dict().items()}
    found = {name: tensor.shape for name, tensor in part.tensors.items()}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        raise CheckpointError(
            "the encoder's weights do not fit its config",
            code="MMG-K02",
            why=f"{len(wrong)} tensors are missing, unknown or of another shape, such as {quoted(wrong[0])}",
            fix="export it with the version of mmgen that wrote it",
        )


def open_clip_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a `clip` by open_clip's names; projections lie the other way round there."""
    names, turned = to_open_clip(tensors)
    return {
        theirs: (tensors[ours].T if ours in turned else tensors[ours]).contiguous() for ours, theirs in names.items()
    }


def open_clip_config(options: Mapping[str, Any], image_size: int, text_tokenizer: AnyTextTokenizer) -> dict[str, Any]:
    """`open_clip_config.json`.

    Args:
        options: of `clip`, all of them.
        image_size: H = W.
        text_tokenizer: the encoder's.

    Raises:
        CheckpointError: MMG-K12, open_clip has no such model.
    """
    width, heads = options["width"], options["num_heads"]
    if options["image_tower"] == "resnet":
        vision = {"layers": list(options["stages"]), "head_width": RESNET_STRIDE * width // heads, "patch_size": None}
    else:
        if options["pool"] != "class_token":
            raise _inexpressible(
                f"its pool is {options['pool']}",
                "train one with encoder.pool=class_token, or leave out format",
                "open_clip's average pooling keeps a class token that the patches attend to; these weights have none",
            )
        vision = {"layers": options["image_layers"], "head_width": width // heads, "patch_size": options["patch_size"]}
        vision |= {} if options["pre_norm"] else {"no_ln_pre": True}
    text = {
        "context_length": text_tokenizer.context_length,
        "vocab_size": text_tokenizer.num_ids,
        "width": options["text_width"] or width,
        "heads": options["text_heads"] or heads,
        "layers": options["text_layers"],
    }
    if isinstance(text_tokenizer, ClipTextTokenizer) and not text_tokenizer.published:
        # Any name makes open_clip read a local folder's own tokenizer in place of the one it ships.
        text["hf_tokenizer_name"] = "tokenizer.json"
    model = {
        "embed_dim": options["embed_dim"],
        "quick_gelu": options["activation"] == "quick_gelu",
        "vision_cfg": {"image_size": image_size, "width": width, **vision},
        "text_cfg": text,
        **({"init_logit_bias": -10.0} if options["loss"] == "sigmoid" else {}),
    }
    mean, deviation = PIXELS[options["pixels"]]
    pictures = {"size": image_size, "mode": "RGB", "mean": list(mean), "std": list(deviation)}
    return {"model_cfg": model, "preprocess_cfg": {**pictures, "interpolation": "bicubic", "resize_mode": "shortest"}}


def _tokenizer_config(text_tokenizer: ClipTextTokenizer) -> dict[str, Any]:
    # Filled with the mark after a caption: open_clip reads at the first place of the highest id.
    start, stop = MARKS
    marks = {"bos_token": start, "eos_token": stop, "unk_token": stop, "pad_token": stop}
    length = text_tokenizer.context_length
    return {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": length, **marks}


def _notes(text_tokenizer: AnyTextTokenizer) -> tuple[str, ...]:
    if isinstance(text_tokenizer, ClipTextTokenizer):
        return ()
    return (f"open_clip cannot read this encoder's text tokenizer; README.md says how to use {TEXT_TOKENIZER}",)


_OPEN = """
model, preprocess = open_clip.create_model_from_pretrained("local-dir:THIS_FOLDER")
"""
_TOKENIZE = """tokenize = open_clip.get_tokenizer("local-dir:THIS_FOLDER")
text_features = model.encode_text(tokenize(["a cat"]), normalize=True)
"""
_IMPORTS = "import open_clip\n"
_IMPORTS_OURS = """from pathlib import Path

import open_clip
import torch

from mmgen.data.text_tokenizers import from_json
"""
_TOKENIZE_OURS = """text_tokenizer = from_json(Path("THIS_FOLDER/text_tokenizer.json").read_text())


def tokenize(captions):
    text_tokens = text_tokenizer.encode(captions)
    text_tokens[:, -1] = text_tokenizer.num_ids - 1  # a caption that fills every place ends at the last all the same
    ends = text_tokenizer.end(text_tokens)[:, None]
    places = torch.arange(text_tokenizer.context_length)
    return text_tokens.masked_fill(places > ends, 0)


text_features = model.encode_text(tokenize(["a cat"]), normalize=True)
"""


def _readme(text_tokenizer: AnyTextTokenizer, notes: tuple[str, ...]) -> str:
    ours = not isinstance(text_tokenizer, ClipTextTokenizer)
    lines = [
        "# A contrastive encoder, trained with mmgen, for open_clip",
        "",
        "```python",
        ((_IMPORTS_OURS if ours else _IMPORTS) + _OPEN + (_TOKENIZE_OURS if ours else _TOKENIZE)).rstrip(),
        "```",
        "",
        "Back into mmgen, with the same weights: `mmgen import clip THIS_FOLDER to=DIR`.",
        "",
        "Pictures are cut to the middle square and resized as open_clip does, bicubic, and as `mmgen classify` does; "
        "mmgen's datasets take Lanczos.",
    ]
    if ours:
        lines += [
            "",
            "## Its text tokenizer is not open_clip's",
            "",
            "It is a byte-level BPE whose fillers are ids of their own, one for each position, and a caption is read",
            "at the first of them. open_clip reads at the highest id and fills with 0, and has no class for such a",
            "vocabulary: `open_clip.get_tokenizer` gives ids that mean other words here.",
            f"`{TEXT_TOKENIZER}` holds it as mmgen reads it, and the lines above make ids that open_clip reads as",
            "mmgen does. A caption that leaves no place for a filler loses its last id to one.",
        ]
    elif not text_tokenizer.published:  # type: ignore[union-attr]
        lines += [
            "",
            "Its vocabulary is another than OpenAI's, so open_clip reads `tokenizer.json` with `transformers`, which",
            f"has to be installed. `{MARKS[1]}` written in a caption is the mark there, and ordinary text in mmgen.",
        ]
    return "\n".join(lines) + "\n"


def _inexpressible(what: str, fix: str, why: str = "") -> CheckpointError:
    return CheckpointError(
        f"open_clip has no such model: {what}", code="MMG-K12", where="format=open_clip", why=why, fix=fix
    )

