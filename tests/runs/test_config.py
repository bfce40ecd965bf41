"""A run's config: what it is known by, what differs, what must not be kept."""

from pathlib import Path

import pytest

from mmgen.runs.config import ABSENT, config_fingerprint, differences, plain
from mmgen.runs.redaction import REDACTED


def test_the_fingerprint_is_of_the_values_alone():
    first = config_fingerprint({"seed": 1, "task": {"lr": 1e-3, "betas": (0.9, 0.95)}})
    assert len(first) == 16
    assert first == config_fingerprint({"task": {"betas": [0.9, 0.95], "lr": 0.001}, "seed": 1})
    assert first != config_fingerprint({"seed": 2, "task": {"lr": 1e-3, "betas": [0.9, 0.95]}})


def test_the_keys_that_differ_are_found_with_both_values():
    old = {"seed": 1, "generator": {"name": "transformer", "num_layers": 8}, "gone": 1, "list": [1, 2]}
    new = {"seed": 1, "generator": {"name": "transformer", "num_layers": 6, "more": {"a": 1}}, "list": [1, 3]}
    assert differences(old, new) == [
        ("generator.num_layers", 8, 6),
        ("generator.more", ABSENT, {"a": 1}),
        ("gone", 1, ABSENT),
        ("list", [1, 2], [1, 3]),
    ]
    assert differences(old, old) == []


def test_ignored_keys_may_differ_with_all_below_them():
    old = {"run": {"name": "a", "dir": "runs"}, "runner": 1}
    new = {"run": {"name": "b"}, "runner": 2}
    assert differences(old, new, ("run",)) == [("runner", 1, 2)]
    assert differences(old, new, ("run.name", "runner")) == [("run.dir", "runs", ABSENT)]


@pytest.mark.parametrize(
    "key",
    ["api_key", "token", "hub_token", "PASSWORD", "client_secret", "key", "credentials", "auth", "apiKey", "passphrase",
     "access_key_id"],
)  # fmt: skip
def test_secrets_are_redacted_wherever_they_stand(key):
    assert plain({"a": [{key: "canary"}]}) == {"a": [{key: REDACTED}]}


@pytest.mark.parametrize("key", ["tokenizer", "text_tokenizer", "num_tokens", "keys", "monkey", "tokens", "keyboard"])
def test_what_only_sounds_like_a_secret_stays(key):
    assert plain({key: "vq"}) == {key: "vq"}


def test_lists_of_secrets_and_what_stands_in_an_address_are_redacted():
    told = plain({"api_keys": ["a", "b"], "mirrors": ["https://me:hunter2@host/x"], "path": Path("x")})
    assert told == {"api_keys": REDACTED, "mirrors": [f"https://{REDACTED}@host/x"], "path": "x"}
    assert plain(told) == told


def test_a_secret_that_is_not_set_stays_as_it_is():
    assert plain({"api_key": None, "token": "", "key": 3}) == {"api_key": None, "token": "", "key": 3}
