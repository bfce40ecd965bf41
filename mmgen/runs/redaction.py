"""What must not leave a config: values under keys that name a secret, and credentials inside addresses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

REDACTED = "<redacted>"

# A key is split into its words first: `api_key`, `apiKey` and `HF_TOKEN` name secrets, `tokenizer`, `text_tokenizer`,
# `image_tokens`, `num_keys` and `key_dim` do not.
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SECRET_ANYWHERE = {"password", "passwords", "passwd", "passphrase", "secret", "secrets", "credential", "credentials"}
_SECRET_AT_THE_END = {"key", "apikey", "apikeys", "token", "auth", "authorization"}
_SECRET_IF_OF = {"keys": {"api", "access", "private"}, "tokens": {"api", "access", "auth", "hub", "hf"}}
_USER_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s:\"']*:[^/\s\"']+(?=@)")


def names_a_secret(key: str, value: object) -> bool:
    """Whether the value under `key` is to be hidden. A number under `…_key` or `…_token` is a size or an id."""
    words = [word.lower() for word in _WORDS.findall(key)]
    empty = isinstance(value, (str, list, tuple)) and not value
    if not words or value is None or empty or isinstance(value, (bool, Mapping)):
        return False
    if _SECRET_ANYWHERE & set(words):
        return True
    if words[-1] == "id" and words[-2:-1] == ["key"]:  # access_key_id
        words.pop()
    if words[-1] in _SECRET_IF_OF:  # api_keys, access_tokens; `image_tokens` and `sort_keys` are other things
        return bool(_SECRET_IF_OF[words[-1]] & set(words[:-1])) and not isinstance(value, (int, float))
    return words[-1] in _SECRET_AT_THE_END and not isinstance(value, (int, float))


def redacted(value: Any, key: str = "") -> Any:
    """A copy of a config in which every secret is `REDACTED`; mappings become dicts, sequences lists."""
    if names_a_secret(key, value):
        return REDACTED
    if isinstance(value, Mapping):
        return {str(name): redacted(inner, str(name)) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(inner, key) for inner in value]
    if isinstance(value, str):
        return _USER_IN_ADDRESS.sub(REDACTED, value)
    return value


def hides(value: Any) -> bool:
    """Whether a secret was left out of a value, or of what is in it."""
    if isinstance(value, Mapping):
        return any(map(hides, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(hides, value))
    return isinstance(value, str) and REDACTED in value
