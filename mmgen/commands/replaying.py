"""`mmgen runs replay RUN`: what wandb lost in a crash is written into an offline wandb run of the same id."""

from __future__ import annotations

from mmgen.commands.actions import only
from mmgen.errors import MmgenError
from mmgen.runs.directory import RunDirectory
from mmgen.runs.listing import Run, Stage, open_run
from mmgen.tracking.replay import replay_evaluation, replay_stage


def replay(words: list[str]) -> int:
    """Replays each stage of each run; gives the exit code, 1 where wandb fails."""
    only(words, 1, None, "mmgen runs replay RUN…")
    failed = False
    for run in [open_run(word) for word in words]:
        with RunDirectory(run.path).lock():
            for stage in run.stages:
                found = replay_stage(stage.path, _defaults(run, stage))
                print(f"{stage.path}: {found.told()}")
                failed = failed or not found.whole
            if told := replay_evaluation(run.path):
                print(f"{run.path}: {told}")
    return MmgenError.exit_code if failed else 0


def _defaults(run: Run, stage: Stage) -> dict[str, str]:
    """How the stage is called on wandb, where that was not recorded."""
    return {
        "project": str(_tracking(run).get("project") or "mmgen"),
        "group": str(_tracking(run).get("group") or run.name),
        "job_type": stage.name,
        "name": f"{run.name}-{stage.name}",
    }


def _tracking(run: Run) -> dict[str, object]:
    found = run.config.get("tracking")
    return dict(found) if isinstance(found, dict) else {}
