"""The promise to plugins: one made for another plugin API says so before it breaks; what is old goes with notice."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import mmgen
from mmgen import api, protocols, registry
from mmgen.errors import PluginError

Install = Callable[..., Path]
MODULE = {"late_mod.py": "raise RuntimeError('imported')"}


@pytest.mark.parametrize(
    ("declared", "behind", "said"),
    [
        ("99", "mmgen-lightning", "made for plugin API 99; this mmgen has"),
        ("0", "late", "made for plugin API 0; this mmgen has"),
        ("next", "late", "made for plugin API next; this mmgen has"),
    ],
)
def test_a_plugin_made_for_another_api_is_told_before_it_is_imported(
    install: Install, declared: str, behind: str, said: str
):
    entries = {"mmgen.sampler": {"late": "late_mod:Late"}, "mmgen.api": {declared: "late_mod"}}
    install("late", entries, MODULE)
    with pytest.raises(PluginError) as caught:
        registry.build("sampler", {"name": "late"})
    assert caught.value.code == "MMG-P06"
    assert said in caught.value.why
    assert caught.value.fix == f"pip install --upgrade {behind}"
    assert "late_mod" not in sys.modules
    assert registry.build("sampler", {"name": "autoregressive"})


def test_the_message_is_the_one_on_the_page(install: Install):
    page = (Path(__file__).parents[1] / "docs" / "plugins" / "promise.md").read_text(encoding="utf-8")
    entries = {"mmgen.dataset": {"squares": "mmgen_squares:Squares"}, "mmgen.api": {"2": "mmgen_squares"}}
    install("mmgen-squares", entries, {"mmgen_squares.py": "raise SystemExit"}, version="0.1")
    with pytest.raises(PluginError) as caught:
        registry.build("dataset", {"name": "squares"})
    assert f"```text\n{caught.value.render()}\n```" in page


@pytest.mark.parametrize("declared", [[], [str(api.API_VERSION)], [str(api.API_VERSION), "99"]])
def test_one_made_for_this_api_and_one_that_says_nothing_are_used(install: Install, declared: list[str]):
    entries = {"mmgen.sampler": {"fits": "fits_mod:Fits"}, "mmgen.api": dict.fromkeys(declared, "fits_mod")}
    install("fits", entries, {"fits_mod.py": "class Fits: ..."})
    assert type(registry.build("sampler", {"name": "fits"})).__name__ == "Fits"


def test_the_version_before_is_kept_for_a_release(install: Install, monkeypatch: pytest.MonkeyPatch):
    entries = {"mmgen.sampler": {"old": "old_mod:Old"}, "mmgen.api": {"1": "old_mod"}}
    install("old", entries, {"old_mod.py": "class Old: ..."})
    monkeypatch.setattr(api, "API_VERSION", 2)
    assert registry.find("sampler", "old").other_api == ""
    monkeypatch.setattr(api, "OLDEST_API", 2)
    assert registry.find("sampler", "old").other_api == "it is made for plugin API 1; this mmgen has 2"


def test_every_plugin_of_the_repository_declares_this_api():
    owners = {c.distribution for kind in registry.KINDS for cs in registry.components(kind).values() for c in cs}
    assert len(owners - {registry.OURS}) >= 8
    for owner in owners - {registry.OURS}:
        assert api.declared(owner) == {str(protocols.API_VERSION)}, owner


# --- what is old -----------------------------------------------------------------------------------------------------


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[api.Deprecation]:
    found: list[api.Deprecation] = []
    monkeypatch.setattr(api, "DEPRECATIONS", found)
    return found


def test_a_deprecated_function_works_and_names_its_successor(notes: list[api.Deprecation]):
    @api.deprecated("mmgen.images.decode", since="0.4")
    def read(path: str) -> str:
        """Reads."""
        return path.upper()

    with pytest.warns(api.DeprecatedWarning, match=r"read goes away in mmgen 0\.5: use mmgen\.images") as caught:
        assert read("a") == "A"
    assert caught[0].filename == __file__, "the caller's line is shown"
    assert read.__doc__ == "Reads."
    assert [note.removed_in for note in notes] == ["0.5"]


def test_a_name_that_moved_is_found_where_it_is_now(notes: list[api.Deprecation]):
    find = api.renamed("mmgen.images", {"read": "mmgen.images:decode"}, since="0.2")
    from mmgen.images import decode

    with pytest.warns(api.DeprecatedWarning, match=r"images\.read goes away in mmgen 0\.3: use mmgen\.images\.dec"):
        assert find("read") is decode
    with pytest.raises(AttributeError, match="no attribute 'write'"):
        find("write")


def test_users_see_it_without_asking(tmp_path: Path):
    code = "from mmgen import api\n@api.deprecated('x.new', since='0.1')\ndef old(): ...\nold()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "old goes away in mmgen 0.2: use x.new" in done.stderr


def test_nothing_deprecated_outlives_its_release():
    release = tuple(int(part) for part in mmgen.__version__.split(".")[:2])
    late = [note for note in api.DEPRECATIONS if release >= tuple(map(int, note.removed_in.split(".")))]
    assert not late
    assert len(api.DEPRECATIONS) == 0, "raise this number with each that is added"
