"""The words of a review: what readers can do, what they can say of a picture, and how their subjects are written.

Imports nothing, so that the command line knows them at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PINNED: Final = "pinned"
"""What stands in place of a method's name where a reader named the neuron."""
OF_NEURON: Final = "neuron:"
"""What the subject of a note about a neuron begins with; its address follows."""
NAMING: Final = ("rename", "unname")  # the actions that give a name and take it back
OF_FINDING: Final = "finding:"
"""What the subject of a note about a finding begins with; its id follows."""


@dataclass(frozen=True, slots=True)
class Action:
    """What a note does: in words, what its text is ("" if it has none), and whether it needs one and a neuron."""

    done: str
    text: str = ""
    needs_text: bool = True
    of_neurons: bool = False


ACTIONS: Final[dict[str, Action]] = {
    "accept": Action("accepted", "reason", needs_text=False),
    "reject": Action("rejected", "reason", needs_text=False),
    "rename": Action("named", "name", of_neurons=True),
    "unname": Action("took the name back", of_neurons=True),
    "tag": Action("tagged", "tag"),
    "untag": Action("removed the tag", "tag"),
    "comment": Action("commented", "comment"),
}
"""What readers can do, by the name of the action."""

VERDICTS: Final = ("yes", "no", "unsure")
"""What a person can say of whether a label is true of a picture."""
DRAWS: Final = ("importance", "uniform")
"""How the pictures that people rate are drawn: `studies.rated_pictures`."""


def done(action: str) -> str:
    """Return what a reader did, in words; an action that no csp_index writes stays as it is."""
    return ACTIONS[action].done if action in ACTIONS else str(action)
