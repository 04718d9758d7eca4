"""Folders of image files: which files are pictures, which say something about one, and which are passed over.

A picture is known by the ending of its name or, where that says nothing, by its first bytes. Files are visited in the
order of their paths, and only the names of one folder at each depth are in memory.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from csp_index.errors import SourceError, one_line
from csp_index.files.regular_files import open_file, read_bytes, user_path
from csp_index.images.class_folders import ClassFolders
from csp_index.images.decode import ImageRef
from csp_index.images.files.formats import HEAD, image_extensions
from csp_index.images.passed_over import DATABASE, HIDDEN, UNLISTED, ContentCheck, PassedOver
from csp_index.images.sample_metadata import METADATA_ENDINGS, sample_metadata
from csp_index.images.tables.join_table import PathTable
from csp_index.settings import MAX_METADATA_BYTES

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
"""The endings of tar shards, compressed ones among them."""

TABLES = tuple(f"metadata{ending}" for ending in (".csv", ".jsonl", ".parquet"))
"""The names of tables about the images of their folder, the first of several first."""

_TABULAR = frozenset({".csv", ".tsv", ".xlsx"})  # of files that may be tables about images, but are not named so
_MOST_TOGETHER = 10_000  # files whose names begin alike
_log = logging.getLogger(__name__)


class FolderContents:
    """What lies in a folder and its sub-folders, from one walk through them.

    ``pictures`` counts the image files by ending, ``tars`` and ``parquets`` are the shards, ``folders`` counts the
    images of each folder, and ``passed_over`` is what is none of these and describes no image. ``table`` is the table
    about the images, if there is one; ``named`` are their paths below the folder then, else it stays empty. Without
    one, ``inner`` are the tables in sub-folders, each about the images below its own. ``unread`` is the first file that
    may be a table by its ending, and is passed over.
    """

    def __init__(self, root: Path, table: Path | None = None) -> None:
        """Walk through the folder once; ``table`` is read as metadata, by default the one in the folder."""
        self.root, self.named = root, list[str]()
        self.table = _own_table(root) if table is None else table
        self.unread: Path | None = None
        self.pictures, self.folders, self.passed_over = Counter[str](), Counter[str](), PassedOver()
        self.tars, self.parquets, self.inner = list[Path](), list[Path](), dict[str, Path]()
        self._endings, self._unnamed, self._unlisted = image_extensions(), set[int](), set[str]()
        self._tables = set() if self.table is None else {Path(os.path.realpath(self.table))}
        check = ContentCheck()
        for names in alike(walk(root, self.passed_over, self._unlisted)):
            self._sort(names, check)
        if not self.pictures:  # then there is nothing that a table could be about
            rest = [table for table in (*self._tables, *self.inner.values()) if table.is_file()]
            self.inner = {}
            self.parquets += [table for table in rest if table.suffix == ".parquet"]
            self.passed_over.update(
                table.suffix for table in rest if table.suffix != ".parquet" and root in table.parents
            )

    def images(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the path of each image below the folder, and those of the files that describe it."""
        for names in alike(walk(self.root, None, self._unlisted)):
            pictures = [name for name in names if self._is_known(name)]
            yield from described(pictures, filter(describes, names)).items()

    def forget(self, file: Path | None) -> None:
        """Count a file of the folder no more as passed over: it was read."""
        if file is not None and self.root in file.parents:
            self.passed_over[ending_of(file.name)] -= 1
            self.passed_over += Counter()  # drops what is 0

    def _is_known(self, name: str) -> bool:
        return ending_of(name) in self._endings or hash(name) in self._unnamed

    def _sort(self, names: list[str], check: ContentCheck) -> None:
        """Count the images among files that belong together, and look into those of unknown endings."""
        pictures, describing = [name for name in names if self._is_known(name)], list(filter(describes, names))
        for name in names:
            if name not in pictures and not describes(name) and self._looks_like_one(name, check):
                pictures.append(name)
        used = {name for beside in described(pictures, describing).values() for name in beside}
        for name in describing:
            if name not in used and name not in pictures and self._looks_like_one(name, check):
                pictures.append(name)
        if self.table is not None:
            self.named += sorted(pictures)
        for path in pictures:
            self.pictures[ending_of(path)] += 1
            self.folders[path.rpartition("/")[0]] += 1

    def _looks_like_one(self, name: str, check: ContentCheck) -> bool:
        """Return whether a file is an image by its content; shards and files passed over are remembered."""
        path, lower = self.root / name, name.lower()
        if lower.endswith(TAR_ENDINGS):
            self.tars.append(path)
        elif path in self._tables:
            return False
        elif self.table is None and path.name in TABLES and path.parent != self.root:
            self._add_inner(name, path)
        elif lower.endswith(".parquet"):
            self.parquets.append(path)
        elif reason := check.reason(ending_of(name), partial(_head, path)):
            self.passed_over[reason] += 1
            self.unread = path if self.unread is None and reason in _TABULAR else self.unread
        else:
            self._unnamed.add(hash(name))
            return True
        return False

    def _add_inner(self, name: str, path: Path) -> None:
        """Remember a table of a sub-folder; of several in one folder, the first by `TABLES` counts."""
        folder = name.rpartition("/")[0]
        known = self.inner.setdefault(folder, path)
        if known != path:
            self.inner[folder] = min(known, path, key=lambda table: TABLES.index(table.name))
            self.passed_over[max(known, path, key=lambda table: TABLES.index(table.name)).suffix] += 1


