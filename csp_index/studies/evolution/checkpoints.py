"""The checkpoints of one network: their names, and the networks that they become in an index.

Each checkpoint is a network of its own, called NAME@CHECKPOINT, so that all that an index offers (labels, pages, SQL)
is there for every one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from csp_index.errors import SettingError
from csp_index.models.specs import check_weights, split_choice

MARK = "@"  # between the name of a network and that of its checkpoint


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A weight file, and the name that it has in addresses."""

    name: str
    file: str

    def network_name(self, network: str) -> str:
        """Return the name of the network at this checkpoint.

        >>> Checkpoint("step10", "runs/step10.safetensors").network_name("resnet50")
        'resnet50@step10'
        """
        return f"{network}{MARK}{self.name}"


def named_checkpoints(files: Sequence[str | Path]) -> tuple[Checkpoint, ...]:
    """Return the checkpoints in the order of training, as the caller gave them; each is called as its file.

    Raises SettingError for fewer than two, and for two of one name; ModelError for a file that does not exist.

    >>> named_checkpoints(["only.safetensors"])
    Traceback (most recent call last):
    ...
    csp_index.errors.SettingError: 1 checkpoint is given: an evolution needs at least two, in the order of training
    """
    if len(files) < 2:
        count = f"{len(files)} checkpoint{' is' if len(files) == 1 else 's are'} given"
        raise SettingError(f"{count}: an evolution needs at least two, in the order of training")
    known: dict[str, str] = {}
    for file in map(str, files):
        check_weights(file)
        name = Path(split_choice(file)[0]).stem.replace(" ", "-")
        if name in known:
            raise SettingError(
                f"checkpoints {known[name]} and {file} are both called {name}: give each file a name of its own"
            )
        known[name] = file
    return tuple(Checkpoint(name, file) for name, file in known.items())
