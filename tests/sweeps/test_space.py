"""What a search space may say, in YAML and in Hydra's syntax, and how its values come back to a command line."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mmgen.errors import ConfigError
from mmgen.sweeps.reading import from_text, from_yaml
from mmgen.sweeps.space import Parameter, Space, override, text


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("interval(1e-4,1e-2)", {"low": 1e-4, "high": 1e-2}),
        ("tag(log, interval(1e-4,1e-2))", {"low": 1e-4, "high": 1e-2, "log": True}),
        ("int(interval(1,8))", {"low": 1, "high": 8}),
        ("range(16,64,16)", {"low": 16, "high": 48, "step": 16}),
        ("range(8,2,-2)", {"low": 4, "high": 8, "step": 2}),
        ("tag(log, range(1,100))", {"low": 1, "high": 99, "log": True}),
        ("range(0,1,0.25)", {"low": 0.0, "high": 0.75, "step": 0.25}),
        ("choice(vq,dvae)", {"choices": ["vq", "dvae"]}),
        ("1,2.5,true,'a b'", {"choices": [1, 2.5, True, "'a b'"]}),
        ("choice([a,b],[c])", {"choices": ["[a,b]", "[c]"]}),
    ],
)
def test_hydras_syntax(given, wanted):
    found = from_text("key", given, "here")
    assert found.described() == wanted
    assert found.whole == all(isinstance(n, int) for n in wanted.values() if not isinstance(n, list)) or found.choices
    assert from_yaml("key", given) == found


def test_yaml():
    assert from_yaml("k", [1, "a b", None, [1, "x y"], {"a": 2}]).choices == (1, "'a b'", None, "[1,'x y']", "{a:2}")
    assert from_yaml("k", {"low": 1, "high": 8}).whole
    assert not from_yaml("k", {"low": 0, "high": 1.0}).whole
    whole = from_yaml("k", {"choices": ["a"], "when": {"x": 1, "y": ["a", "b"], "z": {"low": 1, "high": 2.5}}})
    assert whole.described()["when"] == {"x": [1], "y": ["a", "b"], "z": [[1, 2.5]]}
    assert from_yaml("k", {"values": "interval(0,1)", "when": {"x": True}}).when == {"x": (True,)}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("abc", "does not say what to choose from"),
        (3, "does not say what to choose from"),
        ({"low": 1}, "does not say what to choose from"),
        ({"low": 1, "high": 2, "choices": [1]}, "does not say what to choose from"),
        ({"low": "a", "high": 2}, "must be a number"),
        ({"lowe": 1, "high": 2}, "did you mean low"),
        ({"low": 2, "high": 1}, "there is nothing"),
        ({"low": 0, "high": 1, "log": True}, "above 0"),
        ({"low": 1.0, "high": 2.0, "log": True, "step": 0.5}, "has no steps"),
        ([], "nothing to choose from"),
        (["a", "a"], "comes twice"),
        ("interval(1,", "cannot read"),
        ({"choices": [1], "when": {"x": {"above": 1}}}, "cannot read the condition"),
    ],
)
def test_what_is_no_search_is_told(given, words):
    with pytest.raises(ConfigError) as caught:
        from_yaml("task.optimizer.lr", given)
    assert words in caught.value.render()
    assert "task.optimizer.lr" in caught.value.render()


@pytest.mark.parametrize(
    "value",
    ["a", "a b", "", "null", "true", "1e-3", "it's", "a\\", "[x]", 1, 2.5, 1e-05, None, True, ["a b", 1], {"a": None}],
)
def test_a_value_comes_back_from_the_command_line_as_it_was(value):
    parsed = OverridesParser.create().parse_overrides([override("key", text(value))])[0].value()

    def plain(found):
        if isinstance(found, list):
            return [plain(item) for item in found]
        if isinstance(found, dict):
            return {plain(k): plain(v) for k, v in found.items()}
        return getattr(found, "text", found)

    assert plain(parsed) == value
    assert type(plain(parsed)) is type(value)


def test_conditions_come_after_what_they_depend_on_and_circles_are_told():
    space = Space([
        from_yaml("c", {"choices": [1], "when": {"b": 2}}),
        from_yaml("b", {"choices": [2, 3], "when": {"a": "x"}}),
        from_yaml("a", ["y", "x"]),
    ])  # fmt: skip
    assert space.keys == ["a", "b", "c"]
    with pytest.raises(ConfigError, match="did you mean a"):
        Space([from_yaml("b", {"choices": [2], "when": {"aa": "x"}}), from_yaml("a", ["x"])])
    with pytest.raises(ConfigError, match="depend on each other"):
        Space([from_yaml("a", {"choices": [1], "when": {"b": 1}}), from_yaml("b", {"choices": [1], "when": {"a": 1}})])


def test_every_end_of_every_parameter_is_among_the_variants():
    space = Space([
        from_yaml("a", ["w", "x", "y"]),
        from_yaml("b", {"low": 1, "high": 9, "when": {"a": "y"}}),
        from_yaml("c", {"choices": [True, False], "when": {"b": {"low": 5, "high": 9}}}),
        Parameter("d", low=0.0, high=1.0),
    ])  # fmt: skip
    variants = space.variants()
    for parameter in space.parameters:
        seen = [v[parameter.key] for v in variants if parameter.key in v]
        assert set(parameter.extremes()) <= set(seen)
    assert len(variants) <= 8
    for variant in variants:
        assert ("b" in variant) == (variant["a"] == "y")
