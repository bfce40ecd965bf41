"""Starts a trial's program so that it dies with the process that started it: `leash.py PARENT PROGRAM ARGUMENT…`.

A script of its own, run before anything heavy is imported: between fork and exec of a process with threads nothing of
Python's is safe.
"""

import ctypes
import os
import signal
import sys

if __name__ == "__main__":
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; exec keeps it
    if os.getppid() != parent:
        sys.exit(1)  # it died before we could ask for that
    os.execv(program[0], program)  # noqa: S606 - the command that the sweep was asked to run
