"""Where the checkout's files are, and what a process of its own needs to import them."""

from __future__ import annotations

import os
from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
ROOT = SUPPORT.parents[1]


def python_path() -> str:
    """Return a PYTHONPATH with the modules of tests/support and the checkout before what is set."""
    return os.pathsep.join([str(SUPPORT), str(ROOT), os.environ.get("PYTHONPATH", "")])
