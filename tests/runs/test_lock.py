"""One process a run, whatever happens to it."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from mmgen.errors import RunLockedError
from mmgen.runs.directory import RunDirectory

HOLD = r"""
import os, sys, time
from mmgen.errors import RunLockedError
from mmgen.runs.directory import RunDirectory
try:
    with RunDirectory(sys.argv[1]).lock():
        if sys.argv[2] == "fork" and os.fork() == 0:
            os.write(1, b"%d\n" % os.getpid())  # one write: two processes share the pipe
            time.sleep(60)
            os._exit(0)
        os.write(1, b"held\n")
        time.sleep(60)
except RunLockedError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""


def start(path, how="plain"):
    return subprocess.Popen([sys.executable, "-c", HOLD, str(path), how], stdout=subprocess.PIPE, text=True)


def end(process):
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture
def holder(tmp_path):
    process = start(tmp_path / "bird")
    assert process.stdout.readline() == "held\n"
    yield process
    end(process)


def locked(path):
    try:
        with RunDirectory(path).lock():
            return None
    except RunLockedError as error:
        return error


def test_a_second_start_is_refused_and_told_who_is_first(tmp_path, holder):
    error = locked(tmp_path / "bird")
    assert (error.code, error.exit_code) == ("MMG-R01", 7)
    place, host = re.escape(str(tmp_path / "bird")), re.escape(socket.gethostname())
    pattern = rf"run directory {place} is in use by pid {holder.pid} on host {host} \(since \d\d:\d\d\)"
    assert re.fullmatch(pattern, error.what)
    assert f"`kill {holder.pid}`" in error.fix
    assert "`run.name=bird-2`" in error.fix
    assert len(error.render().splitlines()) <= 6


def test_of_five_at_once_one_runs(tmp_path):
    processes = [start(tmp_path / "bird") for _ in range(5)]
    lines = []
    try:
        lines = [process.stdout.readline() for process in processes]
        refused = [p for p, line in zip(processes, lines, strict=True) if line != "held\n"]
        assert [p.wait(5) for p in refused] == [7] * 4
    finally:
        for process in processes:
            end(process)
    assert lines.count("held\n") == 1
    assert locked(tmp_path / "bird") is None


def test_a_killed_holder_frees_it_at_once(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert locked(tmp_path / "bird") is None


def test_a_forked_worker_does_not_hold_it_for_a_killed_parent(tmp_path):
    process = start(tmp_path / "bird", "fork")
    child = None
    try:
        said = {process.stdout.readline().strip(), process.stdout.readline().strip()}
        assert "held" in said
        child = int((said - {"held"}).pop())
        assert locked(tmp_path / "bird") is not None
        process.kill()
        process.wait()
        os.kill(child, 0)  # the worker lives
        assert locked(tmp_path / "bird") is None
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
        end(process)


def test_it_is_free_after_an_error_and_refuses_a_second_hold_in_one_process(tmp_path):
    run = RunDirectory(tmp_path / "bird")
    refusals = []

    def fail_inside():
        with run.lock():
            refusals.append(locked(run.path))
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert f"pid {os.getpid()} " in refusals[0].what
    assert locked(run.path) is None
    assert run.lock_file.read_text() == ""


def test_a_name_without_a_living_process_is_not_waited_for_long(tmp_path, holder):
    (tmp_path / "bird" / ".lock").write_text("torn {")
    begin = time.monotonic()
    assert "pid ?" in locked(tmp_path / "bird").what
    assert time.monotonic() - begin < 2


def test_starting_removes_what_a_killed_one_left(tmp_path):
    run = RunDirectory(tmp_path / "bird").create({"seed": 1})
    places = [run.path, run.checkpoints, run.stage("tokenizer").path, run.stage("tokenizer").checkpoints]
    for place in places:
        place.mkdir(exist_ok=True, parents=True)
        (place / ".model.7-0123abcd.tmp").mkdir()
        (place / ".model.7-0123abcd.tmp" / "half").write_text("x")
        (place / ".status.json.7-89abcdef.tmp").write_text("x")
    with run.lock():
        assert [path.name for path in run.path.rglob("*.tmp")] == []
    assert [sorted(os.listdir(place)) for place in places[1:]] == [[], ["checkpoints"], []]
