"""What tests of several pages share: toy distributions, installed for one test, and the command in a process."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from mmgen import cli

Install = Callable[..., Path]
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for what is kept for the next time, in place of the user's."""
    directory = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMGEN_CACHE", str(directory))
        yield directory


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of installed distributions, in front of the others, for this process and those it starts.

    What was imported from there is forgotten afterwards: another test may install another module of that name.
    """
    directory = tmp_path / "site"
    directory.mkdir()
    monkeypatch.syspath_prepend(str(directory))
    monkeypatch.setenv("PYTHONPATH", str(directory))
    yield directory
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def install(site: Path) -> Install:
    """Installs a distribution as pip would leave it: metadata, entry points, modules."""

    def installed(
        name: str,
        entries: Mapping[str, Mapping[str, str]],
        files: Mapping[str, str],
        *,
        version: str = "1.0",
        where: Path = site,
    ) -> Path:
        info = where / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        groups = [
            f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in named.items()) for group, named in entries.items()
        ]
        (info / "entry_points.txt").write_text("\n\n".join(groups) + "\n")
        for file, text in files.items():
            (where / file).parent.mkdir(parents=True, exist_ok=True)
            (where / file).write_text(dedent(text), encoding="utf-8")
        return where

    return installed


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs the installed `mmgen` in an empty directory."""

    def run(*arguments: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        work = cwd or tmp_path / "work"
        work.mkdir(exist_ok=True)
        return subprocess.run(
            [str(Path(sys.executable).parent / "mmgen"), *arguments],
            capture_output=True,
            text=True,
            cwd=work,
            timeout=60,
            env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        )

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run of all three stages (see `tests.tiny`); not to be written in. The processes of
    pytest-xdist share it: the first that needs it makes it, and the others wait."""
    from tests.tiny import QUIET, RUN, mmgen, write_pictures  # torch, which few tests of the command need

    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    work, done = shared / "finished", shared / "finished.done"
    with open(shared / "finished.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(work, ignore_errors=True)  # of a process that failed
            write_pictures(work / "pictures")
            result = mmgen("run", "run.name=tiny", *RUN, QUIET, cwd=work)
            assert result.returncode == 0, result.stderr
            done.touch()
    return work / "runs" / "tiny"


@pytest.fixture(scope="module")
def work(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory to work in: the pictures, two of them by name, and a copy of the finished run at runs/tiny. Each file
    of tests has its own: which of them share a process is chance."""
    from tests.tiny import write_pictures

    work = tmp_path_factory.mktemp("work")
    write_pictures(work / "pictures")
    shutil.copytree(finished, work / "runs" / "tiny")
    for colour in ("red", "blue"):
        shutil.copy(work / "pictures" / f"{colour}-bar-0.png", work / f"{colour}.png")
    return work


@pytest.fixture
def call(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """The command in this process, in `work`: exit code, output, errors. For where only its arguments are at stake."""
    monkeypatch.chdir(work)
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(list(arguments))
        return code, *capsys.readouterr()

    yield run
    signal.signal(signal.SIGTERM, before)
