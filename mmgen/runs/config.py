"""A run's config as it is kept: plain YAML without secrets, compared key by key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from mmgen.runs.redaction import redacted


def plain(value: Any) -> Any:
    """What YAML and JSON can hold, secrets redacted: mappings, lists, numbers, strings, None."""
    return _plain(redacted(value))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def config_fingerprint(config: Mapping[str, Any]) -> str:
    """The first 16 hex digits of the SHA-256 of the config's canonical JSON; the order of keys does not matter."""
    text = json.dumps(plain(config), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(old: Any, new: Any, ignore: Collection[str] = ()) -> list[tuple[str, Any, Any]]:
    """The keys whose values differ, as (dotted key, old value, new value); a key that is not there has `ABSENT`.

    Args:
        ignore: dotted keys that may differ, with all below them.
    """
    return [
        (key, a, b)
        for key, a, b in _walk(plain(old), plain(new), "")
        if not any(key == name or key.startswith(f"{name}.") for name in ignore)
    ]


class _Absent:
    def __repr__(self) -> str:
        return "(absent)"


ABSENT = _Absent()


def _walk(old: Any, new: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(n for n in new if n not in old)]:
            yield from _walk(old.get(name, ABSENT), new.get(name, ABSENT), f"{key}.{name}" if key else name)
    elif old != new:
        yield key, old, new
