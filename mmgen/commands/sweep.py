"""`mmgen sweep`: searches for better values, each trial a run of its own, and reports what it found."""

from __future__ import annotations

import shlex
import sys
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig

from mmgen.commands.recipe import write_experiment
from mmgen.commands.searching import Asked, asked
from mmgen.errors import Interrupted
from mmgen.files import write_atomic
from mmgen.sweeps import search
from mmgen.sweeps.driver import Driver
from mmgen.sweeps.results import Result, best, shown

FAILED_PARTS = 4  # the exit code where no trial came to its end, or most of the first failed


def main(config: dict[str, Any], positionals: list[str]) -> int:
    """Runs the trials, those first that were interrupted; writes the report and the best trial as an experiment."""
    search.require_optuna()
    chosen = HydraConfig.get().runtime.choices.get("sweep")
    task = asked(config, positionals, None if chosen in (None, "null") else str(chosen))
    sweep = task.sweep
    if config["wandb"]:
        from mmgen.sweeps.wandb_file import write_wandb_sweep

        file = write_wandb_sweep(sweep, task.command, task.config_dir)
        print(f"{file}\nnext: wandb sweep {file}, then wandb agent … where the trials shall run")
        return 0
    for note in task.notes:
        print(f"note: {note}", file=sys.stderr)
    driver = Driver(sweep, tell=_tell)
    _write_definition(task)
    try:
        ranked = driver.run()
    except Interrupted:
        _report(task, driver, driver.results())
        raise
    return _report(task, driver, ranked)


def _tell(line: str) -> None:
    from mmgen.progress import printed

    printed(line)


def _write_definition(task: Asked) -> None:
    """sweep.yaml: what is searched, for people; the storage has it for programs."""
    sweep = task.sweep
    about = {
        "command": task.command,
        **sweep.described(),
        "n_trials": sweep.trials,
        "total_time": sweep.seconds,
        "total_steps": sweep.steps,
        "storage": search.hidden(sweep.storage) if sweep.storage else "journal.log",
    }
    write_atomic(sweep.directory / "sweep.yaml", yaml.safe_dump(about, sort_keys=False, allow_unicode=True))


def _report(task: Asked, driver: Driver, ranked: list[Result]) -> int:
    import optuna

    from mmgen.sweeps.report import OF_ALL_TRIALS, summary, write_report

    sweep = task.sweep
    study = optuna.load_study(study_name=sweep.name, storage=driver.storage)
    about_first = {0: OF_ALL_TRIALS} if task.has_baseline else {}
    recipe, command = None, ""
    if (top := best(ranked)) is not None:
        conf, name = sweep.directory / "conf", f"{sweep.name}-best"
        overrides = [one for one in sweep.settings(top.params) if not one.startswith("tracking.group=")]
        about = [f"Trial {top.number} of the sweep {sweep.name}: {shown(sweep, top.values)}."]
        recipe = write_experiment(conf, name, task.command, overrides, task.where, about)
        command = shlex.join(["mmgen", task.command, f"--config-dir={conf}", f"experiment={name}"])
    report = write_report(
        sweep, ranked, study, advice=driver.advice, recipe=recipe, command=command, known=about_first
    )
    if top is not None:
        print(summary(sweep, ranked, about_first))
        print(f"best: {command}")
    print(f"report: {report}")
    if driver.advice:
        print(f"stopped: {driver.advice}", file=sys.stderr)
    return FAILED_PARTS if driver.advice or top is None else 0
