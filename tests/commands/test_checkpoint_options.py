"""A component that says which options its checkpoint holds in place of those it was built with."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mmgen.commands.stages import checkpoint_config
from mmgen.errors import ConfigError

GIVEN = {"name": "transformer", "embed_dim": 64, "num_layers": 2}


def test_without_them_the_config_stays_as_it_is():
    assert checkpoint_config("generator", GIVEN, SimpleNamespace()) == GIVEN


def test_they_replace_what_was_given():
    config = checkpoint_config("generator", GIVEN, SimpleNamespace(checkpoint_options={"num_layers": 3}))
    assert {key: config[key] for key in GIVEN} == {**GIVEN, "num_layers": 3}


@pytest.mark.parametrize("options", [{"num_layres": 3}, {"num_layers": "many"}])
def test_what_is_no_option_is_refused(options):
    with pytest.raises(ConfigError, match="num_lay"):
        checkpoint_config("generator", GIVEN, SimpleNamespace(checkpoint_options=options))
