"""Output that goes into a pipe whose reader has gone, as `head -1` goes after a line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


@contextmanager
def unread(*, errors: bool = False) -> Iterator[None]:
    """Nobody reads standard output any more; with `errors`, nor standard error."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as stream, redirect_stdout(stream):
        if not errors:
            yield
            return
        with redirect_stderr(stream):
            yield
