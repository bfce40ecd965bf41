"""A real environment of its own for a plugin: what is installed here is seen there, and nothing is fetched."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import sysconfig
from pathlib import Path


def environment(path: Path) -> Path:
    """Makes it; gives the directory of its commands, with `mmgen` and `pytest` in it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(path)], check=True)
    packages = path / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    above = [sysconfig.get_paths()["purelib"], *site.getsitepackages()]
    lines = [f"import site; site.addsitedir({place!r})" for place in dict.fromkeys(above)]
    (packages / "above.pth").write_text("\n".join(lines) + "\n")
    for name, code in {"mmgen": "mmgen.cli:main", "pytest": "pytest:main"}.items():
        module, _, function = code.partition(":")
        script = path / "bin" / name
        script.write_text(f"#!{path}/bin/python\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
        script.chmod(0o755)
    pip = path / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\nexec {sys.executable} -m pip --python {path}/bin/python "$@"\n')
    pip.chmod(0o755)
    return path / "bin"


def run(binaries: Path, *command: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """A command of the environment; pip there asks no index."""
    return subprocess.run(
        [str(binaries / command[0]), *command[1:]],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=600,
        env={**variables(binaries), **env},
    )


def variables(binaries: Path) -> dict[str, str]:
    """Those of a shell in which the environment is active. What pip is told holds its options as if they were typed."""
    found = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    pip = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    path = f"{binaries}:{os.environ['PATH']}"
    return {**found, **pip, "PATH": path, "VIRTUAL_ENV": str(binaries.parent), "OMP_NUM_THREADS": "1"}
