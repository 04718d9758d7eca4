"""Code run in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

from checkout import python_path


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code in another process."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": python_path(), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
