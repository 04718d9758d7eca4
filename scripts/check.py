"""Run every check of the project, in the order of their cost; stop at the first that fails.

A developer runs `python scripts/check.py` before a commit. Continuous integration adds --static, which leaves the
tests out, because the README's own command runs those.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STATIC = (
    "ruff format --check .",
    "ruff check .",
    "mypy",
    "lint-imports",
    "python scripts/manual/make_reference.py --check",
    "bandit --quiet --configfile pyproject.toml --recursive csp_index",
    "python scripts/audit.py",
)
TESTS = "pytest"  # its settings in pyproject.toml collect the doctests too


def main(arguments: list[str]) -> int:
    """Return the exit status of the first check that fails, or 0."""
    if arguments not in ([], ["--static"]):
        print(f"check.py: unknown arguments {shlex.join(arguments)!r} (expected none, or --static: without the tests)")
        return 2
    environment = dict(os.environ)
    # The tools of the environment that runs this file, and the checkout rather than an installed copy of it.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    environment["PYTHONPATH"] = str(ROOT)
    for command in STATIC if arguments else (*STATIC, TESTS):
        print(f"+ {command}", flush=True)
        status = subprocess.run(shlex.split(command), cwd=ROOT, env=environment, check=False).returncode
        if status:
            print(f"check.py: `{command}` failed", file=sys.stderr)
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