def describes(name: str) -> bool:
    """Return whether a file may say something about an image beside it."""
    return ending_of(name)[1:] in METADATA_ENDINGS


def described(pictures: list[str], describing: Iterable[str]) -> dict[str, list[str]]:
    """Return the files that describe each picture: a.json or a.jpg.json is about a.jpg."""
    beside: dict[str, list[str]] = {picture: [] for picture in sorted(pictures)}
    describing = list(describing)
    if not describing:
        return beside
    stems: dict[str, list[str]] = {}
    for picture in beside:
        for stem in {picture, os.path.splitext(picture)[0]}:
            stems.setdefault(stem, []).append(picture)
    for name in describing:
        for picture in stems.get(os.path.splitext(name)[0], ()):
            if picture != name:
                beside[picture].append(name)
    return beside


def ending_of(path: str) -> str:
    """Return the ending of a name in lower case, with its dot."""
    return os.path.splitext(path)[1].lower()


def _head(path: Path) -> bytes:
    with open_file(path) as file:
        return file.read(HEAD)


def alike(paths: Iterator[str]) -> Iterator[list[str]]:
    """Yield neighboring paths that are equal up to the first dot of the name, together."""
    together, common = list[str](), ""
    for path in paths:
        folder, slash, name = path.rpartition("/")
        start = folder + slash + name.partition(".")[0]
        if together and (start != common or len(together) >= _MOST_TOGETHER):
            yield together
            together = []
        together.append(path)
        common = start
    if together:
        yield together


def walk(root: Path, passed_over: PassedOver | None = None, unlisted: set[str] | None = None) -> Iterator[str]:
    """Yield the path of every file below a folder, relative to it, sorted as whole strings.

    Only the names of one folder at each depth are in memory. Names that start with a dot are skipped, and those of
    pictures counted in ``passed_over``; so are databases of LanceDB, as an index in the folder is. Links to folders are
    followed, but not in circles. Pipes, devices and broken links are included, so that reading them reports a failure.
    A folder inside that this user may not list (lost+found) is skipped: where ``passed_over`` counts it, it comes into
    ``unlisted``; without, only folders in there are. Errors: SourceError for any other folder that cannot be listed.
    """
    return _walk(os.fspath(root), "", frozenset(), passed_over, set() if unlisted is None else unlisted)


def _walk(
    folder: str, prefix: str, above: frozenset[str], passed_over: PassedOver | None, unlisted: set[str]
) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in above or prefix in unlisted:
        return
    counted = PassedOver() if passed_over is None else passed_over
    try:
        with os.scandir(folder) as entries:
            # A folder sorts with its slash, which makes the whole listing sorted: 'a-b.png' < 'a/c.png'.
            names = sorted(entry.name + "/" * _is_folder(entry) for entry in entries)
    except OSError as exc:
        if not prefix or passed_over is None or not isinstance(exc, PermissionError):
            raise SourceError(f"the folder {folder} cannot be listed: {one_line(exc)}") from exc
        unlisted.add(prefix)
        counted[f"{UNLISTED} ({prefix.rstrip('/')})"] += 1
        return
    if _is_database(names):
        counted[DATABASE] += 1
        return
    for name in names:
        if name.startswith("."):
            # '._a.jpg' is no picture: macOS keeps what it knows about a.jpg there.
            hidden = not name.startswith("._") and ending_of(name) in image_extensions()
            counted.update({HIDDEN: 1} if hidden else {})
        elif name.endswith("/"):
            yield from _walk(os.path.join(folder, name[:-1]), prefix + name, above | {real}, passed_over, unlisted)
        else:
            yield prefix + name


def _is_database(names: list[str]) -> bool:
    """Return whether a folder holds tables of LanceDB, as an index does, and no picture beside them."""
    return any(name.endswith(".lance/") for name in names) and not any(
        ending_of(name) in image_extensions() for name in names
    )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


