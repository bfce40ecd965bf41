"""Runs a command's function under `hydra.main`, so that sweeps (`-m`) and launchers work, without letting Hydra catch,
wrap or print what the function raises."""

from __future__ import annotations

import importlib
import json
import keyword
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from mmgen.commands import composition, starting
from mmgen.commands.attempts import FAILED_PARTS
from mmgen.commands.mistakes import translate
from mmgen.commands.overrides import swept
from mmgen.commands.places import places
from mmgen.errors import MmgenError
from mmgen.progress import UNREAD, unread

TRAINING = ("run", "train")  # the commands that may take several processes


class JobFailed(Exception):
    """A job of a sweep ended with an error, which was told when it happened."""


def launch(
    command: str,
    overrides: list[str],
    positionals: list[str],
    *,
    config_dir: Path | None = None,
    multirun: bool = False,
    flags: Sequence[str] = (),
) -> int:
    """Checks the config, imports the command, runs it; gives its exit code.

    Args:
        flags: Hydra's own that show instead of run, such as --cfg job.

    Raises:
        MmgenError: what the user can mend.
    """
    checked = composition.prepare(command, overrides, places(config_dir), multirun)
    job = _Job(command, positionals)
    try:
        with _hydra(command, [*flags, *(["-m"] if multirun else []), *checked]):
            run = hydra.main(config_path=None, config_name=command, **composition.VERSION_BASE)
            run(_sweep_job(command, positionals, swept(checked)) if multirun else job)()
    except JobFailed:
        return FAILED_PARTS
    except (HydraException, OmegaConfBaseException) as error:  # of a launcher or a sweeper
        raise translate(error) from error
    return job.finished()


@contextmanager
def _hydra(command: str, arguments: list[str]) -> Iterator[None]:
    """`hydra.main` reads sys.argv; with HYDRA_FULL_ERROR it lets exceptions through as they are."""
    argv, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [f"mmgen {command}", *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = argv
        os.environ.pop("HYDRA_FULL_ERROR")
        if full is not None:
            os.environ["HYDRA_FULL_ERROR"] = full


class _Job:
    """The one job of a command: what it raises is kept, since Hydra would comment on it."""

    def __init__(self, command: str, positionals: list[str]) -> None:
        self.__name__, self.__module__ = command, __name__
        self.command, self.positionals = command, positionals
        self.code = 0
        self.error: Exception | None = None
        self.config: dict[str, Any] = {}

    def __call__(self, cfg: DictConfig) -> None:
        try:
            self.config = composition.finish(self.command, cfg)
            self.code = call(self.command, self.config, self.positionals)
        except Exception as error:
            self.error = error

    def finished(self) -> int:
        if self.error is None:
            return self.code
        if isinstance(self.error, MmgenError):
            raise self.error
        return told(self.error, self.config)


def call(command: str, config: dict[str, Any], positionals: list[str]) -> int:
    """Runs the command's function, here or in as many processes as its trainer wants."""
    if command in TRAINING and (count := starting.processes_wanted(config)):
        return starting.start(count, command, config)
    return function(command)(config, positionals) or 0


def member(command: str) -> int:
    """One of the processes that `starting.start` started; the config comes in on standard input."""
    starting.die_with_parent()
    config = json.load(sys.stdin)
    try:
        return function(command)(config, []) or 0
    except MmgenError:
        raise
    except Exception as error:
        return told(error, config)


def _sweep_job(command: str, positionals: list[str], keys: set[str]) -> Callable[[DictConfig], int]:
    """A job of a sweep: it may run in another process, and has a run directory of its own.

    Args:
        keys: what the sweep varies; they name the directory.
    """

    def job(cfg: DictConfig) -> int:
        config: dict[str, Any] = {}
        try:
            config = composition.finish(command, cfg)
            if isinstance(config.get("run"), dict) and "run.name" not in keys:
                config["run"]["name"] += f"-{_job_name(keys)}"
            code = call(command, config, positionals)
        except MmgenError as error:
            print(error.render(), file=sys.stderr)
            raise JobFailed(error.code) from None
        except Exception as error:
            if told(error, config) == UNREAD:
                return 0  # the job is no worse for it, and the next ones are to run
            raise JobFailed(type(error).__name__) from None
        if code:
            raise JobFailed(str(code))
        return code

    return job


def _job_name(keys: set[str]) -> str:
    """What is particular about a job of a sweep, fit for a directory's name: "seed=2,generator.num_layers=6"."""
    said = [text.lstrip("+") for text in HydraConfig.get().overrides.task]
    name = ",".join(text for text in said if text.partition("=")[0] in keys)
    return re.sub(r"[^\w.,=@+-]", "_", name)[:100] or str(HydraConfig.get().job.num)


def function(command: str) -> Callable[[dict[str, Any], list[str]], int | None]:
    """The function of a command, imported now."""
    module = f"{command}_" if keyword.iskeyword(command) else command  # import_.py
    main: Callable[[dict[str, Any], list[str]], int | None] = importlib.import_module(f"mmgen.commands.{module}").main
    return main


def told(error: Exception, config: dict[str, Any]) -> int:
    """Prints what ended a command that is no MmgenError, and gives the exit code.

    An error with an attribute `signal` says that a signal ended it, after whatever was to be saved was saved.
    """
    if isinstance(error, BrokenPipeError) and unread():
        return UNREAD
    if getattr(error, "elsewhere", False):  # another process of a training tells it
        return 1
    number = getattr(error, "signal", None)
    if isinstance(number, int):
        print(error, file=sys.stderr)
        return 128 + number
    print(unexpected(error, config), file=sys.stderr)
    return 1


def unexpected(error: BaseException, config: dict[str, Any] | None = None) -> str:
    """The message for an error that is ours to mend, after its traceback was written to a file."""
    text = "".join(traceback.format_exception(error))
    run = (config or {}).get("run")
    log = Path(run["dir"], run["name"], "error.log") if isinstance(run, dict) else None
    try:
        if log is None or not log.parent.is_dir():
            handle, name = tempfile.mkstemp(prefix="mmgen-error-", suffix=".log")
            os.close(handle)
            log = Path(name)
        with log.open("a", encoding="utf-8") as file:
            file.write(text)
        place = str(log)
    except OSError as lost:
        place = f"nowhere ({lost})"
    first = str(error).splitlines()[0] if str(error) else ""
    message = MmgenError(
        f"{type(error).__name__}: {first}"[:300],
        where=f"traceback in {place}",
        why="this was not foreseen, and is a fault of mmgen or of a plugin",
        fix="report it with that file, or set MMGEN_DEBUG=1 to see it here",
    )
    return message.render() + (f"\n{text}" if os.environ.get("MMGEN_DEBUG") == "1" else "")
