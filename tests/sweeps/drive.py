"""A driver of a sweep of `quick.py`, in a process of its own: `drive.py DIRECTORY {options as JSON}`."""

import json
import os
import sys
from pathlib import Path

from mmgen.errors import Interrupted, MmgenError
from mmgen.sweeps.definition import Sweep
from mmgen.sweeps.driver import Driver
from mmgen.sweeps.goals import parse
from mmgen.sweeps.reading import from_yaml
from mmgen.sweeps.space import Space

QUICK = str(Path(__file__).with_name("quick.py"))


def sweep(directory: Path, **options) -> Sweep:
    space = options.pop("space", {"x": {"low": 0.0, "high": 1.0}})
    goals = parse(options.pop("goal", "val/loss"), options.pop("direction", None), "last", True)
    os.environ.setdefault("EVENTS", str(directory / "events.txt"))
    program = (sys.executable, QUICK)
    fixed = tuple(options.pop("overrides", ()))
    searched = Space([from_yaml(key, value) for key, value in space.items()])
    return Sweep("quick", directory, program, fixed, searched, goals, **options)


if __name__ == "__main__":
    driver = Driver(sweep(Path(sys.argv[1]), **json.loads(sys.argv[2])))
    try:
        driver.run()
    except Interrupted as stop:
        sys.exit(128 + stop.number)
    except MmgenError as error:
        sys.exit(error.render())
