"""The registry on real installed distributions: discovery, clashes, broken plugins, building."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mmgen import registry
from mmgen.errors import ConfigError, ConfigErrors, MmgenError, PluginError

Install = Callable[..., Path]

TOY = """
    from __future__ import annotations
    from typing import TYPE_CHECKING, Literal
    if TYPE_CHECKING:
        from torch import Tensor

    class Toy:
        '''A toy.'''
        def __init__(self, text_tokenizer, grid: tuple[int, int], codebook_size: int, *, width: int = 8,
                     mode: Literal["fast", "exact"] = "fast", path: str, start: Tensor | None = None,
                     sizes: tuple[int, int] = (1, 2)):
            if width % 2:
                raise ValueError(f"width must be even, got {width}")
            self.grid, self.width, self.mode, self.path, self.sizes = grid, width, mode, path, sizes
"""
RUNTIME = {"text_tokenizer": None, "grid": (2, 2), "codebook_size": 16}


@pytest.fixture
def toy(install: Install) -> Path:
    return install("toy-gen", {"mmgen.generator": {"toy": "toy_gen:Toy"}}, {"toy_gen.py": TOY})


def test_listing_imports_nothing(install: Install):
    install("boom", {"mmgen.generator": {"boom": "boom_plugin:Boom"}}, {"boom_plugin.py": "raise SystemExit(3)"})
    assert "boom" in registry.components("generator")
    assert "boom" in registry.choices("generator")
    assert "boom_plugin" not in sys.modules


def test_importing_the_registry_imports_nothing_heavy():
    code = "import sys, mmgen.registry as r; r.choices('tokenizer'); print({'torch', 'hydra'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_options_are_the_signature_without_build_arguments(toy: Path):
    found = registry.find("generator", "toy").options()
    assert list(found) == ["width", "mode", "path", "start", "sizes"]


def test_build_converts_and_hands_over(toy: Path):
    built = registry.build("generator", {"name": "toy", "width": "4", "path": "x", "sizes": [3, 4]}, **RUNTIME)
    assert (built.width, built.mode, built.path, built.sizes, built.grid) == (4, "fast", "x", (3, 4), (2, 2))


def test_complete_is_the_whole_config_as_json_holds_it(toy: Path):
    assert registry.complete("generator", {"name": "toy", "path": "x"}) == {
        "name": "toy", "width": 8, "mode": "fast", "path": "x", "start": None, "sizes": [1, 2],
    }  # fmt: skip


def test_every_error_of_a_config_is_told(toy: Path):
    with pytest.raises(ConfigErrors) as caught:
        registry.build("generator", {"name": "toy", "widht": 4, "width": "wide", "mode": "slow"}, **RUNTIME)
    told = [e.what for e in caught.value.errors]
    assert len(told) == 4
    assert any("'generator.widht'" in t for t in told)
    assert any("generator.width must be a whole number, got 'wide'" in t for t in told)
    assert any("one of fast, exact" in t for t in told), "Hydra 1.3 does not check a Literal"
    assert any("generator.path is required" in t for t in told)


def test_what_the_component_refuses_is_a_config_error(toy: Path):
    with pytest.raises(ConfigError, match="width must be even, got 3") as caught:
        registry.build("generator", {"name": "toy", "path": "x", "width": 3}, **RUNTIME)
    assert caught.value.exit_code == 2


def test_a_component_without_a_build_argument_does_not_fit(install: Install):
    source = "class Lame:\n    def __init__(self, width: int = 3): ..."
    install("lame", {"mmgen.tokenizer": {"lame": "lame:Lame"}}, {"lame.py": source})
    with pytest.raises(PluginError, match="takes no argument 'image_size'"):
        registry.build("tokenizer", {"name": "lame"}, image_size=32)


def test_an_option_may_not_be_called_name(install: Install):
    install("named", {"mmgen.sampler": {"named": "named:make"}}, {"named.py": "def make(name: str): ..."})
    with pytest.raises(PluginError, match="option called 'name'"):
        registry.complete("sampler", {"name": "named"})


def test_unknown_name_gets_the_nearest(toy: Path):
    with pytest.raises(ConfigError) as caught:
        registry.build("generator", {"name": "tranformer"})
    assert caught.value.fix == "generator=transformer"
    assert "toy" in caught.value.why


@pytest.mark.parametrize("config", [{}, {"name": "???"}, {"name": 3}])
def test_no_name(config: dict):
    with pytest.raises(ConfigError, match="no sampler is chosen"):
        registry.build("sampler", config)


# --- clashes ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def clash(install: Install) -> Path:
    for dist in ("Alpha_Plugin", "beta-plugin"):
        module = dist.lower().replace("-", "_")
        source = f"class Owl:\n    owner = {dist!r}\n    def __init__(self, width: int = 3): ..."
        install(
            dist,
            {"mmgen.sampler": {"owl": f"{module}:Owl", f"{module}_own": f"{module}:Owl"}},
            {f"{module}.py": source},
        )
    return Path()


def test_a_clash_names_both_and_is_never_first_wins(clash: Path, monkeypatch: pytest.MonkeyPatch):
    seen = set()
    for path in (list(sys.path), list(reversed(sys.path))):
        monkeypatch.setattr(sys, "path", path)
        with pytest.raises(PluginError) as caught:
            registry.build("sampler", {"name": "owl"})
        seen.add(caught.value.render())
    assert len(seen) == 1, "the same whatever the order of sys.path"
    assert caught.value.exit_code == 8
    assert "Alpha_Plugin 1.0" in caught.value.what
    assert "beta-plugin 1.0" in caught.value.what
    assert "sampler=owl@beta-plugin" in caught.value.fix


def test_a_clash_that_nobody_chose_hurts_nobody(clash: Path):
    assert registry.build("sampler", {"name": "beta_plugin_own"}).owner == "beta-plugin"


@pytest.mark.parametrize(("name", "owner"), [("owl@alpha-plugin", "Alpha_Plugin"), ("owl@beta_plugin", "beta-plugin")])
def test_the_distribution_picks_one(clash: Path, name: str, owner: str):
    assert registry.build("sampler", {"name": name}).owner == owner
    assert registry.build("sampler", {"name": name}, trusted=False).owner == owner


def test_a_distribution_that_has_no_such_component(clash: Path):
    with pytest.raises(ConfigError) as caught:
        registry.find("sampler", "owl@gamma")
    assert "owl@Alpha_Plugin" in caught.value.why


def test_core_names_cannot_be_shadowed(install: Install):
    install("shadow", {"mmgen.tokenizer": {"vq": "shadow:Vq"}}, {"shadow.py": "class Vq: ..."})
    with pytest.raises(PluginError) as caught:
        registry.find("tokenizer", "vq")
    assert "mmgen-lightning" in caught.value.what
    assert "shadow 1.0" in caught.value.what
    assert registry.find("tokenizer", "vq@mmgen-lightning").value == "mmgen.models.vq:VQ"


def test_one_distribution_twice_on_the_path_is_no_clash(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for where in (tmp_path / "one", tmp_path / "two"):
        install("twice", {"mmgen.sampler": {"twin": "twin:Twin"}}, {"twin.py": "class Twin: ..."}, where=where)
        monkeypatch.syspath_prepend(str(where))
    assert registry.find("sampler", "twin").distribution == "twice"


def test_a_foreign_mmgen_is_named(install: Install):
    install("mmgen", {}, {}, version="1.0.0rc8")
    with pytest.raises(PluginError, match=r"foreign distribution 'mmgen' 1.0.0rc8") as caught:
        registry.find("tokenizer", "vq")
    assert "pip uninstall mmgen" in caught.value.fix


# --- broken plugins --------------------------------------------------------------------------------------------------

BROKEN = {
    "ImportError": "raise ImportError('half installed')",
    "ModuleNotFoundError": "import einops_is_not_here",
    "SyntaxError": "def broken(:",
    "SystemExit": "import sys; sys.exit(0)",
    "AttributeError": "class Other: ...",
    "RuntimeError": "raise RuntimeError('no GPU')",
}


@pytest.mark.parametrize(("cause", "source"), BROKEN.items())
def test_a_broken_plugin_is_named_with_its_cause(install: Install, cause: str, source: str):
    name = f"bad_{cause.lower()}"
    install("bad-plugin", {"mmgen.encoder": {"bad": f"{name}:Bad"}}, {f"{name}.py": source}, version="0.3")
    with pytest.raises(PluginError) as caught:
        registry.build("encoder", {"name": "bad"})
    assert caught.value.exit_code == 8
    assert "bad-plugin 0.3" in caught.value.what
    assert cause in caught.value.why
    assert caught.value.fix == (
        "pip install einops_is_not_here" if cause == "ModuleNotFoundError" else caught.value.fix
    )
    assert registry.find("encoder", "clip").distribution == "mmgen-lightning", "the others are not hurt"


def test_an_interrupt_at_import_is_an_interrupt(install: Install):
    install("stop", {"mmgen.encoder": {"stop": "stop_plugin:Stop"}}, {"stop_plugin.py": "raise KeyboardInterrupt"})
    with pytest.raises(KeyboardInterrupt):
        registry.build("encoder", {"name": "stop"})


# --- a class of the user's own ---------------------------------------------------------------------------------------


def test_a_class_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my_try.py").write_text(
        "class Mine:\n    def __init__(self, width: int = 3):\n        self.width = width"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    assert registry.build("sampler", {"name": "my_try:Mine", "width": 5}).width == 5


@pytest.mark.parametrize("name", ["my_try:Mine", "os:system", "torch.hub:load", "../../x", "os.system", "a@b:c"])
def test_a_config_from_a_file_may_only_name_what_is_installed(name: str):
    with pytest.raises(MmgenError) as caught:
        registry.build("sampler", {"name": name}, trusted=False)
    assert isinstance(caught.value, ConfigError)


@pytest.mark.parametrize("name", ["my-try:Mine", ":Mine", "my_try:", "a b:c"])
def test_a_malformed_class_is_refused(name: str):
    with pytest.raises(ConfigError, match="module:Class"):
        registry.build("sampler", {"name": name})


def test_a_class_of_the_users_own_that_is_not_there():
    with pytest.raises(PluginError, match="your own module"):
        registry.build("sampler", {"name": "no_such_module_here:Mine"})
