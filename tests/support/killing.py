"""A command that is killed at one of its steps, in the process of the test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from csp_index.store.history.commits import CommitLog
from csp_index.store.history.transactions import Transaction
from csp_index.store.locations import LocalLocation
from csp_index.store.locks import Lock


class Killed(BaseException):
    """In place of SIGKILL, which would end the tests."""


@dataclass
class Kill:
    """How many steps are left until the kill."""

    left: int

    @property
    def done(self) -> bool:
        """Whether it happened."""
        return self.left <= 0

    def look(self) -> None:
        """Count a step; raise at the last one, and at all that follow."""
        self.left -= 1
        if self.done:
            raise Killed


@contextmanager
def killed_at(step: int) -> Iterator[Kill]:
    """Run a block until its step with this number; after that nothing that it does comes to its place.

    A step is before or after a write of a table, a sync, a record of a commit, or the moment in which a small file
    comes to its place. A block with fewer steps ends as usual.
    """
    kill = Kill(step)
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (Transaction, "touch"),
            (CommitLog, "write"),
            (LocalLocation, "sync"),
            (os, "link"),
            (os, "replace"),
        ):
            patch.setattr(owner, name, _between(getattr(owner, name), kill.look))
        rollback = Transaction.rollback  # of a command that fails, it works; of one that is killed, nobody calls it
        patch.setattr(Transaction, "rollback", lambda self: None if kill.done else rollback(self))
        patch.setattr(Lock, "clean", property(lambda self: not kill.done, lambda self, value: None))
        with suppress(Killed):
            yield kill


def _between(method: Callable[..., Any], look: Callable[[], None]) -> Callable[..., Any]:
    def called(*arguments: Any, **options: Any) -> Any:
        look()
        result = method(*arguments, **options)
        look()
        return result

    return called
