"""List the images of tar shards and the metadata beside them; a member that is no metadata costs nothing but itself.

Members are bounded before they are read. What the listing itself finds wrong becomes an image reference that says why,
and ends up among the failures.
"""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from csp_index.errors import SourceError, one_line
from csp_index.images.decode import ImageRef
from csp_index.images.files.containers import BoundedTar, check_size
from csp_index.images.files.formats import HEAD, image_extensions
from csp_index.images.passed_over import HIDDEN, ContentCheck, PassedOver
from csp_index.images.sample_metadata import METADATA_ENDINGS, sample_metadata
from csp_index.settings import MAX_METADATA_BYTES

_BLOCK = tarfile.BLOCKSIZE


class TarSource:
    """Image members of tar shards in the layout of webdataset.

    Neighboring members with the same name up to the first dot are one sample: its ``.json`` (an object's fields),
    ``.cls`` (a whole number) and ``.txt`` members are the metadata of each of its images. Where names have more dots,
    ``a.1.json`` and ``a.1.jpg.json`` are about ``a.1.jpg`` alone. Hidden members are none, and links are not followed.
    """

    def __init__(
        self, name: str, shards: list[Path], ending: str | None, passed_over: PassedOver | None = None
    ) -> None:
        """Look for the first image; ``passed_over`` is what lies beside the shards."""
        self.name = name
        self._shards = shards
        self._ending = None if ending is None else ending.lower().lstrip(".")
        self._endings = image_extensions()
        self._beside, self._inside = passed_over or PassedOver(), PassedOver()
        self._check = ContentCheck()
        if not self._holds_images():
            requested = "image" if ending is None else f"member that ends in .{self._ending}"
            raise SourceError(f"{shards[0]}{_and_others(shards)} holds no {requested}")

    @property
    def passed_over(self) -> PassedOver:
        """The files beside the shards and the members of them that are passed over; complete after one listing."""
        return PassedOver(self._beside + self._inside)

    def _holds_images(self) -> bool:
        """Return whether any shard holds an image. Raises SourceError where none does and one is damaged."""
        damage: SourceError | None = None
        for shard in self._shards:
            try:
                if any(ref.failure is None for ref in self._members(shard)):
                    return True
            except SourceError as exc:
                damage = damage or exc
        if damage is not None:
            raise damage
        return False

    def refs(self) -> Iterator[ImageRef]:
        """Yield the images of all shards in the order of the members."""
        self._inside, self._check = PassedOver(), ContentCheck()
        for shard in self._shards:
            try:
                yield from self._members(shard)
            except SourceError as exc:
                yield ImageRef(f"{shard}#damaged shard", failure=str(exc))

    def _members(self, shard: Path) -> Iterator[ImageRef]:
        sample, damage, names = _Sample(), "", set[int]()
        try:
            with closing(BoundedTar(shard)) as tar:
                for member in tar:
                    tar.members = []  # type: ignore[attr-defined]  # else every header of the shard stays in memory
                    if not member.isfile() or _is_hidden(member.name):
                        self._count(member)
                        continue
                    key, ending = _sample_and_ending(member.name)
                    if key != sample.key:
                        yield from sample.refs(shard)
                        self._inside.update(sample.unused())
                        sample = _Sample(key)
                    if self._is_image(tar, member, ending):
                        if hash(member.name) in names:  # its address would lead to the first one
                            self._inside.update(["with the name of another member"])
                        else:
                            sample.images.append(member.name)
                        names.add(hash(member.name))
                    elif _last(ending)[1:] in METADATA_ENDINGS:
                        sample.add(tar, member, ending)
                damage = _damage_behind(tar)
        except Exception as exc:  # a damaged header can raise nearly anything from the library
            damage = one_line(exc)
        yield from sample.refs(shard)
        self._inside.update(sample.unused())
        if damage:
            raise SourceError(f"{shard} cannot be read as a tar shard to its end: {damage}")

    def _count(self, member: tarfile.TarInfo) -> None:
        """Count an image that is hidden or a link; '._a.jpg' is none: macOS keeps what it knows about a.jpg there."""
        name = member.name.rpartition("/")[2]
        if not name.startswith("._") and _last(name) in self._endings and not member.isdir():
            self._inside.update(["links" if member.issym() or member.islnk() else HIDDEN])

    def _is_image(self, tar: tarfile.TarFile, member: tarfile.TarInfo, ending: str) -> bool:
        """Return whether a member is an image: by its ending, else by its content; others are counted."""
        if self._ending is not None:
            return ending == self._ending
        last = _last(ending)
        if last in self._endings:
            return True
        if last[1:] in METADATA_ENDINGS:
            return False
        reason = self._check.reason(last, partial(_head, tar, member))
        self._inside.update({reason: 1} if reason else {})
        return reason is None


def _and_others(shards: list[Path]) -> str:
    more = len(shards) - 1
    return f" (and {more:,} other shard{'s' * (more > 1)})" if more else ""


def _head(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    return stream.read(HEAD) if stream is not None else b""


@dataclass(slots=True)
class _Sample:
    """Neighboring members of one name: images, the metadata of all or one of them, and why other members are none."""

    key: str = ""
    images: list[str] = field(default_factory=list)
    metadata: dict[str, dict[str, object]] = field(default_factory=dict)  # by what stands before its ending
    members: Counter[tuple[str, str]] = field(default_factory=Counter)  # of metadata, by that and the ending
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo, ending: str) -> None:
        """Add the metadata of a member, or why it has none."""
        part, _, kind = ending.rpartition(".")
        try:
            check_size("the metadata", member.size, MAX_METADATA_BYTES)
            stream = tar.extractfile(member)
            values = sample_metadata(kind, stream.read() if stream is not None else b"")
            self.metadata.setdefault(part, {}).update(values)
            self.members[part, f".{kind}"] += 1
        except SourceError as exc:
            self.failures[member.name] = str(exc)

    def refs(self, shard: Path) -> Iterator[ImageRef]:
        for name in self.images:
            uri, failure = _uri(shard, name)
            metadata: dict[str, object] = {}
            for part in () if failure else _parts(name):
                metadata |= self.metadata.get(part, {})
            yield ImageRef(uri, metadata, failure=failure)
        yield from (ImageRef(_uri(shard, name)[0], failure=reason) for name, reason in self.failures.items())

    def unused(self) -> Counter[str]:
        """Return how many members of metadata are about none of the images, by ending."""
        parts = {part for name in self.images for part in _parts(name)}
        unused = Counter[str]()
        for (part, ending), count in self.members.items():
            unused.update({} if part in parts else {f"{ending} about no image next to it": count})
        return unused


def _parts(image: str) -> tuple[str, str, str]:
    """Return what may stand between the sample and the ending of metadata about an image, the closest last.

    >>> _parts("a.1.jpg")
    ('', '1', '1.jpg')
    """
    ending = _sample_and_ending(image)[1]
    return "", ending.rpartition(".")[0], ending


def _last(name: str) -> str:
    return f".{name.rpartition('.')[2].lower()}" if name else ""


def _is_hidden(member: str) -> bool:
    """Return whether a name or a folder of it starts with a dot: neither `./a.jpg` nor `../a.jpg` is hidden."""
    return any(part.startswith(".") and part not in (".", "..") for part in member.split("/"))


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
