"""`init_from` with an option that no weight shows, such as the activation, at another value."""

from __future__ import annotations

import pytest

from mmgen.checkpoint.parts import Part
from mmgen.commands.preflight import check_fixed
from mmgen.errors import CheckpointError
from mmgen.models.clip import Clip

TRAINED = {"name": "clip", "activation": "quick_gelu", "pixels": "openai", "num_heads": 4, "text_heads": 4}


def check(**changes: object) -> None:
    check_fixed("encoder", {**TRAINED, **changes}, Part("encoder", TRAINED, {}, {}))


def test_equal_options_and_those_that_weights_show_are_let_through():
    check()
    check(text_heads=None)  # stands for num_heads
    check(loss="sigmoid", width=384)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("activation", "gelu"),
        ("pixels", "symmetric"),
        ("num_heads", 2),
        ("text_heads", 2),
        ("pre_norm", False),
        ("pool", "average"),
    ],
)
def test_another_value_is_refused_with_both_and_the_fix(option, value):
    assert option in Clip.fixed_options
    with pytest.raises(CheckpointError) as caught:
        check(**{option: value})
    trained = {**TRAINED, "pre_norm": True, "pool": "class_token"}[option]
    message = caught.value.render()
    assert "MMG-K11" in message
    assert f"at: encoder.{option}" in message
    assert repr(value) in message
    assert repr(trained) in message
    assert f"fix: encoder.{option}={str(trained).lower()}" in message
