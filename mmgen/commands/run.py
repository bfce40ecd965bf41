"""`mmgen run`: trains the three parts, draws captions it has never seen, ranks, classifies, judges, reports."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT
from typing import Any

from mmgen import registry
from mmgen.checkpoint.parts import Part, check_requires
from mmgen.commands.evaluate import failures, needs_of
from mmgen.commands.evaluation import Evaluation, note_wanted
from mmgen.commands.lineage import write_lineage
from mmgen.commands.made_by import made_by
from mmgen.commands.preflight import check_new, check_stages, read_pictures
from mmgen.commands.rivals import Rival, rivals
from mmgen.commands.schema import PLACEMENT, STAGES
from mmgen.commands.stages import Stage, check_size, take_part, train_stage
from mmgen.commands.starting import computes_on, locked, meet
from mmgen.commands.subject import ALL
from mmgen.data.pictures import Pictures, split_names
from mmgen.errors import ConfigError, Interrupted
from mmgen.files import read_json, write_json
from mmgen.loading import PARTS, load_part, part_of
from mmgen.progress import printed
from mmgen.ranks import current
from mmgen.runs.directory import MAY_DIFFER, RunDirectory
from mmgen.runs.origin import keep
from mmgen.text_to_image import TextToImage, open_trio
from mmgen.tracking.judged import JOB, log_evaluation, settings_of
from mmgen.tracking.report import summary, write_report

PLACEMENTS = [f"{place}trainer.{key}" for place in ("", *(f"stages.{kind}." for kind in STAGES)) for key in PLACEMENT]


def main(config: dict[str, Any], positionals: list[str]) -> int:
    """Every stage that is not finished, then the evaluation, then the report; prints where to look."""
    ranks = meet(config)
    path = Path(config["run"]["dir"]) / config["run"]["name"]
    began = time.monotonic()
    stages, others = _stages(config), _rivals(config)
    ranks.alike(lambda: _refuse_another(path, config))
    taken, pictures = ranks.alike(lambda: _read(config, stages, list(others.values())))
    made = made_by("run", config, pictures, {f"{kind}_from": part.fingerprint for kind, part in taken.items()})
    for stage in (*stages.values(), *others.values()):
        stage.origin = made
    with locked(path) as directory:
        ranks.agree(lambda: check_new(directory, config["resume"]))
        with _status(ranks.agree(lambda: _begin(directory, config, made))):
            parts: dict[str, Part] = {}
            for kind, stage in stages.items():
                if ranks.first:
                    directory.update_status(stage=kind)
                if kind in taken:
                    parts[kind] = take_part(taken[kind], path / kind)
                else:
                    parts[kind] = train_stage(stage, path / kind, pictures, parts.get("tokenizer"), None)
            beside: dict[Rival, Part] = {}
            for rival, stage in others.items():
                if ranks.first:
                    directory.update_status(stage=rival.directory)
                beside[rival] = train_stage(stage, path / rival.directory, pictures, None, None)
            if not ranks.first:
                return 0  # drawing and judging is one process's work
            if not _judged(directory, parts, beside):
                directory.update_status(stage="evaluation")
                with _goes_on(config["run"]["name"]):
                    device = computes_on(*(stage.trainer for stage in stages.values()))
                    model = open_trio(path, config["sampler"], trusted=True, device=device)
                    judged_too = [(rival, _opened(part, device)) for rival, part in beside.items()]
                    Evaluation(model, pictures, directory, config, rivals=judged_too).run()
                others_by_name = {rival.directory: part for rival, part in beside.items()}
                name = config["dataset"]["name"]
                write_lineage(directory, parts, pictures, name, rivals=others_by_name, judged=True)
                _show(directory, parts, others_by_name, config, made)
            else:
                _note_wanted(directory, config["wanted"])
            report = write_report(path)
            trained = [*PARTS, *(rival.directory for rival in beside)]
            seconds = sum(directory.stage(name).status().seconds for name in trained)
            directory.update_status(state="finished", stage=None, seconds=seconds)
    printed(f"training {seconds / 60:.1f} min, this call {(time.monotonic() - began) / 60:.1f} min")
    print(summary(path))
    print(f"pictures: {path / 'sheet.png'}\nreport: {report}")
    return failures(path)


def _begin(directory: RunDirectory, config: dict[str, Any], made: dict[str, Any] | None) -> RunDirectory:
    directory.create(config, (*MAY_DIFFER, *PLACEMENTS))
    if made is not None:
        keep(directory.path, made)
    return directory


def _refuse_another(path: Path, config: dict[str, Any]) -> None:
    """Raises ConfigError where another config made the directory: before minutes of reading, where parts from elsewhere
    do not come with a config of their own."""
    directory = RunDirectory(path)
    if directory.config_file.is_file() and not any(config[f"{kind}_from"] for kind in PARTS):
        directory.check_config(config, (*MAY_DIFFER, *PLACEMENTS))


def _read(config: dict[str, Any], stages: dict[str, Stage], others: list[Stage]) -> tuple[dict[str, Part], Pictures]:
    """The parts that come from elsewhere, and the data; whatever could end the run later on ends it here. The config is
    told what such a part is, whatever it says of one to be trained."""
    taken = {kind: part_of(config[f"{kind}_from"], kind, f"{kind}_from") for kind in PARTS if config[f"{kind}_from"]}
    if "generator" in taken and "tokenizer" not in taken:
        raise ConfigError(
            "generator_from wants tokenizer_from: a generator knows one image tokenizer only",
            code="MMG-C05",
            where="tokenizer_from",
            fix=f"tokenizer_from={config['generator_from']}",
        )
    check_requires(taken)
    for kind, part in taken.items():
        config[kind] = part.config
    pictures = read_pictures(config["dataset"])
    grid = None
    if "tokenizer" in taken:
        image_tokenizer = load_part(taken["tokenizer"])
        grid = (int(image_tokenizer.grid[0]), int(image_tokenizer.grid[1]))
        if isinstance(pictures, Pictures):
            check_size(image_tokenizer, pictures)
    check_stages([*(stage for kind, stage in stages.items() if kind not in taken), *others], pictures, grid)
    assert isinstance(pictures, Pictures), "token shards are refused above"
    registry.build("sampler", config["sampler"])
    _check_evaluators(config, pictures)
    return taken, pictures


def _check_evaluators(config: dict[str, Any], pictures: Pictures) -> None:
    """Raises ConfigError where a rival is to be judged by what it cannot give; what the dataset cannot give is told."""
    needs = dict(zip(config["evaluator"], needs_of(config["evaluator"]), strict=True))
    splits = split_names(pictures.dataset)
    for name, need in needs.items():
        if need.split not in (ALL, *splits) and not need.or_val:
            print(
                f"warning: {name} judges the split {need.split}, which the dataset has not: it will stand aside; "
                f"there are {', '.join(splits)}",
                file=sys.stderr,
            )
    for rival in rivals(config):
        for name in rival.evaluators:
            need = needs[name]
            if need.drawings or need.redrawings or need.reconstructions or need.teacher_forced:
                raise ConfigError(
                    f"{rival.section} is to be judged by {name}, which judges drawings or reconstructions",
                    code="MMG-C03",
                    where=f"{rival.section}.evaluator",
                    why="a rival is an encoder alone",
                    fix="leave it out",
                )


def _stages(config: dict[str, Any]) -> dict[str, Stage]:
    """The three, in the order in which they are trained."""
    return {kind: _stage(kind, config[kind], config["stages"][kind], config) for kind in PARTS}


def _rivals(config: dict[str, Any]) -> dict[Rival, Stage]:
    return {
        rival: _stage("encoder", rival.component, {"task": rival.task, "trainer": rival.trainer}, config, rival.section)
        for rival in rivals(config)
    }


def _stage(
    kind: str,
    component: dict[str, Any],
    options: dict[str, Any],
    config: dict[str, Any],
    section: str | None = None,
) -> Stage:
    return Stage(
        kind=kind,
        component=component,
        task=options["task"],
        trainer=options["trainer"],
        tracking=config["tracking"],
        seed=config["seed"],
        experiment=config["run"]["name"],
        section=section,
    )


def _opened(part: Part, device: str) -> TextToImage:
    """A rival alone: it classifies and compares, and draws nothing."""
    encoder = load_part(part, trusted=True)
    return TextToImage(encoder=encoder, fingerprints={"encoder": part.fingerprint}, device=device)


def _show(
    directory: RunDirectory,
    parts: dict[str, Part],
    beside: dict[str, Part],
    config: dict[str, Any],
    made: dict[str, Any] | None,
) -> None:
    """The evaluation in wandb, beside the stages' runs."""
    tracking, name = config["tracking"], config["run"]["name"]
    names = {"project": tracking["project"], "group": tracking["group"] or name, "name": f"{name}-{JOB}"}
    settings = settings_of(names, config, made, (*parts.values(), *beside.values()))
    log_evaluation(directory.path, settings, tracking["mode"])


