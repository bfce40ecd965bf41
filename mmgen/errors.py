"""Every error a user can cause: what happened, where, why, and a fix to paste.

Printed in at most six lines (`MmgenError.render`), with an exit code per family. The command line is the only place
that prints them; everything else raises.
"""

from __future__ import annotations

from typing import Any


class MmgenError(Exception):
    """What a user can cause and mend.

    Args:
        what: one sentence with the actual value in it.
        code: `MMG-<area><number>`, stable between versions, so that it can be searched for.
        where: the key, file, shard or step.
        why: the reason, where `what` does not give it.
        fix: a command or an edit that can be pasted.
    """

    exit_code = 1
    area = "E00"
    elsewhere = False  # whether another process of the training tells it

    def __init__(self, what: str, *, code: str = "", where: str = "", why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.why, self.fix = what, where, why, fix
        self.code = code or f"MMG-{self.area}"

    def render(self) -> str:
        """The message, at most six lines; a value from outside is the caller's to `repr` and cut (see `quoted`)."""
        lines = [f"error[{self.code}]: {self.what}"]
        lines += [f"  {label}: {text}" for label, text in self._details() if text]
        return "\n".join(lines)

    def _details(self) -> list[tuple[str, str]]:
        return [("at", self.where), ("because", self.why), ("fix", self.fix)]

    def __str__(self) -> str:
        return self.render()

    def __reduce__(self) -> tuple[Any, ...]:
        """For the other processes of a training; an exception's own way gives the constructor what was printed."""
        return _again, (type(self), vars(self))


def _again(kind: type[MmgenError], state: dict[str, Any]) -> MmgenError:
    error = kind.__new__(kind)
    Exception.__init__(error, state["what"])
    vars(error).update(state)
    return error


class ConfigError(MmgenError):
    """A config that cannot be run: unknown key, wrong type, missing value, inconsistent values."""

    exit_code, area = 2, "C00"


class DataError(MmgenError):
    """Pictures or captions that cannot be used."""

    exit_code, area = 3, "D00"


class CheckpointError(MmgenError):
    """A checkpoint or export that is damaged, foreign, or made for something else."""

    exit_code, area = 5, "K00"


class NonFiniteError(MmgenError):
    """A loss or a gradient that is not a number; the step was not applied."""

    exit_code, area = 6, "N00"


class RunLockedError(MmgenError):
    """Another process works in the run's directory."""

    exit_code, area = 7, "R00"


class PluginError(MmgenError):
    """A plugin that is broken, missing, or clashes with another."""

    exit_code, area = 8, "P00"


class ConfigErrors(ConfigError):
    """All the errors of one config, told at once: each in full when few, one line each when many.

    Args:
        errors: at least one.
    """

    def __init__(self, errors: list[ConfigError]) -> None:
        assert errors
        self.errors = errors
        first = errors[0]
        super().__init__(first.what, code=first.code, where=first.where, why=first.why, fix=first.fix)

    def render(self) -> str:
        """One error in its own lines; of several, one line each (the first five) with the fix beside it."""
        if len(self.errors) == 1:
            return self.errors[0].render()
        lines = []
        for e in self.errors[:5]:
            place = f" (at {e.where})" if e.where else ""
            lines.append(f"error[{e.code}]: {e.what}{place}" + (f"; fix: {e.fix}" if e.fix else ""))
        if len(self.errors) > 5:
            lines.append(f"… and {len(self.errors) - 5} more errors")
        return "\n".join(lines)


def quoted(value: object, limit: int = 80) -> str:
    """A value from outside, safe to print: `repr`, cut at `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


class Interrupted(KeyboardInterrupt):
    """A signal ended the work; whoever lets Ctrl-C through lets it through too.

    Args:
        number: the signal's; the exit code is 128 more.
        note: what was saved, and how to go on.
    """

    elsewhere = False  # whether another process of the training tells it

    def __init__(self, number: int, note: str = "") -> None:
        super().__init__(number)
        self.number, self.note = number, note or f"stopped by signal {number}"
