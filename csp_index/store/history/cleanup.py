"""What clean-up removes: old commits, and the versions, files and tables that no commit rests on any more."""

from __future__ import annotations

import os
from pathlib import Path

from csp_index.store.history.records import Record
from csp_index.store.layout import INDICES, LISTED
from csp_index.store.locations import LocalLocation
from csp_index.store.tables import Store


def clean_up(store: Store, keep_hours: float) -> dict[str, int]:
    """Remove what no commit needs that is newer than `keep_hours`, tagged or in use; return the bytes freed by table.

    Under the write lock, with nothing uncommitted. A commit is in use while a reader on the same machine has it open;
    in an object store, where nobody sees that, one replaced less than ten minutes ago counts as in use.
    """
    kept = store.log.drop_old(keep_hours)
    freed: dict[str, int] = {}
    for name in store.table_names():
        versions = {record.tables[name].version for record in kept if name in record.tables}
        with store.upkeep(name) as dataset:
            gone = [row["version"] for row in dataset.versions() if row["version"] not in versions]
            removed = dataset.cleanup_old_versions(versions=gone).bytes_removed if gone else 0
        freed[name] = int(removed) + _remove_orphans(store, name, kept)
    return freed


def _remove_orphans(store: Store, name: str, kept: list[Record]) -> int:
    """Remove files that killed commands left in a table's folders; return their bytes."""
    if not isinstance(store.location, LocalLocation):
        return 0
    lists = {record.tables[name].files for record in kept if name in record.tables}
    named = {file for digest in lists for file in store.log.files(digest)}
    root, freed = Path(store.location.address) / f"{name}.lance", 0
    for folder in LISTED:
        for path in sorted((root / folder).rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                if folder == INDICES and not any(path.iterdir()):
                    path.rmdir()
            elif str(path.relative_to(root)) not in named:
                freed += os.lstat(path).st_size
                path.unlink()
    return freed
