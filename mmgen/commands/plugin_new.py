"""`mmgen plugins new KIND NAME [DIRECTORY]`: a plugin that works, to begin with.

The files come from `plugin_templates/`: a plugin called `example` of each kind, in which the name is replaced. So what
is written is code that mmgen's own tests have run.
"""

from __future__ import annotations

import keyword
import re
import shutil
from pathlib import Path

from mmgen import __version__, api, registry
from mmgen.errors import ConfigError, quoted
from mmgen.spelling import nearest

# Not "templates": Hydra takes a folder here for a group, and a key of that name could not be set any more.
TEMPLATES = Path(__file__).with_name("plugin_templates")
WHERE = {  # of the templates, by where they are written
    "pyproject.toml": "common/pyproject.txt",
    "README.md": "common/README.md",
    ".gitignore": "common/gitignore",
    ".github/workflows/tests.yml": "common/tests.yml",
    "mmgen_example/__init__.py": "KIND/example.py",
    "tests/test_example.py": "KIND/test_example.py",
}
USES = {  # what it does, and how it is used
    "dataset": ("Captioned pictures of stripes.", "mmgen run dataset=example run.name=example"),
    "tokenizer": (
        "Turns pictures into a grid of codebook indices and back: the nearest codes of patches.",
        "mmgen train task=tokenizer tokenizer=example dataset=DATASET run.name=example",
    ),
    "generator": (
        "Predicts the stream of text and image tokens, with a recurrent network.",
        "mmgen train task=generator generator=example tokenizer_from=RUN dataset=DATASET run.name=example",
    ),
    "encoder": (
        "Puts pictures and captions into one space.",
        "mmgen train task=encoder encoder=example dataset=DATASET run.name=example",
    ),
    "sampler": ("Draws image tokens from a generator.", 'mmgen sample "a caption" sampler=example run=RUN'),
    "evaluator": ("Measures how far reconstructions are from pictures.", "mmgen evaluate evaluator=[example] run=RUN"),
}


def new(words: list[str]) -> str:
    """Writes the plugin; gives what to tell.

    Args:
        words: kind, name, and perhaps the directory, by default `mmgen-NAME` in the working directory.

    Raises:
        ConfigError: too few words, an unknown kind, a name that cannot be one or is taken, a directory with files.
    """
    if len(words) not in (2, 3):
        raise _refused("plugins new wants a kind and a name", fix="mmgen plugins new dataset stripes")
    kind, name = words[0], re.sub(r"[-. ]", "_", words[1].removeprefix("mmgen-")).lower()
    if kind not in registry.KINDS:
        near = nearest(kind, registry.KINDS)
        raise _refused(
            f"there is no kind {quoted(kind)}",
            why=f"there are {', '.join(registry.KINDS)}",
            fix=f"mmgen plugins new {near or 'dataset'} {words[1]}",
        )
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise _refused(
            f"{quoted(words[1])} cannot be a name",
            why="a name is letters, digits and _, and begins with a letter",
            fix=f"mmgen plugins new {kind} stripes",
        )
    if claims := registry.components(kind).get(name):
        raise _refused(
            f"the {kind} {quoted(name)} exists already",
            why=f"it is {claims[0].owner}'s, and a name has one owner",
            fix=f"mmgen plugins new {kind} my_{name}",
        )
    distribution = f"mmgen-{name.replace('_', '-')}"
    directory = Path(words[2] if len(words) == 3 else distribution)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise _refused(f"{str(directory)!r} is there already", fix=f"mmgen plugins new {kind} {name} OTHER_DIRECTORY")
    _write(kind, name, directory)
    return _told(kind, name, directory)


def _refused(what: str, why: str = "", fix: str = "") -> ConfigError:
    return ConfigError(what, code="MMG-C07", where="command line", why=why, fix=fix)


def named(text: str, kind: str, name: str) -> str:
    """A template's text, with the plugin's kind and name, and this mmgen's versions."""
    class_name = "".join(part.capitalize() for part in name.split("_"))
    does, use = USES[kind]
    replaced = {
        "WHAT_IT_DOES": does,
        "USE_IT": use,
        "mmgen-example": f"mmgen-{name.replace('_', '-')}",
        "Example": class_name,
        "example": name,
        "KIND": kind,
        "MMGEN_VERSION": ".".join(__version__.split(".")[:2]),
        "API_VERSION": str(api.API_VERSION),
    }
    for old, now in replaced.items():
        text = text.replace(old, now)
    return text


def _write(kind: str, name: str, directory: Path) -> None:
    made = not directory.exists()
    try:
        for file, template in WHERE.items():
            path = directory / named(file, kind, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            text = (TEMPLATES / template.replace("KIND", kind)).read_text(encoding="utf-8")
            path.write_text(named(text, kind, name), encoding="utf-8")
    except BaseException:
        if made:
            shutil.rmtree(directory, ignore_errors=True)  # half a plugin is in the way of the next try
        raise


def _told(kind: str, name: str, directory: Path) -> str:
    uses = named(USES[kind][1], kind, name)
    return "\n".join(
        [
            f"{directory} holds the {kind} {name!r}, which works as it is:",
            f"  mmgen_{name}/__init__.py     the class; its keyword arguments are its options",
            f"  tests/test_{name}.py         every check of its kind, and what it promises itself",
            "  pyproject.toml, README.md, .github/workflows/tests.yml",
            "next:",
            f"  pip install -e {directory}",
            f"  mmgen plugins info {name}",
            f"  pytest {directory}",
            f"  {uses}",
        ]
    )
