"""Where the files of an installed package lie, found without running any of its code."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def directory_of(package: str) -> Path | None:
    """The directory of a package of data files, such as `mmgen_emoji.conf`; None where there is none.

    The package is not imported, unless its packages are mapped to odd directories.
    """
    top, *rest = package.split(".")
    try:
        if top != "mmgen":
            spec = importlib.util.find_spec(top)
            for location in (spec.submodule_search_locations or []) if spec else []:
                if Path(location, *rest).is_dir():
                    return Path(location, *rest).resolve()
        spec = importlib.util.find_spec(package)
        return Path(next(iter(spec.submodule_search_locations or []))).resolve() if spec else None
    except KeyboardInterrupt:
        raise
    except BaseException:  # importing a stranger's package may raise anything
        return None
