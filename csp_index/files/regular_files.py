"""Read files that a user or an index names only if they are regular files of bounded size.

A link may lead to a pipe, on which reading waits forever, or to a device such as /dev/zero, which has no end. Every
refusal is an OSError whose text says why, so that a room reports it like any other file that cannot be read. Knows
nothing about what the files contain.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import stat
from pathlib import Path
from typing import BinaryIO

from csp_index.settings import MAX_TEXT_BYTES, Count

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
}
_CHUNK = 2**20
_PRINTED = bytes((*b"\t\n\v\f\r\x1a", *range(0x20, 0x100)))
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def user_path(path: str | Path) -> Path:
    """Return a path that a user writes: `~` is the home folder, and `~name` stays if there is no such user."""
    try:
        return Path(os.path.expanduser(path))
    except ValueError:  # a NUL in the name of a user
        return Path(path)


def kind_of(status: os.stat_result) -> str:
    """Return what something is that is no regular file, for a message."""
    return _KINDS.get(stat.S_IFMT(status.st_mode), "something else")


def check_file(path: str | Path, limit: Count | None = None) -> None:
    """Raise OSError unless a path leads to a regular file within a limit of bytes: for libraries that open by name."""
    try:
        status = os.stat(path)
    except ValueError as exc:  # a NUL, or half a character
        raise OSError(errno.EINVAL, "it is no path", ascii(path)) from exc
    _check(status, path, limit)


def open_file(path: str | Path, limit: Count | None = None, *, links: bool = True) -> BinaryIO:
    """Open a regular file within a limit of bytes for reading; raises OSError as `check_file` does, and never waits.

    Without `links` a path that is a link itself is refused.
    """
    check_file(path, limit)  # first by name, because opening alone makes some devices act
    if not links and os.path.islink(path):
        raise OSError(errno.ELOOP, "it is a link, which is never followed", os.fspath(path))
    handle = os.open(path, _FLAGS if links else _FLAGS | getattr(os, "O_NOFOLLOW", 0))
    try:
        _check(os.fstat(handle), path, limit)
    except OSError:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def read_bytes(path: str | Path, limit: Count) -> bytes:
    """Return the content of a regular file within a limit of bytes; raises OSError as `check_file` does."""
    with open_file(path, limit) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1)
        if len(content) <= size:
            return content
        parts = [content]  # the file grows, or does not know its size, as under /proc
        while part := file.read(_CHUNK):
            parts.append(part)
            size = sum(map(len, parts))
            if size > limit.value():
                raise _too_large(size, path, limit)
    return b"".join(parts)


def read_text(path: str | Path) -> str:
    """Return the text of a regular file in UTF-8, every line end as a newline, without a byte order mark.

    Raises OSError as `check_file` does, with the setting max_text_bytes as the limit, and UnicodeDecodeError.
    """
    return io.TextIOWrapper(io.BytesIO(read_bytes(path, MAX_TEXT_BYTES)), "utf-8-sig").read()


def decoded(data: bytes) -> tuple[str, str]:
    """Return the text that bytes hold, and what had to be guessed: UTF-8, UTF-16 with its mark, or Windows-1252.

    Raises ValueError, in one line, for what is no text.

    >>> decoded(b"caf\\xe9")
    ('café', 'it is not UTF-8 and was read as Windows-1252')
    """
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding), ""
    except UnicodeDecodeError:
        if encoding != "utf-8" or b"\0" in data:
            raise ValueError("it is not text, expected UTF-8") from None
    if data.translate(None, _PRINTED) != b"":
        raise ValueError("it is not text, expected UTF-8")
    try:
        return data.decode("cp1252"), "it is not UTF-8 and was read as Windows-1252"
    except UnicodeDecodeError:
        raise ValueError("it is neither UTF-8 nor Windows-1252: save it as UTF-8") from None


def _check(status: os.stat_result, path: str | Path, limit: Count | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, f"it is {kind_of(status)}, expected a regular file", os.fspath(path))
    if limit is not None and status.st_size > limit.value():
        raise _too_large(status.st_size, path, limit)


def _too_large(size: int, path: str | Path, limit: Count) -> OSError:
    text = f"it has {size:,} bytes, more than the setting {limit.name} allows ({limit.value():,})"
    return OSError(errno.EFBIG, text, os.fspath(path))
