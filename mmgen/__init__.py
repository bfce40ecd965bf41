"""mmgen: train, sample and judge text-to-image models on discrete tokens.

Importing this module imports neither torch nor Lightning; `load` and `build` do when they are called.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmgen.text_to_image import TextToImage

try:
    __version__ = version("mmgen-lightning")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0+unknown"


def load(
    path: str,
    *,
    tokenizer_from: str | None = None,
    generator_from: str | None = None,
    encoder_from: str | None = None,
    device: str = "auto",
) -> TextToImage:
    """Opens an export or a finished run's directory.

    Args:
        path: a directory written by `mmgen export`, or a run's, such as `runs/quickstart`.
        tokenizer_from: another one, whose image tokenizer to use.
        generator_from: another one, whose generator to use, or a checkpoint of a run's generator.
        encoder_from: another one, whose encoder to use.
        device: where it computes: cpu, cuda:0 …; auto is the GPU, where there is one.

    Raises:
        CheckpointError: nothing finished lies there, or a file is damaged or made for something else.
    """
    from mmgen.text_to_image import open_trio

    return open_trio(
        path, tokenizer_from=tokenizer_from, generator_from=generator_from, encoder_from=encoder_from, device=device
    )


def build(kind: str, config: dict[str, Any] | str, **arguments: Any) -> Any:
    """Builds a component from its registry name, or from a config that holds it: `build("sampler", "autoregressive")`.

    Args:
        kind: one of dataset, tokenizer, generator, encoder, sampler, evaluator.
        config: the component's name, or a mapping with `name` and its options.
        arguments: what other parts set for it (see `mmgen.protocols`).

    Raises:
        ConfigError: an unknown name or option.
        PluginError: the component's plugin is broken or its name is claimed twice.
    """
    from mmgen import registry

    return registry.build(kind, {"name": config} if isinstance(config, str) else config, **arguments)
