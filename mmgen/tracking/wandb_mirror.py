"""Training's end of the wandb mirror: starts the follower, hands it pictures and parts, and never waits for it.

Nothing here imports wandb. The follower is its own process (see `wandb_follower`): inside this one the client would
cost training its import and its exit hooks, and throw from every call once its service is killed.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmgen.errors import MmgenError
from mmgen.files import write_json

log = logging.getLogger("mmgen.tracking")

SETTINGS = "settings.json"  # beside wandb's files: what the run was started with
FOLLOWER = Path(__file__).with_name("wandb_follower.py")
MODES = ("offline", "online", "disabled")
INIT_SECONDS = 10.0  # how long a server may take to answer, before the run goes on offline
FINISH_SECONDS = {"offline": 15.0, "online": 30.0}
MAX_WAITING = 1 << 20  # bytes of commands that a follower may leave unread before it counts as stuck

# Of a user's wandb settings, those that say who they are and where to; run id, directory, mode and so on are the run's.
_KEPT_ONLINE = {
    "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_CONFIG_DIR",
    "WANDB_IDENTITY_TOKEN_FILE", "WANDB_CREDENTIALS_FILE", "WANDB_X_EXTRA_HTTP_HEADERS",
}  # fmt: skip
# What an agent of a W&B sweep says: which run of its own this is. wandb then ignores the run's id and project.
_SWEEPS = {"WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_PROJECT", "WANDB_SWEEP_PARAM_PATH"}


def allowed_mode(asked: str, environment: Mapping[str, str] = os.environ) -> str:
    """The mode to use: WANDB_MODE may ask for less than the config (offline, disabled), never for more."""
    order = ("disabled", "offline", "online")
    limit = environment.get("WANDB_MODE", "online")
    return min(asked, limit, key=order.index) if limit in order else asked


class WandbMirror:
    """One wandb run that repeats a metrics file. No method raises or blocks, but `finish`, which waits a bounded time.

    Args:
        directory: the run's; wandb's files lie in its folder `wandb`.
        metrics: the metrics file to follow.
        settings: `project`, `group`, `job_type`, `name`, `config`, a plain dict without secrets, and perhaps `inputs`:
            what the run is made with, as `Artifact.told` gives it.
        mode: offline or online.
        pictures: what was logged before this process, as `picture` gives it; shown again when the run is written anew.
        finish_seconds: how long `finish` may wait; by default `FINISH_SECONDS` of the mode.
    """

    def __init__(
        self,
        directory: Path,
        metrics: Path,
        settings: dict[str, Any],
        mode: str,
        pictures: list[dict[str, Any]],
        finish_seconds: float | None = None,
    ) -> None:
        self._metrics, self._mode = metrics.resolve(), mode
        self._finish_seconds = finish_seconds if finish_seconds is not None else FINISH_SECONDS[mode]
        self._home = directory.resolve() / "wandb"
        self._process: subprocess.Popen[bytes] | None = None
        self._outbox, self._inbox = b"", b""
        self._open = True
        self._finished = False
        self._complete = True
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            self.id = self._kept_id()
            write_json(self._home / SETTINGS, settings)  # for `mmgen runs replay`
            self._process = self._start()
        except (OSError, ValueError, TypeError, MmgenError) as error:
            self._give_up(f"could not start: {error}")
            return
        self._send(
            "start",
            directory=str(directory.resolve()),
            metrics=str(self._metrics),
            mode=mode,
            id=self.id,
            pictures=pictures,
            init_seconds=INIT_SECONDS,
            finish_seconds=self._finish_seconds,
            **settings,
        )

    @property
    def alive(self) -> bool:
        """Whether what is logged still reaches wandb's files."""
        return self._open

    @property
    def process_id(self) -> int | None:
        """Of the follower, if it was started."""
        return self._process.pid if self._process else None

    def picture(self, name: str, path: Path, step: int) -> None:
        """Shows a picture file at a step."""
        self._send("picture", **picture(name, path, step))

    def artifact(self, told: dict[str, Any]) -> None:
        """Records what the run has made, as `Artifact.told` gives it."""
        self._send("artifact", artifact=told)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Shows a table; a cell `{"picture": PATH}` is that picture."""
        self._send("table", name=name, columns=list(columns), rows=list(rows))

    def summary(self, values: Mapping[str, float]) -> None:
        """Sets numbers that belong to no step."""
        self._send("summary", values=dict(values))

    def tick(self) -> None:
        """Sends what is waiting and hears what has happened; a few microseconds."""
        if not self._open or self._process is None:
            return
        self._write()
        for event in self._events():
            self._hear(event)
        if self._open and self._process.poll() is not None:
            self._give_up(f"its process ended with code {self._process.returncode}")

    def finish(self, exit_code: int = 0) -> None:
        """Waits until the follower has repeated everything, at most `finish_seconds`."""
        if not self._open or self._process is None:
            return
        self._send("finish", exit_code=exit_code)
        deadline = time.monotonic() + self._finish_seconds
        while self._open and not self._finished:
            left = deadline - time.monotonic()
            if left <= 0:
                self._give_up(f"it did not finish within {self._finish_seconds:.0f} s")
                return
            self._wait(min(left, 0.2))
            self.tick()
        self._end()

    def _kept_id(self) -> str:
        """The run's id on wandb, the same after a resume."""
        file = self._home / "run-id"
        if not file.exists():
            file.write_text(secrets.token_hex(4))
        return file.read_text().strip()

    def _start(self) -> subprocess.Popen[bytes]:
        with (self._home / "follower.log").open("ab") as output:
            process = subprocess.Popen(
                # -P: a file named wandb.py where the user stands must not be taken for wandb
                [sys.executable, "-P", str(FOLLOWER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                cwd=self._home.parent,
                env=self._environment(),
                start_new_session=True,  # Ctrl-C is for training, which then ends the mirror in order
            )
        assert process.stdin is not None
        assert process.stdout is not None
        os.set_blocking(process.stdin.fileno(), False)
        os.set_blocking(process.stdout.fileno(), False)
        return process

    def _environment(self) -> dict[str, str]:
        kept = _KEPT_ONLINE if self._mode == "online" else set()
        if kept and "WANDB_SWEEP_ID" in os.environ:
            kept = kept | _SWEEPS
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("WANDB_") or name in kept
        }
        if self._mode == "offline":
            environment["WANDB_CONFIG_DIR"] = str(self._home / "config")
        return environment | {
            "WANDB_DATA_DIR": str(self._home / "data"),
            "WANDB_CACHE_DIR": str(self._home / "cache"),
            "WANDB_ARTIFACT_DIR": str(self._home / "artifacts"),
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_SILENT": "true",
        }

    def _send(self, command: str, **fields: Any) -> None:
        if not self._open:
            return
        self._outbox += json.dumps({"command": command, **fields}).encode() + b"\n"
        self.tick()
        if len(self._outbox) > MAX_WAITING:
            self._give_up("it stopped reading")

    def _write(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            while self._outbox:
                self._outbox = self._outbox[os.write(self._process.stdin.fileno(), self._outbox) :]
        except BlockingIOError:
            pass  # the rest goes with the next tick
        except OSError:
            self._outbox = b""  # it has died; `tick` finds the reason

    def _events(self) -> Iterator[dict[str, Any]]:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            while read := os.read(self._process.stdout.fileno(), 1 << 16):
                self._inbox += read
        except OSError:
            pass  # nothing more for now
        *lines, self._inbox = self._inbox.split(b"\n")
        yield from (json.loads(line) for line in lines)

    def _hear(self, event: dict[str, Any]) -> None:
        if event["event"] == "offline":
            log.warning(
                "warning[MMG-W02]: wandb is not reachable online (%s); this run is tracked offline\n"
                "  fix: `wandb login`, then `wandb sync %s`",
                event["reason"],
                self._home / f"offline-run-*-{self.id}",
            )
        elif event["event"] == "left_out" and self._complete:
            self._complete = False
            log.warning(
                "warning[MMG-W03]: wandb has no artifact %s (%s); what made what is in lineage.json all the same",
                event["what"],
                event["reason"],
            )
        elif event["event"] == "failed":
            self._give_up(event["reason"])
        elif event["event"] == "finished":
            self._finished = True

    def _wait(self, seconds: float) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        select.select([self._process.stdout], [], [], seconds)

    def _give_up(self, reason: str) -> None:
        if not self._open:
            return
        kept = f"every row is in {self._metrics}" if self._metrics.exists() else f"all is in {self._metrics.parent}"
        log.warning("warning[MMG-W01]: wandb stopped (%s); training goes on, and %s", reason, kept)
        self._end()

    def _end(self) -> None:
        self._open = False
        if self._process is None:
            return
        if not self._finished:
            self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def picture(name: str, path: Path, step: int) -> dict[str, Any]:
    """A picture as the follower reads it."""
    return {"name": f"samples/{name}", "path": str(path.resolve()), "step": step}


def earlier_pictures(samples: Path, last: float) -> list[dict[str, Any]]:
    """The pictures that were logged up to a step, as the follower reads them."""
    found = [(path, re.fullmatch(r"(.+)-(\d{6,})", path.stem)) for path in sorted(samples.glob("*.png"))]
    steps = [(match[1], path, int(match[2])) for path, match in found if match]
    return [picture(name, path, step) for name, path, step in steps if step <= last]
