"""What describes a trunk: an architecture of transformers, and the fields of its config.

Fields come from the user, from the config.json of a folder of weights, or from a checkpoint, and only those that the
architecture's own config declares get through: none of those by which transformers would load code, an adapter or a
quantisation.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

# Of the language model's head and its own ids, which the trunk has not.
OURS: dict[str, Any] = {
    "vocab_size": 1,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "use_cache": False,
    "is_decoder": True,
    "add_cross_attention": False,
    "tie_word_embeddings": False,
}
# Names that older config.json files have for what is `rope_parameters` now; transformers understands them.
OLD_NAMES = ("rope_theta", "rope_scaling")


def architectures() -> list[str]:
    """The names (`model_type`) of what transformers counts as causal language models."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def config_class(architecture: str) -> Any:
    """The class of an architecture's config.

    Raises:
        ValueError: no such architecture, or one that is more than a decoder of text.
    """
    from transformers import CONFIG_MAPPING

    known = architectures()
    if architecture not in known:
        raise ValueError(
            f"architecture={architecture[:100]} is no causal language model of transformers"
            + _near("generator.architecture=", architecture, known)
        )
    found = CONFIG_MAPPING[architecture]
    if found.sub_configs_defaults or found().is_encoder_decoder:
        text = f"{architecture}_text"
        raise ValueError(
            f"architecture={architecture} cannot be the trunk: it has parts besides a decoder of text, and only that "
            "is used here" + (f": generator.architecture={text} is it" if text in known else "")
        )
    return found


def declared(found: Any) -> set[str]:
    """The fields that a config class declares itself, without those of every config."""
    from transformers import PreTrainedConfig

    return {field.name for field in fields(found)} - {field.name for field in fields(PreTrainedConfig)}


def checked(found: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The user's fields by the names that the class declares: of GPT-2, `hidden_size` is `n_embd`.

    Raises:
        ValueError: a field that the class does not have, one that is set here, or one given by both of its names.
    """
    names = declared(found)
    known = names | {name for name, own in found.attribute_map.items() if own in names}
    result: dict[str, Any] = {}
    for name, value in given.items():
        own = found.attribute_map.get(name, name)
        if own in OURS and own in names:
            raise ValueError(
                f"config.{name} cannot be set: the trunk reads mmgen's own tokens and has no head of its own"
            )
        if name not in known:
            raise ValueError(
                f"config.{str(name)[:60]} is no field of {found.model_type}'s config ({found.__name__})"
                + _near("generator.config.", str(name), sorted(known - OURS.keys()))
            )
        if own in result:
            raise ValueError(f"config.{name} is given twice: {own} is the same field of {found.model_type}")
        result[own] = value
    return result


def sizes(found: Any, embed_dim: int, num_layers: int, num_heads: int) -> dict[str, Any]:
    """Those fields of a class, by its own names, that make a model of this size: the sizes, and what would not fit them
    as it is by default."""
    head_dim = embed_dim // num_heads
    wanted = {
        "hidden_size": embed_dim,
        "embedding_size": embed_dim,
        "word_embed_proj_dim": embed_dim,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_heads,
        "head_dim": head_dim,
        "kv_channels": head_dim,
        "rotary_dim": head_dim // 2 // 2 * 2,
        "intermediate_size": 4 * embed_dim,
        "ffn_dim": 4 * embed_dim,
    }
    names = declared(found)
    by_own_name = {found.attribute_map.get(name, name): value for name, value in wanted.items()}
    return {name: value for name, value in by_own_name.items() if name in names}


def make(found: Any, given: Mapping[str, Any]) -> Any:
    """The config with these fields; the rest is the class's default, but for what the trunk has not.

    Raises:
        ValueError: values that the class refuses.
    """
    names = declared(found)
    ours = {name: value for name, value in OURS.items() if found.attribute_map.get(name, name) in names}
    try:
        return found(**given, **ours)
    except Exception as error:  # of a value, whatever stumbles over it
        raise ValueError(f"{found.model_type}'s config is refused by transformers: {line(error)}") from error


def recorded(config: Any) -> dict[str, Any]:
    """Every field that makes this config again, in JSON's own types, the defaults too: another version of transformers
    may have others. A default that is no JSON number (an infinite bound) is left to the class."""
    found, every = type(config), config.to_dict()
    kept = declared(found) - OURS.keys()
    return {name: every[name] for name in sorted(kept & every.keys()) if _finite(every[name])}


def length_field(config: Any) -> str | None:
    """The field that bounds how many positions the trunk reads, by the class's own name; None where nothing does."""
    name = config.attribute_map.get("max_position_embeddings", "max_position_embeddings")
    return name if name in declared(type(config)) else None


def from_json(content: Mapping[str, Any], place: str) -> tuple[str, dict[str, Any]]:
    """Architecture and fields of a folder's config.json. What its class does not declare is passed over.

    Raises:
        ValueError: it names no architecture, or one that cannot be the trunk.
    """
    architecture = content.get("model_type")
    if not isinstance(architecture, str):
        raise ValueError(f"{place} names no architecture: it has no model_type, so it is no config of transformers")
    if content.get("quantization_config"):
        raise ValueError(f"{place} is of quantised weights, which cannot be trained further here: take those before it")
    if "auto_map" in content and architecture not in architectures():
        raise ValueError(f"{place} needs code that lies beside it, and code of a folder is never run")
    found = config_class(architecture)
    names = declared(found) | found.attribute_map.keys()
    if "rope_parameters" in names:
        names |= set(OLD_NAMES)
    ours = OURS.keys() | {found.attribute_map.get(name, name) for name in OURS}
    return architecture, {name: value for name, value in content.items() if name in names - ours}


def line(error: BaseException) -> str:
    """What an error says, in one line."""
    lines = [part.strip() for part in str(error).splitlines() if part.strip()]
    return " ".join(lines[:2])[:300] or type(error).__name__


def _near(key: str, word: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(word, known, 3, 0.5)
    return f": did you mean {' or '.join(key + name for name in near)}?" if near else f"; it knows {_some(known)}"


def _some(names: Collection[str]) -> str:
    text = ", ".join(names)
    return text if len(text) <= 300 else text[:299] + "…"


def _finite(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True
