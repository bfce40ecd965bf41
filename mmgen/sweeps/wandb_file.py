"""A sweep for W&B: a YAML file whose agents run mmgen, one training a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from mmgen.errors import ConfigError
from mmgen.files import write_atomic
from mmgen.sweeps.definition import Sweep
from mmgen.sweeps.space import Parameter

METHODS = {"random": "random", "grid": "grid"}


def write_wandb_sweep(sweep: Sweep, command: str, config_dir: str | None) -> Path:
    """Writes wandb-sweep.yaml into the sweep's directory.

    Args:
        command: train; the three trainings of `mmgen run` are three runs of W&B's, of which an agent knows one.
        config_dir: the user's YAML.

    Raises:
        ConfigError: the search says what W&B cannot.
    """
    cannot = ""
    if command != "train":
        cannot = "an agent starts one run of W&B's, and `mmgen run` has three: search one part, task=…"
    elif len(sweep.goals) > 1:
        cannot = "it has one goal"
    elif conditional := [p.key for p in sweep.space.parameters if p.when]:
        cannot = f"it knows no conditions, as {conditional[0]} has"
    if cannot:
        text = f"a W&B sweep cannot say this: {cannot}"
        raise ConfigError(text, code="MMG-C68", where="wandb", fix="leave wandb out: mmgen sweep runs it")
    (goal,) = sweep.goals
    body: dict[str, Any] = {
        "program": "mmgen",
        "name": sweep.name,
        "method": METHODS.get(str(sweep.sampler["name"]), "bayes"),
        "metric": {"name": goal.metric, "goal": goal.direction},
        "parameters": {p.key: _parameter(p) for p in sweep.space.parameters},
        **({"run_cap": sweep.trials} if sweep.trials else {}),
        "command": [
            "${env}",
            "mmgen",
            command,
            *([f"--config-dir={config_dir}"] if config_dir else []),
            *sweep.overrides,
            "tracking=online",
            f"run.dir={sweep.directory / 'trials'}",
            f"run.name={sweep.name}-${{oc.env:WANDB_RUN_ID}}",
            "${args_no_hyphens}",
        ],
    }
    sweep.directory.mkdir(parents=True, exist_ok=True)
    file = sweep.directory / "wandb-sweep.yaml"
    head = f"# wandb sweep {file}, then wandb agent ENTITY/PROJECT/ID on as many machines as you like.\n"
    write_atomic(file, head + yaml.safe_dump(body, sort_keys=False, allow_unicode=True))
    return file


def _parameter(parameter: Parameter) -> dict[str, Any]:
    if parameter.choices:
        return {"values": ["null" if choice is None else choice for choice in parameter.choices]}
    if parameter.step and not parameter.whole:
        kind = "q_uniform"
    elif parameter.whole:
        kind = "q_log_uniform_values" if parameter.log else "q_uniform" if (parameter.step or 1) > 1 else "int_uniform"
    else:
        kind = "log_uniform_values" if parameter.log else "uniform"
    step = {"q": parameter.step or 1} if kind.startswith("q_") else {}
    assert math.isfinite(parameter.low)
    return {"distribution": kind, "min": parameter.low, "max": parameter.high, **step}
