"""Runs a program of its own, under environment variables."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import brevitas

FOLDERS = (Path(brevitas.__file__).parents[1], Path(__file__).parent)


def run_program(code: str, **environment: str) -> str:
    """Return what a program prints; its failure is the failure of the test.

    Args:
        code: The program. It may import the library and the files of `tests`.
        **environment: Environment variables, beside those of this process.
    """
    path = os.pathsep.join(str(folder) for folder in FOLDERS)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
