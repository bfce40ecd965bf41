"""`mmgen runs replay RUN`: what wandb lost in a crash is written into an offline wandb run of the same id."""

from __future__ import annotations

from mmgen.commands.actions import only
from mmgen.errors import MmgenError
from mmgen.runs.directory import RunDirectory
from mmgen.runs.listing import Run, open_run
from mmgen.tracking.judged import JOB
from mmgen.tracking.replay import replay_evaluation, replay_stage


def replay(words: list[str]) -> int:
    """Replays each stage of each run; gives the exit code, 1 where wandb fails."""
    only(words, 1, None, "mmgen runs replay RUN…")
    failed = False
    for run in [open_run(word) for word in words]:
        with RunDirectory(run.path).lock():
            for stage in run.stages:
                found = replay_stage(stage.path, _defaults(run, stage.name))
                print(f"{stage.path}: {found.told()}")
                failed = failed or not found.whole
            if told := replay_evaluation(run.path, _defaults(run, JOB), [stage.path for stage in run.stages]):
                print(f"{run.path}: {told}")
    return MmgenError.exit_code if failed else 0


def _defaults(run: Run, job: str) -> dict[str, str]:
    """How a stage or the evaluation is called on wandb, where that was not recorded."""
    return {
        "project": str(_tracking(run).get("project") or "mmgen"),
        "group": str(_tracking(run).get("group") or run.name),
        "job_type": job,
        "name": f"{run.name}-{job}",
    }


def _tracking(run: Run) -> dict[str, object]:
    found = run.config.get("tracking")
    return dict(found) if isinstance(found, dict) else {}
