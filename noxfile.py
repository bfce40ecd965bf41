"""Checks, each in a virtual environment of its own: `pip install nox && nox -s tests`.

Everything runs on the CPU. torch comes from the range in pyproject, whatever index pip is set to. It and all else that
mmgen and its plugins require is installed once, in .nox/required, which the sessions see that call `see_required`.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.options.default_venv_backend = "virtualenv"  # uv resolves torch otherwise than pip does, to a build of 5 GB
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["tests", "lint", "types"]

HERE = Path(__file__).parent
PLUGINS = sorted(path.parent for path in HERE.glob("plugins/*/pyproject.toml"))
TESTS = ["tests", *(str(plugin / "tests") for plugin in PLUGINS if (plugin / "tests").is_dir())]
PROJECT = nox.project.load_toml("pyproject.toml")
DEV = PROJECT["project"]["optional-dependencies"]["dev"]
REFERENCES = PROJECT["dependency-groups"]["references"]
DOCS = PROJECT["dependency-groups"]["docs"]
OURS = [PROJECT, *(nox.project.load_toml(plugin / "pyproject.toml") for plugin in PLUGINS)]
THEIRS = [wanted for one in OURS for wanted in one["project"]["dependencies"] if not wanted.startswith("mmgen-")]
PINNED = [wanted for wanted in REFERENCES if Requirement(wanted).name in {Requirement(one).name for one in THEIRS}]
REQUIRED = [*PROJECT["build-system"]["requires"], *THEIRS, *PINNED]
# Bytecode is written where a module is imported, and most of torch never is; so it has to be written then, whatever the
# shell says: tests start hundreds of processes, each of which would compile torch and Lightning anew.
QUICKLY = ("--no-compile", "--no-build-isolation")
# What the tests of a plugin compare with, beside what it requires.
COMPARED = {"mmgen-imagenet": ("efficientnet", "scikit-learn"), "mmgen-openclip": ("open_clip", "regex")}
ENV = {"CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "offline", "PYTHONDONTWRITEBYTECODE": ""}


def see_required(session: nox.Session) -> None:
    """Lays the session's environment over .nox/required, where everything lies that mmgen and its plugins require."""
    required = HERE / ".nox" / "required"
    python = str(required / "bin" / "python")
    if not Path(python).exists():
        session.run("python", "-m", "venv", "--without-pip", str(required), silent=True)
    session.run(*pip(python), "--no-compile", *REQUIRED)
    lay(session, str(session.virtualenv.bin) + "/python", python)


def pip(python: str) -> tuple[str, ...]:
    """`pip install` for another environment than the session's, which needs no pip of its own."""
    return "python", "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"


def lay(session: nox.Session, upper: str, lower: str) -> None:
    """Lets one Python see the packages of another, behind its own."""
    below = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    own, packages = (
        str(session.run(python, "-c", below, external=True, silent=True)).strip() for python in (upper, lower)
    )
    Path(own, "below.pth").write_text(f"import site; site.addsitedir({packages!r})\n")


def over(session: nox.Session, path: Path) -> str:
    """A new environment in which the session's packages are seen; gives its Python."""
    session.run("python", "-m", "venv", "--clear", "--without-pip", str(path), silent=True)
    python = str(path / "bin" / "python")
    lay(session, python, "python")
    return python


def install(session: nox.Session) -> None:
    """mmgen and every plugin of the repository, editable; what they require lies there already."""
    editable = [part for plugin in PLUGINS for part in ("-e", str(plugin))]
    session.install(*QUICKLY, "-e", ".[dev]", *editable)
    session.install("--no-compile", "--no-deps", *REFERENCES)


@nox.session
def tests(session: nox.Session) -> None:
    """Everything but what takes minutes, by two to six processes; a file's tests share fixtures and stay together."""
    see_required(session)
    install(session)
    parallel = ("-n", str(min(max(os.cpu_count() or 2, 2), 6)), "--dist", "loadfile")
    session.run("pytest", *parallel, *(session.posargs or TESTS), env={**ENV, "OMP_NUM_THREADS": "1"})


