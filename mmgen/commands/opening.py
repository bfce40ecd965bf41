"""`mmgen runs open RUN`: the run's report, in a browser where there is one; written anew if rows came after it."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path

from mmgen.commands.actions import OpenRun, only
from mmgen.runs.listing import Run, open_run


def open_report(options: OpenRun, words: list[str]) -> int:
    """Prints the report's path, and shows it; gives the exit code."""
    only(words, 1, 1, "mmgen runs open RUN")
    run = open_run(words[0])
    report = run.path / "report.html"
    if _is_old(run, report):
        from mmgen.tracking.report import write_report  # torch, for the pictures

        report = write_report(run.path)
    print(report.resolve())
    if options.browser and has_browser():
        webbrowser.open(report.resolve().as_uri())
    return 0


def _is_old(run: Run, report: Path) -> bool:
    """Whether there is no report, or rows were logged after it was written."""
    if not report.is_file():
        return True
    files = [folder / "metrics.jsonl" for folder in (run.path, *(stage.path for stage in run.stages))]
    written = report.stat().st_mtime
    return any(file.is_file() and file.stat().st_mtime > written for file in files)


def has_browser() -> bool:
    """Whether a browser can show a page; one in the terminal would take it over, so without a display there is none."""
    if os.environ.get("BROWSER"):
        return True
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True
