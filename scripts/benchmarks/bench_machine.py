"""Whether the machine is idle before something is timed: the load that the system reports, and the cores in use."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_IDLE_LOAD, _IDLE_USE = 0.3, 0.05  # at most: mean load of the last minute per core; share of the cores in use
_LOOKED = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class Load:
    """What else the machine does: mean load of the last minute, cores, the share of them in use over a second."""

    average: float
    cores: int
    use: float | None  # None where the system does not say

    @property
    def idle(self) -> bool:
        """Whether seconds measured now are those of an idle machine."""
        return self.average <= _IDLE_LOAD * self.cores and self.use is not None and self.use <= _IDLE_USE

    def __str__(self) -> str:
        """Say it in words.

        >>> print(Load(0.1, 2, 0.01))
        load 0.10 on 2 cores, 1 % in use before the first turn: idle
        >>> print(Load(2.4, 2, None))
        load 2.40 on 2 cores: BUSY, so only ratios of one run count, and no seconds
        """
        use = "" if self.use is None else f", {self.use:.0%} in use before the first turn".replace("%", " %")
        verdict = "idle" if self.idle else "BUSY, so only ratios of one run count, and no seconds"
        return f"load {self.average:.2f} on {self.cores} cores{use}: {verdict}"


def load() -> Load:
    """Return what the machine does now; takes a second."""
    before = _used()
    time.sleep(_LOOKED)
    after = _used()
    use = None
    if before is not None and after is not None and after[1] > before[1]:
        use = (after[0] - before[0]) / (after[1] - before[1])
    return Load(os.getloadavg()[0], os.cpu_count() or 1, use)


def _used() -> tuple[int, int] | None:
    """Return the ticks in which the cores worked, and all ticks, as Linux counts them."""
    file = Path("/proc/stat")
    if not file.is_file():
        return None
    ticks = [int(part) for part in file.read_text().split("\n", 1)[0].split()[1:9]]  # guests count as users too
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)