@nox.session
def slow(session: nox.Session) -> None:
    """What takes minutes: trainings, kills, resumes."""
    see_required(session)
    install(session)
    session.run("pytest", "-m", "slow", *(session.posargs or TESTS), env=ENV)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, and the direction of imports. Neither needs the dependencies."""
    session.install(*(wanted for wanted in DEV if wanted.startswith(("ruff", "import-linter"))))
    session.run("ruff", "check", ".")
    session.run("lint-imports", env={"PYTHONPATH": str(HERE)})


@nox.session
def types(session: nox.Session) -> None:
    """Types, against the real torch, Lightning and Hydra. Plugins are not looked at."""
    see_required(session)
    session.install(*QUICKLY, "-e", ".[dev]")
    session.install("--no-compile", "--no-deps", *REFERENCES)
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """The site, into build/site; any warning fails it. `nox -s docs -- serve` shows it while you write."""
    session.install("-e", ".", *(part for plugin in PLUGINS for part in ("-e", str(plugin))), *DOCS)
    what = session.posargs or ["build", "--strict"]
    session.run("mkdocs", *what, "-f", "docs/site/mkdocs.yml", env={**ENV, "NO_MKDOCS_2_WARNING": "1"})


@nox.session
def plugins(session: nox.Session) -> None:
    """Each plugin alone, as a third party's: `nox -s plugins -- mmgen-colours` takes one. mmgen is installed from a
    wheel; over it, in an environment of its own, one plugin with what it requires is checked and tested."""
    session.install(".", *(wanted for wanted in DEV if wanted.startswith(("pytest", "setuptools"))))
    chosen = [plugin for plugin in PLUGINS if not session.posargs or plugin.name in session.posargs]
    if not chosen:
        session.error(f"no plugin is called {session.posargs}; there are {[plugin.name for plugin in PLUGINS]}")
    for plugin in chosen:
        python = over(session, Path(session.create_tmp()).resolve() / plugin.name)
        shutil.rmtree(plugin / "build", ignore_errors=True)
        session.run(*pip(python), str(plugin))
        compared = COMPARED.get(plugin.name, ())
        if named := [wanted for wanted in REFERENCES if compared and wanted.startswith(compared)]:
            session.run(*pip(python), "--no-deps", *named)
        if named := [wanted for wanted in THEIRS if compared and wanted.startswith(compared)]:
            session.run(*pip(python), *named)
        listed = str(session.run(python, "-P", "-m", "mmgen.cli", "plugins", "list", external=True, silent=True))
        if found := [other.name for other in PLUGINS if other != plugin and f" {other.name} " in listed]:
            session.error(f"{plugin.name} is not alone, beside it lie {found}")
        session.run(python, "-P", "-m", "mmgen.cli", "plugins", "check", external=True)
        # -P: not the mmgen that lies here beside noxfile.py, but the one that is installed.
        session.run(python, "-P", "-m", "pytest", str(plugin / "tests"), external=True, env=ENV)


@nox.session
def wheel(session: nox.Session) -> None:
    """Wheels and editable installs, each in a new virtual environment that has nothing of ours but them."""
    see_required(session)
    session.install("build")
    built = Path(session.create_tmp()).resolve()
    shutil.rmtree(built)  # wheels of an earlier build, of a plugin that may be gone
    for source in (HERE, *PLUGINS):
        shutil.rmtree(source / "build", ignore_errors=True)  # setuptools would pack what an earlier build left there
        build = ("python", "-m", "build", "--wheel", "--no-isolation", "--outdir", str(built))
        session.run(*build, str(source), silent=True)
    wheels = [str(path) for path in built.glob("*.whl")]
    editable = [part for source in (HERE, *PLUGINS) for part in ("-e", str(source))]
    for name, wanted in (("wheel", wheels), ("editable", editable)):
        python = over(session, built / name)
        session.run(*pip(python), *QUICKLY, *wanted)
        with session.chdir(built):  # not the checkout, where mmgen would be found without being installed
            check_installed(session, Path(python).parent)


def check_installed(session: nox.Session, binaries: Path) -> None:
    """The command, every YAML of conf/, and the plugin, in a fresh environment."""
    yaml = sorted(str(path.relative_to(HERE / "conf")) for path in (HERE / "conf").rglob("*.yaml"))
    code = (
        "import importlib.resources as r, pathlib, mmgen; root = pathlib.Path(str(r.files('mmgen.conf')));"
        "print(*sorted(str(p.relative_to(root)) for p in root.rglob('*.yaml')), sep='\\n')"
    )
    found = session.run(str(binaries / "python"), "-c", code, external=True, silent=True)
    if str(found).split() != yaml:
        session.error(f"mmgen.conf holds {found}, conf/ holds {yaml}")
    mmgen = str(binaries / "mmgen")
    for arguments in (["--help"], ["plugins", "list"], ["export", "--cfg", "job"], ["classify", "--help"]):
        session.run(mmgen, *arguments, external=True, silent=True)
    listed = str(session.run(mmgen, "plugins", "list", external=True, silent=True))
    for plugin in PLUGINS:
        if plugin.name not in listed:
            session.error(f"{plugin.name} is installed and not listed:\n{listed}")
    session.run("python", "-m", "pip", "--python", str(binaries / "python"), "check")


@nox.session
def demo(session: nox.Session) -> None:
    """What the README shows first: a clone, two packages, one command. About twelve minutes."""
    session.install("-e", ".", "-e", "plugins/mmgen-emoji")
    work = session.create_tmp()
    with session.chdir(work):
        session.run("mmgen", "run", *session.posargs, env=ENV)


@nox.session
def browser(session: nox.Session) -> None:
    """The report in a real browser; fails where there is no Chromium (Debian: apt-get install chromium)."""
    see_required(session)
    install(session)
    session.run("pytest", "-m", "browser", "tests/browser", env=ENV)


@nox.session
def gpu(session: nox.Session) -> None:
    """What needs a GPU; fails where there is none, or where torch was built without it (set pip's index for one)."""
    session.install(*REQUIRED)  # a torch of its own, as the index has it that is set now
    install(session)
    session.run("python", "-c", "import torch; assert torch.cuda.is_available(), f'{torch.__version__} finds no GPU'")
    session.run("pytest", "-m", "gpu", *(session.posargs or TESTS), env={"WANDB_MODE": "offline"})


@nox.session
def hydra14(session: nox.Session) -> None:
    """Registry, command and configs on the newest pre-release of Hydra 1.4."""
    see_required(session)
    install(session)
    session.install("--pre", "--upgrade", "hydra-core>=1.4.0rc1,<1.5")
    session.run("python", "-c", "import hydra; print(hydra.__version__); assert hydra.__version__ >= '1.4'")
    session.run("pytest", *(f"tests/test_{page}.py" for page in ("options", "registry", "conf", "cli")), env=ENV)
