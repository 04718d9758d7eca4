"""Marks of readers on the records of commits, so that clean-up leaves alone what somebody reads."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable

_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


class ReadHold:
    """The mark of a reader on the record of its commit: a shared lock of the kernel, which ends with the process."""

    def __init__(self, handle: int) -> None:
        """Take over an open, locked file."""
        self._handle = handle

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        try:  # noqa: SIM105  # suppress() may be gone when the interpreter ends
            close(self._handle)
        except OSError:
            pass

    @classmethod
    def take(cls, path: str) -> ReadHold | None:
        """Mark a file, or return None if it is gone or the file system knows no locks."""
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if os.fstat(handle).st_nlink:
                return cls(handle)
        except OSError:
            pass
        os.close(handle)
        return None

    @staticmethod
    def remove_unread(path: str, wanted: Callable[[], bool]) -> bool:
        """Remove a file that no reader has marked and nobody has `wanted` since; return whether it is gone."""
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)  # NFS locks a file exclusively only if it may be written
        except FileNotFoundError:
            return True
        except OSError:
            return False
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                if exc.errno not in _UNSUPPORTED:  # a file system without locks: no reader could mark it either
                    return False
            if wanted():
                return False
            os.unlink(path)  # while it is locked, so that no reader can mark it in between
            return True
        except OSError:
            return False
        finally:
            os.close(handle)