class FolderSource:
    """Image files below a folder, with what their folders and the files beside them say, and the rows of a table.

    A file ``a.json`` (an object's fields), ``a.txt`` or ``a.cls`` beside ``a.jpg`` is metadata of that image; so is its
    folder (`class_folders`). A column of the table replaces one of the same name; sub-folders may have their own, as
    Hugging Face's imagefolder has one for each split. ``notes`` says what of the tables joined, and what was guessed.
    """

    def __init__(
        self,
        contents: FolderContents,
        metadata_key: str | None = None,
        class_names: str | Path | None = None,
    ) -> None:
        self.name = str(contents.root)
        self._contents = contents
        root = contents.root
        self._tables, notes = _tables_of(contents, metadata_key)
        self._classes = ClassFolders(root, contents.folders, None if class_names is None else user_path(class_names))
        contents.forget(self._classes.names_file)
        if not self._tables and contents.unread not in (None, self._classes.names_file):
            notes.append(f"is {contents.unread} a table about the images? --metadata (metadata= in Python) joins it")
        self.notes = (*(line for table in self._tables.values() for line in table.notes), *notes)
        complete = not notes and all(table.complete for table in self._tables.values())
        for line in self.notes:
            _log.log(logging.INFO if complete else logging.WARNING, "%s", line)

    @property
    def class_notes(self) -> Sequence[str]:
        """What was guessed about classes."""
        return self._classes.notes

    @property
    def passed_over(self) -> PassedOver:
        """The files of the folder that are no images and say nothing about one."""
        return self._contents.passed_over

    def refs(self) -> Iterator[ImageRef]:
        """Yield the images sorted by path; an image of which nothing is known has no metadata."""
        for relative, beside in self._contents.images():
            uri = self._uri(relative)
            if uri != self._place(relative):
                yield ImageRef(uri, failure="its name is not UTF-8 text: rename the file, or its folder")
                continue
            metadata = dict(self._classes.columns(relative))
            for name in beside:
                try:
                    metadata |= self._beside(name)
                except SourceError as exc:
                    yield ImageRef(self._uri(name), failure=str(exc))
            yield ImageRef(uri, {**metadata, **self._row(relative)})

    def uris(self) -> Iterator[str]:
        """Yield the URI of every image, sorted by path; no file is opened."""
        return (self._uri(relative) for relative, _ in self._contents.images())

    def _row(self, relative: str) -> Mapping[str, object]:
        """Return the row of an image in the table of the closest folder that has one."""
        folder = relative
        while folder and self._tables:
            folder = folder.rpartition("/")[0]
            if folder in self._tables:
                return self._tables[folder].row(relative[len(folder) + 1 :] if folder else relative)
        return {}

    def _beside(self, name: str) -> Mapping[str, object]:
        try:
            data = read_bytes(self._contents.root / name, MAX_METADATA_BYTES)
        except OSError as exc:
            raise SourceError(one_line(exc)) from exc
        return sample_metadata(ending_of(name)[1:], data)

    def _uri(self, relative: str) -> str:
        # A name that is not UTF-8 cannot be stored: escaped, it is among the failures.
        return self._place(relative).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

    def _place(self, relative: str) -> str:
        return f"{self._contents.root.as_posix().rstrip('/')}/{relative}"


def _tables_of(contents: FolderContents, key: str | None) -> tuple[dict[str, PathTable], list[str]]:
    """Return the tables about images by the folder that they are about, and why others are none.

    A table in a sub-folder that names none of its images is passed over; the folder's own is refused then.
    """
    root, endings, notes = contents.root, image_extensions(), list[str]()
    if contents.table is not None:
        return {"": PathTable(contents.table, root, contents.named, endings, key)}, notes
    if key is not None and not contents.inner:
        raise SourceError(f"the metadata key {key!r} is given without a table: name it by --metadata")
    below: dict[str, list[str]] = {folder: [] for folder in contents.inner}
    for path, _ in contents.images() if below else ():
        folder = path.rpartition("/")[0]
        while folder and folder not in below:
            folder = folder.rpartition("/")[0]
        if folder:
            below[folder].append(path[len(folder) + 1 :])
    tables: dict[str, PathTable] = {}
    for folder, images in below.items():
        file = contents.inner[folder]
        try:
            tables[folder] = PathTable(file, root / folder, images, endings, key, name=f"{folder}/{file.name}")
        except SourceError as exc:
            contents.passed_over[file.suffix] += 1
            notes.append(f"a table is passed over: {exc}")
    return tables, notes


def _own_table(root: Path) -> Path | None:
    """Return the table that lies in a folder of images."""
    files = (root / name for name in TABLES)
    return next((file for file in files if file.is_file()), None)
