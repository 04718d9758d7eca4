"""Keep pyarrow from loading pandas in a process whose tables have no data frames.

pyarrow asks once whether a value may be a Series, and for that loads pandas wherever it is installed: a third of what a
command that reads takes, 0.25 s of CPU time of 0.8 to 1.0, and of what a process for SQL takes to start. If pandas
cannot be loaded at that moment, pyarrow goes on without; it tries again when a data frame is requested, so `to_pandas`
works as ever.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType

_PANDAS = "pandas"


class _Absent:
    """A finder of modules that says that there is no pandas; its base class would load for a tenth of `--help`."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname == _PANDAS:
            raise ModuleNotFoundError(f"{_PANDAS} is left out while pyarrow looks for it", name=_PANDAS)


def load_arrow_alone() -> None:
    """Load pyarrow, and let it find no pandas when it asks for the first time; not where one of them is loaded."""
    if "pyarrow" in sys.modules or _PANDAS in sys.modules:
        return
    absent = _Absent()
    sys.meta_path.insert(0, absent)
    try:
        import pyarrow as pa

        pa.scalar(True)  # makes it ask
    finally:
        sys.meta_path.remove(absent)
