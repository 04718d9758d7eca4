"""What every part of the run on a card needs: the device, sizes, time left, timing that waits for the card."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any


def answer(value: Any, *_: Any) -> Any:
    """Return a value, whatever else is given: bound to it, it stands for a function."""
    return value


@dataclass(frozen=True, slots=True)
class Run:
    """One run: where models and products go, small sizes or those that count, a folder, the seconds of this part."""

    device: str
    quick: bool
    folder: str
    seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def with_seconds(self, seconds: float) -> Run:
        """Return the run for a part that may take this long."""
        return replace(self, seconds=seconds)

    def as_json(self) -> str:
        """Return it for the process of a part."""
        return json.dumps({name: value for name, value in asdict(self).items() if name != "started"})

    @classmethod
    def from_json(cls, text: str) -> Run:
        """Return what `as_json` wrote; its time begins now."""
        return cls(**json.loads(text))

    @property
    def left(self) -> float:
        """Return the seconds that are left to this part."""
        return self.seconds - (time.monotonic() - self.started)

    def place(self, name: str) -> Path:
        """Return a new folder."""
        path = Path(self.folder) / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def wait(self) -> None:
        """Wait until the card has done all it was asked."""
        if self.device != "cpu":
            import torch

            torch.cuda.synchronize(self.device)

    def card(self) -> str:
        """Return what runs the products, in words."""
        if self.device == "cpu":
            return "CPU"
        import torch

        return torch.cuda.get_device_name(self.device)

    def timed(self, work: Callable[[], Any], turns: int = 3) -> list[float]:
        """Return the seconds of each turn but a first one, which warms up; fewer turns where time is short."""
        seconds: list[float] = []
        for _ in range(turns + 1):
            self.wait()
            started = time.monotonic()
            work()
            self.wait()
            seconds.append(time.monotonic() - started)
            if len(seconds) > 1 and self.left < 2 * seconds[-1]:
                break
        return seconds[1:]
