"""List the images of tar shards and the metadata beside them; a member that is no metadata costs nothing but itself.

Members are bounded before they are read. What the listing itself finds wrong becomes an image reference that says why,
and ends up among the failures.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from csp_index.errors import SourceError, one_line
from csp_index.images.containers import BoundedTar, check_size
from csp_index.images.decode import ImageRef
from csp_index.images.formats import image_extensions
from csp_index.settings import MAX_METADATA_BYTES

_METADATA_MEMBERS = frozenset({"json", "cls", "txt"})
_DEEPEST = 64  # lists and objects inside each other that metadata may have
_BLOCK = tarfile.BLOCKSIZE


class TarSource:
    """Image members of tar shards in the layout of webdataset.

    Neighboring members with the same name up to the first dot are one sample: its ``.json`` (an object's fields),
    ``.cls`` (a whole number) and ``.txt`` members are the metadata of each of its images.
    """

    def __init__(self, name: str, shards: list[Path], ending: str | None) -> None:
        self.name = name
        self._shards = shards
        self._ending = None if ending is None else ending.lower().lstrip(".")
        self._endings = image_extensions()
        if not any(ref.failure is None for ref in self._members(shards[0])):
            requested = "image" if ending is None else f"member that ends in .{self._ending}"
            raise SourceError(f"{shards[0]} holds no {requested}")

    def refs(self) -> Iterator[ImageRef]:
        """Yield the images of all shards in the order of the members."""
        for shard in self._shards:
            try:
                yield from self._members(shard)
            except SourceError as exc:
                yield ImageRef(f"{shard}#damaged shard", failure=str(exc))

    def _members(self, shard: Path) -> Iterator[ImageRef]:
        sample, damage = _Sample(), ""
        try:
            with closing(BoundedTar(shard)) as tar:
                for member in tar:
                    tar.members = []  # type: ignore[attr-defined]  # else every header of the shard stays in memory
                    if not member.isfile():
                        continue
                    key, ending = _sample_and_ending(member.name)
                    if key != sample.key:
                        yield from sample.refs(shard)
                        sample = _Sample(key)
                    if self._is_image(ending):
                        sample.images.append(member.name)
                    elif ending in _METADATA_MEMBERS:
                        sample.add(tar, member, ending)
                damage = _damage_behind(tar)
        except Exception as exc:  # a damaged header can raise nearly anything from the library
            damage = one_line(exc)
        yield from sample.refs(shard)
        if damage:
            raise SourceError(f"{shard} cannot be read as a tar shard to its end: {damage}")

    def _is_image(self, ending: str) -> bool:
        if self._ending is not None:
            return ending == self._ending
        return "." + ending.rpartition(".")[2] in self._endings


@dataclass(slots=True)
class _Sample:
    """Neighbouring members of one name: image members, their common metadata, and why other members are none."""

    key: str = ""
    images: list[str] = field(default_factory=list)
    metadata: dict[str, object] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo, ending: str) -> None:
        """Add the metadata of a member, or why it has none."""
        try:
            check_size("the metadata", member.size, MAX_METADATA_BYTES)
            stream = tar.extractfile(member)
            self.metadata.update(_member_metadata(ending, stream.read() if stream is not None else b""))
        except SourceError as exc:
            self.failures[member.name] = str(exc)

    def refs(self, shard: Path) -> Iterator[ImageRef]:
        for name in self.images:
            uri, failure = _uri(shard, name)
            yield ImageRef(uri, {} if failure else dict(self.metadata), failure=failure)
        yield from (ImageRef(_uri(shard, name)[0], failure=reason) for name, reason in self.failures.items())


def _uri(shard: Path, name: str) -> tuple[str, str | None]:
    """Return the URI of a member, and why it cannot be read again by it: a name that is not UTF-8 is stored escaped."""
    uri = f"{shard}#{name}"
    escaped = uri.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return escaped, None if escaped == uri else "its name is not UTF-8 text"


def _damage_behind(tar: tarfile.TarFile) -> str:
    """Return what is wrong where the library stopped, or "": to the library a damaged header is an end like any."""
    if tar.fileobj is None:
        return ""
    tar.fileobj.seek(tar.offset)
    block = tar.fileobj.read(_BLOCK)
    return f"the header at byte {tar.offset:,} is damaged" if block.strip(b"\0") else ""


def _sample_and_ending(member: str) -> tuple[str, str]:
    """Return a member's sample and ending: the name is cut at its first dot.

    >>> _sample_and_ending("a.b/0001.seg.PNG")
    ('a.b/0001', 'seg.png')
    """
    folder, slash, name = member.rpartition("/")
    stem, _, ending = name.partition(".")
    return folder + slash + stem, ending.lower()


def _member_metadata(ending: str, data: bytes) -> Mapping[str, object]:
    """Return the metadata in a member. Raises SourceError for what could not be stored with an image."""
    text = data.decode("utf-8", "replace").strip()
    if ending == "txt":
        return {"txt": text}
    if ending == "cls":
        return {"cls": _number(text) if text.removeprefix("-").isdecimal() else text}
    try:
        value = json.loads(text)
    except ValueError:  # metadata that cannot be parsed must not cost the image
        return {"json": text}
    except RecursionError:
        value = None
    if (value is None and text != "null") or _is_deeper(value, _DEEPEST):
        raise SourceError(f"the metadata has more than {_DEEPEST} lists and objects inside each other")
    if r"\ud" in text.lower():  # an escape may name half a character, which no text can hold
        value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    return value if isinstance(value, dict) else {"json": value}


def _number(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise SourceError(f"the class number has {len(text.lstrip('-')):,} digits: expected one of 64 bits")
    return int(text)


def _is_deeper(value: object, depth: int) -> bool:
    """Return whether lists and objects lie more than `depth` deep inside each other."""
    level = [value]
    while depth >= 0 and level:
        inner = (list(one.values()) if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level, depth = [item for items in inner for item in items], depth - 1
    return bool(level)