@contextmanager
def _status(directory: RunDirectory) -> Iterator[None]:
    """While the run goes on, and where it was left; of several processes, the first one's word."""
    if not current().first:
        yield
        return
    directory.update_status(state="running")
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, Interrupted | KeyboardInterrupt | SystemExit)
        directory.update_status(state="preempted" if stopped else "failed")
        raise


@contextmanager
def _goes_on(name: str) -> Iterator[None]:
    """Says, where a signal ends the evaluation, what is kept."""
    try:
        yield
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, Interrupted) else int(SIGINT)
        note = f"stopped: the parts are trained; the same command with run.name={name} draws and judges from there"
        raise Interrupted(number, note) from None


def _note_wanted(directory: RunDirectory, wanted: dict[str, float | None]) -> None:
    """What figures should reach may differ between starts: of a run that was judged, this start's counts."""
    before = directory.read_evaluation()
    now = copy.deepcopy(before)
    note_wanted(now, wanted)
    if now != before:
        write_json(directory.path / "evaluation.json", now)


def _judged(directory: RunDirectory, parts: dict[str, Part], beside: dict[Rival, Part]) -> bool:
    """Whether these very parts were judged to the end, and nothing failed: the lineage is written after that."""
    lineage, evaluation = directory.path / "lineage.json", directory.path / "evaluation.json"
    if not (lineage.is_file() and evaluation.is_file()):
        return False
    if directory.read_evaluation().get("failed"):
        return False  # the plugin may be mended by now
    recorded = read_json(lineage, trusted=True)
    known = recorded["parts"] | recorded.get("rivals", {})
    fingerprints = {name: part["fingerprint"] for name, part in known.items()}
    trained = parts | {rival.directory: part for rival, part in beside.items()}
    return fingerprints == {name: part.fingerprint for name, part in trained.items()}
