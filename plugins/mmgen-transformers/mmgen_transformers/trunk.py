"""The trunk: a model of transformers without its embedding and its head, which reads vectors and gives vectors.

Letters: B batch, S positions, D width, L layers, H heads of keys and values, K head dim.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmgen.stream import KVCache
from mmgen_transformers.configs import line
from mmgen_transformers.folder import check_files, read_tensors

Attention = Literal["auto", "sdpa", "eager"]
PROBED = 4  # positions read to see how an architecture behaves
ALIKE = 1e-3  # of the largest number: what two ways to compute the same may differ by


@dataclass(frozen=True)
class Layout:
    """The tables of keys and values that an architecture fills, (L,B,H,·,K)."""

    layers: int
    heads: int
    head_dim: int


def make(config: Any, attention: Attention, weights: str | None) -> Any:
    """The trunk of a config in single precision: with random weights, or with those of a folder.

    On the meta device, where nothing holds numbers, of a folder's weights only the headers are read.

    Raises:
        ValueError: transformers cannot build it, or the weights are of another model.
    """
    from transformers import MODEL_MAPPING, AutoModel

    options: dict[str, Any] = {"dtype": torch.float32}
    if attention != "auto":
        options["attn_implementation"] = attention
    tensors = None
    if weights is not None:
        check_files(weights)
        tensors = None if torch.get_default_device().type == "meta" else read_tensors(weights)
    try:
        with by_itself():
            model_class: Any = MODEL_MAPPING[type(config)]
            if "add_pooling_layer" in inspect.signature(model_class.__init__).parameters:
                options["add_pooling_layer"] = False  # it reads the first position, for a classifier
            if tensors is None:
                model, found = AutoModel.from_config(config, **options), None
            else:
                model, found = model_class.from_pretrained(
                    None, config=config, state_dict=tensors, ignore_mismatched_sizes=True, output_loading_info=True,
                    **options,
                )  # fmt: skip
    except Exception as error:  # of a config or of weights, whatever stumbles over them
        raise ValueError(f"transformers cannot build this {config.model_type}: {line(error)}") from error
    if found is not None:
        _require_all(model, found, str(weights))
    model.set_input_embeddings(nn.Identity())  # the tokens are mmgen's, and so are their vectors
    return model


def _require_all(model: Any, found: dict[str, Any], weights: str) -> None:
    """Raises ValueError unless every tensor of the trunk, but its embedding, came from the folder, and no layer of the
    folder was left over."""
    embedding = {name for name, module in model.named_modules() if module is model.get_input_embeddings()}
    tables = {f"{name}.weight" for name in embedding}
    misfit = {name: f"{tuple(theirs)} where {tuple(ours)} is wanted" for name, theirs, ours in found["mismatched_keys"]}
    missing = dict.fromkeys(found["missing_keys"], "is missing")
    parts, prefix = {name for name, _ in model.named_children()}, f"{model.base_model_prefix}."
    unexpected = [name.removeprefix(prefix) for name in found["unexpected_keys"]]
    spare = {name: "has no place" for name in unexpected if name.partition(".")[0] in parts}
    wrong = {name: why for name, why in {**misfit, **missing, **spare}.items() if name not in tables}
    if wrong or found["error_msgs"]:
        name = min(wrong, default="")
        why = f"{name} {wrong[name]}" if name else found["error_msgs"][0]
        raise ValueError(
            f"weights={weights} are not those of this config: {why} ({len(wrong)} tensors in all): leave out whatever "
            "generator.config and generator.architecture say against the folder"
        )


def compute_twice(model: Any) -> None:
    """From now on, training computes each block's inside a second time instead of keeping it.

    Raises:
        ValueError: transformers has no such thing for the architecture.
    """
    if not model.supports_gradient_checkpointing:
        raise ValueError(f"gradient_checkpointing=true: transformers has none for {model.config.model_type}")
    model.activation_checkpointing_enable({"use_reentrant": False})


def examine(model: Any, width: int, positions: int) -> Layout | None:
    """How a trunk remembers what it read: the tables that it fills, or None where they are not enough (a recurrent
    state, keys of several sizes) and everything has to be read again. None on the meta device, too.

    Raises:
        ValueError: it cannot read vectors, gives others than (B,S,D), or sees what comes later.
    """
    if next(model.parameters()).is_meta:
        return None
    kind = model.config.model_type
    read = min(PROBED, positions)
    x = 0.02 * torch.randn(1, read, width, generator=torch.Generator().manual_seed(0))
    later = torch.cat([x[:, :-1], -x[:, -1:]], 1)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), by_itself():
            whole, other = (model(inputs_embeds=given, use_cache=False).last_hidden_state for given in (x, later))
            layout = _layout(model, x, whole) if whole.shape == x.shape else None
    except Exception as error:
        raise ValueError(f"architecture={kind} cannot be the trunk: it cannot read vectors: {line(error)}") from error
    finally:
        model.train(training)
    if whole.shape != x.shape:
        raise ValueError(
            f"architecture={kind} cannot be the trunk: it makes {tuple(whole.shape[1:])} of {read} positions of {width}"
        )
    if not _alike(whole[:, :-1], other[:, :-1]):
        raise ValueError(f"architecture={kind} cannot be the trunk: its positions see what comes after them")
    return layout


def _layout(model: Any, x: Tensor, whole: Tensor) -> Layout | None:
    """The tables of keys and values after reading x (1,S,D), if reading it in two pieces gives the same (1,S,D)."""
    from transformers import DynamicCache

    cache: Any = DynamicCache()
    half = x.shape[1] // 2
    try:
        model(inputs_embeds=x[:, :half], past_key_values=cache, use_cache=True)
        shapes = {table.shape for layer in cache.layers for table in (layer.keys, layer.values)}
        (shape,) = shapes  # one for all layers, keys and values alike
        layout = Layout(len(cache.layers), shape[1], shape[3])
        tables = KVCache.empty(layout.layers, 1, layout.heads, x.shape[1], layout.head_dim, like=x)
        pieces = [read_on(model, piece, tables) for piece in (x[:, :half], x[:, half:])]
    except Exception:  # it knows no such cache, which is no fault: what it read is read again
        return None
    return layout if _alike(torch.cat(pieces, 1), whole) else None


def _alike(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() <= ALIKE * other.abs().max())


def read_on(model: Any, x: Tensor, kv_cache: KVCache) -> Tensor:
    """Vectors (B,S,D) after those whose keys and values lie in the tables, to vectors (B,S,D); the tables grow by S."""
    from transformers import Cache

    # Each layer writes into the tables, and nothing is concatenated.
    cache = Cache(layers=[_table_layer()(kv_cache, number) for number in range(len(kv_cache.keys))])
    hidden: Tensor = model(inputs_embeds=x, past_key_values=cache, use_cache=True).last_hidden_state
    kv_cache.advance(x.shape[1])
    return hidden


@functools.cache
def _table_layer() -> Any:
    """The class of a layer of transformers' cache that lies in mmgen's tables, made once transformers is imported."""
    from transformers.cache_utils import DynamicLayer

    class TableLayer(DynamicLayer):
        def __init__(self, kv_cache: KVCache, number: int) -> None:
            super().__init__()
            self.kv_cache, self.number, self.is_initialized = kv_cache, number, True

        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            return self.kv_cache.write(self.number, key_states, value_states)

        def get_seq_length(self) -> int:
            return self.kv_cache.length

    return TableLayer


@contextmanager
def by_itself() -> Iterator[None]:
    """Inside, transformers reports nothing, draws no bars, asks no hub (where some architectures look for kernels), and
    leaves no new name in the environment (torch's compiler, which it imports, puts its cache's there)."""
    from huggingface_hub import constants
    from transformers.utils import logging

    environment = set(os.environ)
    verbosity, bars, offline = logging.get_verbosity(), logging.is_progress_bar_enabled(), constants.HF_HUB_OFFLINE
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        for name in set(os.environ) - environment:
            del os.environ[name]
