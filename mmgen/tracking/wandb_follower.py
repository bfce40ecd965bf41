"""The process that knows wandb: follows a run's metrics.jsonl and repeats it there.

Started by `wandb_mirror` as a plain script, and only there. It imports nothing of mmgen, so that it starts fast and
shares nothing with training but a file and two pipes: wandb may be slow to import (0.7 s), block on a dead network, or
lose its own service to a SIGKILL, and training does not notice.

Commands come in on stdin, one JSON object a line: first `start`, then `picture`, `artifact`, `table`, `summary`,
`finish`. End of input without `finish` means that training died; what was written until then is still repeated. Events
go out on stdout, one a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import wandb

POLL_SECONDS = 0.3
_COLUMNS = {"time": "_timestamp"}
DIED = 255  # the exit code wandb shows for a run whose training ended without `finish`


def tell(event: str, **fields: Any) -> None:
    """One event for the training process. That it has gone is no reason to stop."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps({"event": event, **fields}).encode() + b"\n")


def _number(value: float | None) -> float:
    """A value of a row; what was no number is null in the file."""
    return float("nan") if value is None else value


def _cell(value: Any) -> Any:
    """A table's cell; a picture is given by its path."""
    return wandb.Image(value["picture"]) if isinstance(value, dict) else value


class Rows:
    """The complete lines of a JSON-lines file that is still being written."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def new(self) -> Iterator[dict[str, Any]]:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # the writer is in the middle of it
                self._offset += len(line)
                yield json.loads(line)


class Follower:
    """One wandb run, fed from one metrics file."""

    def __init__(self, start: dict[str, Any]) -> None:
        self._directory = Path(start["directory"])
        self._finish_seconds = start["finish_seconds"]
        self._rows = Rows(Path(start["metrics"]))
        self._pictures = list(start["pictures"])
        self._count = 0
        self._run = self._open(start)
        # Resumed online, the server has the rows up to this step already, with the same values: resuming is exact.
        resumed = self._run.summary.get("step") if self._run.resumed else None
        self._known_step = -1 if resumed is None else int(resumed)
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        tell("started", directory=str(self._run.dir), offline=bool(self._run.settings._offline))
        for one in start.get("inputs", []):
            self._record(one, used=True)

    def _open(self, start: dict[str, Any]) -> Any:
        mode = start["mode"]
        if mode == "online":
            try:
                return self._init(start, "online")
            except Exception as error:
                tell("offline", reason=f"{type(error).__name__}: {error}")
                wandb.teardown()  # forgets the half-made session, and whatever it still tries to send
        return self._init(start, "offline")

    def _init(self, start: dict[str, Any], mode: Literal["online", "offline"]) -> Any:
        settings = wandb.Settings(
            run_id=start["id"],
            resume="allow" if mode == "online" else None,
            silent=True,
            console="off",
            disable_git=True,  # a diff of the working tree is not ours to send
            x_stats_pid=os.getppid(),  # whose memory and threads the system metrics tell: training's
            save_code=False,
            **({"init_timeout": start["init_seconds"]} if mode == "online" else {}),
        )
        names = {key: start[key] for key in ("project", "group", "job_type", "name", "config")}
        return wandb.init(dir=str(self._directory), mode=mode, settings=settings, **names)

    def catch_up(self) -> None:
        """Repeats the rows and pictures that came since the last call, in the order of their steps."""
        for row in self._rows.new():
            self._count += 1
            self._show_before(row["step"])
            if row["step"] > self._known_step:
                self._run.log({_COLUMNS.get(name, name): _number(value) for name, value in row.items()})
        self._show_before(None)

    def obey(self, command: dict[str, Any]) -> bool:
        """Carries out one command; false after the last."""
        kind = command["command"]
        if kind == "picture":
            self._pictures.append(command)
        elif kind == "artifact":
            self._record(command["artifact"], used=False)
        elif kind == "table":
            rows = [[_cell(value) for value in row] for row in command["rows"]]
            self._run.log({command["name"]: wandb.Table(columns=command["columns"], data=rows), "step": 0})
        elif kind == "summary":
            self._run.summary.update(command["values"])
        elif kind == "finish":
            self.close(int(command["exit_code"]))
            return False
        return True

    def _record(self, told: dict[str, Any], *, used: bool) -> None:
        """Records a thing that the run made, or was made with; see `mmgen.tracking.artifacts`. Without it the run is no
        less: that it cannot be recorded is told, and nothing else is lost."""
        try:
            artifact = wandb.Artifact(told["name"], type=told["type"], metadata=told["metadata"])
            if told["path"] is not None:
                artifact.add_reference(Path(told["path"]).as_uri())
            for name, file in told["files"].items():
                artifact.add_file(file, name=name, skip_cache=True, policy="immutable")
            if told["path"] is None and not told["files"]:
                with artifact.new_file(f"{told['type']}.json") as file:
                    json.dump(told["metadata"], file, indent=1, sort_keys=True)
            aliases = ["latest", *([told["metadata"]["fingerprint"]] if "fingerprint" in told["metadata"] else [])]
            # `use_artifact` refuses to work offline, and online waits for the server. This is what it does otherwise;
            # offline the log keeps it, and `wandb sync` links.
            self._run._log_artifact(artifact, aliases=aliases, is_user_created=used, use_after_commit=used)
        except Exception as error:
            tell("left_out", what=told["name"], reason=f"{type(error).__name__}: {error}"[:300])

    def close(self, exit_code: int) -> None:
        """Repeats what is left and ends the run, or this process, within the time allowed."""
        watchdog = threading.Timer(self._finish_seconds, os._exit, (1,))
        watchdog.daemon = True
        watchdog.start()
        self.catch_up()
        self._run.finish(exit_code=exit_code)
        self._forget_earlier_copies()
        watchdog.cancel()
        tell("finished", rows=self._count)

    def _show_before(self, step: int | None) -> None:
        """Shows the waiting pictures of the steps before this one, or all."""
        due = [picture for picture in self._pictures if step is None or picture["step"] < step]
        self._pictures = [picture for picture in self._pictures if picture not in due]
        for picture in sorted(due, key=lambda picture: picture["step"]):
            if picture["step"] > self._known_step:
                self._run.log({picture["name"]: wandb.Image(picture["path"]), "step": picture["step"]})

    def _forget_earlier_copies(self) -> None:
        """Removes what earlier attempts at this run left offline: this one has repeated all of it."""
        if not self._run.settings._offline:
            return
        mine = Path(self._run.dir).parent
        for other in (self._directory / "wandb").glob(f"offline-run-*-{self._run.id}"):
            if other != mine and not list(other.glob("*.synced")):
                shutil.rmtree(other, ignore_errors=True)


def commands() -> Iterator[dict[str, Any] | None]:
    """Commands as they come; None when there was none for a while."""
    waiting = b""
    while True:
        readable, _, _ = select.select([0], [], [], POLL_SECONDS)
        if not readable:
            yield None
            continue
        read = os.read(0, 1 << 16)
        if not read:
            return
        *lines, waiting = (waiting + read).split(b"\n")
        for line in lines:
            yield json.loads(line)


def main() -> int:
    inbox = commands()
    start = next((command for command in inbox if command), None)
    if start is None:
        return 0
    try:
        follower = Follower(start)
        for command in inbox:
            if command is None:
                follower.catch_up()
            elif not follower.obey(command):
                return 0
        follower.close(DIED)
    except Exception as error:
        tell("failed", reason=f"{type(error).__name__}: {error}"[:300])
        # Not sys.exit: wandb's exit hooks wait for a service that may be the one that failed.
        os._exit(1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
