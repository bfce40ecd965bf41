"""Parts and an export, small; written once and copied, since every write waits for the disk."""

import shutil

import pytest
import torch

from mmgen.checkpoint.exports import write_export
from mmgen.checkpoint.parts import write_part

TEXT_TOKENIZER = '{"model": {"vocab": {"_": 0, "${": 1}}}'
NAMES = {"tokenizer": "vq", "generator": "transformer", "encoder": "clip"}


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """A run's parts and an export of them: the directory of both, and the parts by kind."""
    directory = tmp_path_factory.mktemp("written")
    parts = {}
    torch.manual_seed(0)
    for kind, name in NAMES.items():
        parts[kind] = write_part(
            directory / "run" / kind / "model",
            kind=kind,
            config={"name": name, "num_layers": 2},
            arguments={"image_size": 32, "grid": (8, 8)},
            tensors={
                "weight": torch.randn(3, 4),
                "bias": torch.zeros(4, dtype=torch.bfloat16),
                "step": torch.tensor(7),
            },
            text_tokenizer=None if kind == "tokenizer" else TEXT_TOKENIZER,
            requires={"tokenizer": parts["tokenizer"].fingerprint} if kind == "generator" else {},
            info={"step": 800, "val/loss": float("nan")},
        )
    write_export(
        directory / "export",
        parts=parts,
        data={"name": "emoji", "fingerprint": "0" * 16, "attribution": "Twemoji, CC-BY 4.0"},
        sampler={"name": "autoregressive", "top_k": 100},
        templates=["{name} with {tone} skin tone"],
        classes={"tone": ("light", "dark")},
    )
    return directory, parts


@pytest.fixture
def parts(written, tmp_path):
    """The three parts by kind; they lie at `run/KIND/model`."""
    shutil.copytree(written[0] / "run", tmp_path / "run")
    return dict(written[1])


@pytest.fixture
def export(written, tmp_path):
    """A directory to be given to others."""
    shutil.copytree(written[0] / "export", tmp_path / "export")
    return tmp_path / "export"
