"""kill -9, a full disk and a place that may not be written: the last checkpoint is always there, whole."""

import errno
import os
import random
import resource
import select
import shutil
import signal
import time
from types import SimpleNamespace

import pytest
import torch

from mmgen.checkpoint import lightning
from mmgen.checkpoint.files import remove_leftovers
from mmgen.checkpoint.lightning import SafeCheckpointIO
from mmgen.checkpoint.steps import checkpoint_path, newest_valid
from mmgen.errors import CheckpointError

STATE_SIZE = 2_000_000  # bytes: enough for a kill to land in the middle of a write


@pytest.fixture(autouse=True)
def _one_thread():
    """A forked child has none of its parent's threads, and would wait for them in its first parallel operation."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def state(step):
    return {"global_step": step, "weights": torch.full((STATE_SIZE // 4,), float(step))}


def is_whole(path):
    loaded = SafeCheckpointIO().load_checkpoint(path)
    return bool((loaded["weights"] == loaded["global_step"]).all())


def write_until_killed(checkpoints, pipe, step, same_place):
    """Says each step before and after it is written."""
    writer = SafeCheckpointIO(keep_last=2)
    while True:
        step += 1
        os.write(pipe, b"b")
        writer.save_checkpoint(state(step), checkpoint_path(checkpoints, 0 if same_place else step))
        os.write(pipe, b"e")


def killed_once(checkpoints, step, delay, same_place):
    """Kills a writer `delay` seconds into a write: how many it finished, and whether one was under way."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            write_until_killed(checkpoints, write, step, same_place)
        finally:
            os._exit(1)
    os.close(write)
    try:
        said = os.read(read, 1)
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "the writer failed by itself"
        while select.select([read], [], [], 0)[0] and (more := os.read(read, 4096)):
            said += more
    finally:
        os.close(read)
    return said.count(b"e"), said.endswith(b"b")


@pytest.mark.parametrize("same_place", [False, True], ids=["new places", "same place"])
@pytest.mark.parametrize("kills", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_no_kill_tears_a_checkpoint_or_goes_back_a_step(tmp_path, monkeypatch, same_place, kills):
    monkeypatch.setenv("TMPDIR", "/dev/shm")
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    begin = time.monotonic()
    SafeCheckpointIO().save_checkpoint(state(0), checkpoint_path(checkpoints, 0))
    window = min(1.5 * (time.monotonic() - begin), 0.1)  # on a busy machine, the first part of a slow write will do
    generator = random.Random(0)
    step = mid_write = 0
    for _ in range(4 * kills):
        finished, under_way = killed_once(checkpoints, step, generator.uniform(0, window), same_place)
        mid_write += under_way
        if same_place:
            remove_leftovers(checkpoints)  # what the next start does under the lock
        newest, problems = newest_valid(checkpoints)
        assert problems == []
        assert newest is not None
        assert is_whole(newest)
        reached = int(SafeCheckpointIO().load_checkpoint(newest)["global_step"])
        assert step + finished <= reached <= step + finished + 1
        step = reached
        if mid_write >= kills:
            break
    assert mid_write >= kills
    SafeCheckpointIO().save_checkpoint(state(step + 1), checkpoint_path(checkpoints, step + 1))  # the next start
    kept = sorted(os.listdir(checkpoints))
    assert all(name.startswith("step-") for name in kept)
    assert len(kept) == 2


@pytest.mark.parametrize("point", range(6))
@pytest.mark.parametrize("new", [2, 3], ids=["same place", "new place"])
def test_a_kill_at_each_point_of_the_exchange_leaves_two(tmp_path, point, new):
    """Dies just before the nth thing that moves, removes or renames."""
    for step in (1, 2):
        SafeCheckpointIO().save_checkpoint(state(step), checkpoint_path(tmp_path, step))
    child = os.fork()
    if child == 0:
        count = 0

        def die_at_point(original):
            def wrapper(*args, **options):
                nonlocal count
                if count == point:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
                return original(*args, **options)

            return wrapper

        for name in ("replace", "rmdir", "unlink"):
            setattr(os, name, die_at_point(getattr(os, name)))
        try:
            SafeCheckpointIO(keep_last=2).save_checkpoint(state(new), checkpoint_path(tmp_path, new))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert newest_valid(tmp_path)[0] is not None  # one at least, whatever happens
    remove_leftovers(tmp_path)
    assert all(name.startswith("step-") and is_whole(tmp_path / name) for name in os.listdir(tmp_path))
    assert len(os.listdir(tmp_path)) >= 2


def content(directory):
    return {path.name: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def in_child(work):
    """Runs `work` in a fork, since a limit once set stays; its returned text."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, work().encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        text = file.read()
    os.waitpid(child, 0)
    return text


def save_fails(path):
    try:
        SafeCheckpointIO().save_checkpoint(state(2), path)
    except CheckpointError as error:
        return error.render()
    return "saved"


@pytest.mark.parametrize("limit", [0, 100, 4096, 1_000_000, STATE_SIZE])
@pytest.mark.parametrize("step", [1, 2], ids=["same place", "new place"])
def test_a_full_disk_leaves_the_old_checkpoint_as_it_was(tmp_path, limit, step):
    SafeCheckpointIO().save_checkpoint(state(1), checkpoint_path(tmp_path, 1))
    old = content(tmp_path)

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return save_fails(checkpoint_path(tmp_path, step))

    message = in_child(work)
    assert f"error[MMG-K04]: cannot write {checkpoint_path(tmp_path, step)}: 2.0 MB needed, " in message
    assert f"free on {tmp_path}" in message
    assert "File too large" in message
    assert content(tmp_path) == old
    assert os.listdir(tmp_path) == ["step-000001"]


def test_a_small_disk_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    SafeCheckpointIO().save_checkpoint(state(1), checkpoint_path(tmp_path, 1))
    old = content(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_500_000))
    monkeypatch.setattr(lightning, "write_tensors", None)  # would be a TypeError
    message = save_fails(checkpoint_path(tmp_path, 2))
    assert f"cannot write {checkpoint_path(tmp_path, 2)}: 2.0 MB needed, 1.5 MB free on {tmp_path}" in message
    assert content(tmp_path) == old


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_an_error_while_writing_leaves_the_old_checkpoint_as_it_was(tmp_path, monkeypatch, code):
    SafeCheckpointIO().save_checkpoint(state(1), checkpoint_path(tmp_path, 1))
    old = content(tmp_path)

    def fail(file, values):
        file.write(b"half")
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(lightning, "write_tensors", fail)
    message = save_fails(checkpoint_path(tmp_path, 1))
    assert "MMG-K04" in message
    assert f"because: {os.strerror(code)}; nothing was overwritten" in message
    assert content(tmp_path) == old


def test_a_place_that_may_not_be_written_is_told(tmp_path):
    """Lightning's own writer returns as if it had saved."""
    SafeCheckpointIO().save_checkpoint(state(1), checkpoint_path(tmp_path, 1))
    old = content(tmp_path)

    def work():
        os.chdir(tmp_path)  # an ordinary user could not even come here, below root's directory of tests
        os.chmod(".", 0o555)  # noqa: S103
        if os.getuid() == 0:
            os.setuid(65534)
        return save_fails(checkpoint_path(".", 2))

    message = in_child(work)
    os.chmod(tmp_path, 0o755)  # noqa: S103
    assert "error[MMG-K04]: cannot write step-000002" in message
    assert "Permission denied" in message
    assert content(tmp_path) == old
