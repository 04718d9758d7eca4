"""Look for known vulnerabilities in the packages that csp_index is installed with, by pip-audit.

Ends with status 1 if there are any. Where the service that knows them does not answer, it says so and ends with 0:
a check of the code must not depend on somebody else's server.
"""

from __future__ import annotations

import subprocess
import sys

_SECONDS = 180


def main() -> int:
    """Return 1 if a package has a known vulnerability, else 0."""
    command = [sys.executable, "-m", "pip_audit", "--skip-editable", "--progress-spinner", "off", "--timeout", "15"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        print(f"audit.py: not audited: no answer within {_SECONDS} s")
        return 0
    message = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
    if "known vulnerabilit" in message and not message.startswith("No known"):
        print(done.stdout)
        print(message)
        return 1
    skipped = done.stdout.count("could not be audited")
    if done.returncode:
        print(f"audit.py: not audited: {message[:300]}")
    elif skipped:
        print(f"audit.py: {message or 'no known vulnerabilities'}; of {skipped} packages nothing could be learned")
    else:
        print(f"audit.py: {message}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
