"""The command `mmgen`: sorts the arguments, runs a command, turns errors into messages and exit codes.

Nothing heavy is imported here: help and listings need neither Hydra nor torch.

Which argument is what: everything after `--` is a positional. Before it, `KEY=VALUE` whose KEY looks like a config key
(letters, digits, `_ . / @ -`), and whatever begins with `+KEY` or `~KEY`, is an override; what begins with `-` is a
flag; anything else is a positional. An override with an unknown key is refused, never taken for a caption.
"""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
import threading
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from mmgen.errors import ConfigError, Interrupted, MmgenError, quoted
from mmgen.progress import UNREAD, unread

COMMANDS = (
    "run", "train", "sample", "redraw", "caption", "classify", "evaluate", "export", "import", "data", "plan",
    "sweep", "plugins", "config", "runs", "reproduce", "completion",
)  # fmt: skip
PLAIN = ("config", "runs", "reproduce", "completion")  # not composed by Hydra, and light (`mmgen.commands.actions`)
TAKE_POSITIONALS = ("sample", "redraw", "caption", "classify", "export", "import", "data")
OVERRIDE = re.compile(r"(\+{1,2}|~)?[A-Za-z_][\w./@-]*=.*|(\+{1,2}|~)[A-Za-z_][\w./@-]*", re.DOTALL)
SWITCHES = {"-h": "--help", "-m": "--multirun", "-cd": "--config-dir", "-c": "--cfg", "-i": "--info", "-p": "--package"}
VALUES = {"--cfg": ("job", "hydra", "all"), "--info": ("all", "config", "defaults", "defaults-tree", "searchpath")}
AS_STARTED = "--as-started"  # not a user's: `mmgen.commands.starting` hands a checked config to further processes
COMPLETE = "--complete"  # not a user's: the scripts of `mmgen completion` ask for what could stand next
FLAGS = ("--help", "--multirun", "--config-dir", "--cfg", "--info", "--package", "--resolve", "--wandb")


@dataclass
class Arguments:
    """A command's arguments, sorted."""

    overrides: list[str] = field(default_factory=list)
    positionals: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)  # those that Hydra answers: --cfg, --info …
    config_dir: Path | None = None
    multirun: bool = False
    help: bool = False


def main(argv: list[str] | None = None) -> int:
    """Runs `mmgen ARGUMENTS`; gives the exit code."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()  # here, where a reader that has gone is expected
        return code
    except MmgenError as error:
        if not error.elsewhere:
            print(error.render(), file=sys.stderr)
        if os.environ.get("MMGEN_DEBUG") == "1":
            traceback.print_exception(error)
        return error.exit_code
    except Interrupted as stop:
        if not stop.elsewhere:
            print(stop.note, file=sys.stderr)
        return 128 + stop.number
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # rich ends so
            return UNREAD
        raise
    except Exception as error:
        if isinstance(error, BrokenPipeError) and unread():
            return UNREAD
        from mmgen.commands.launch import unexpected

        print(unexpected(error), file=sys.stderr)
        return 1


def _terminate(number: int, frame: object) -> NoReturn:
    raise Interrupted(number)


def _run(argv: list[str]) -> int:
    from mmgen.commands import help

    if argv and argv[0] == AS_STARTED:
        from mmgen.commands.launch import member

        return member(argv[1])
    if argv and argv[0] == COMPLETE:
        from mmgen.commands import completing

        print("".join(f"{one}\n" for one in completing.complete(argv[1])), end="")
        return 0
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(help.overview())
        return 0
    if argv[0] in ("--version", "-V"):
        from mmgen import __version__

        print(f"mmgen {__version__}")
        return 0
    command, *rest = argv
    if command not in COMMANDS:
        raise _unknown("command", command, COMMANDS, "mmgen --help lists them")
    if command == "plugins":
        from mmgen.commands import plugins

        return plugins.main(rest)
    arguments = sort(rest)
    if arguments.help:
        print(help.page(command, arguments.overrides, arguments.config_dir))
        return 0
    if command in PLAIN:
        return _plain(command, arguments)
    if arguments.positionals and command not in TAKE_POSITIONALS and not arguments.flags:
        raise ConfigError(
            f"mmgen {command} takes no {quoted(arguments.positionals[0])}",
            code="MMG-C07",
            where="command line",
            fix='write KEY=VALUE, or KEY="VALUE"',
        )
    if command == "sweep":
        from mmgen.commands.searching import divide

        own, theirs = divide(arguments.overrides, arguments.config_dir, arguments.multirun)
        arguments.overrides, arguments.positionals, arguments.multirun = own, theirs, False
    from mmgen.commands.launch import launch

    return launch(
        command,
        arguments.overrides,
        arguments.positionals,
        config_dir=arguments.config_dir,
        multirun=arguments.multirun,
        flags=arguments.flags,
    )


def _plain(command: str, arguments: Arguments) -> int:
    if refused := [*arguments.flags, *(["--multirun"] if arguments.multirun else [])]:
        raise ConfigError(
            f"mmgen {command} takes no {quoted(refused[0])}", code="MMG-C07", where="command line", fix="leave it out"
        )
    page = importlib.import_module(f"mmgen.commands.{command}")
    code: int = page.main(arguments.positionals, arguments.overrides, arguments.config_dir)
    return code


def sort(argv: list[str]) -> Arguments:
    """Overrides, positionals and flags, by the rule at the top of this page.

    Raises:
        ConfigError: an unknown flag, or one without its value.
    """
    found = Arguments()
    rest = iter(argv)
    for argument in rest:
        if argument == "--":
            found.positionals += rest
        elif argument.startswith("-") and argument != "-":
            name, sign, value = argument.partition("=")
            _flag(found, SWITCHES.get(name, name), value if sign else None, rest)
        elif OVERRIDE.fullmatch(argument):
            found.overrides.append(argument)
        else:
            found.positionals.append(argument)
    return found


def _flag(found: Arguments, name: str, value: str | None, rest: object) -> None:
    if name not in FLAGS:
        raise _unknown("flag", name, FLAGS, "what begins with - and is no flag goes after --")
    if name == "--help":
        found.help = True
    elif name == "--multirun":
        found.multirun = True
    elif name == "--wandb":
        found.overrides.append("wandb=true")
    elif name in ("--config-dir", "--cfg", "--package", "--info"):
        value = next(rest, None) if value is None else value  # type: ignore[call-overload]
        if value is None:
            raise ConfigError(f"{name} wants a value", code="MMG-C07", where="command line", fix=f"{name}=VALUE")
        if name == "--config-dir":
            found.config_dir = Path(value)
            if not found.config_dir.is_dir():
                raise ConfigError(
                    f"--config-dir {quoted(value)} is no directory",
                    code="MMG-C07",
                    where="command line",
                    fix="--config-dir=DIRECTORY",
                )
        elif value not in VALUES.get(name, (value,)):
            raise _unknown(f"value of {name}", value, VALUES[name], f"{name}={VALUES[name][0]}")
        else:
            found.flags.append(f"{name}={value}")
    else:
        found.flags.append(name)


def _unknown(what: str, name: str, known: tuple[str, ...], otherwise: str) -> ConfigError:
    from mmgen.spelling import nearest

    near = nearest(name, known)
    return ConfigError(
        f"no {what} {quoted(name)}",
        code="MMG-C07",
        where="command line",
        why=f"there are {', '.join(known)}",
        fix=f"did you mean {near}?" if near else otherwise,
    )


if __name__ == "__main__":
    sys.exit(main())
