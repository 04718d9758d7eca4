"""What the index records of labels that were imported: their names, layers and files. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from csp_index.labelling.methods import check_method
from csp_index.records import LayerKey
from csp_index.store import schema
from csp_index.store.stored_json import read_object
from csp_index.store.tables import Store

COMMAND: Final = "import-labels"  # of the runs that wrote imported labels
_SAID: Final = {"name", "digest", "file", "sha256", "layout", "weighted"}


@dataclass(frozen=True, slots=True)
class Import:
    """A finished import of a layer: its run, the hash under which its labels are stored, and where they come from.

    `about` has name, digest, file, sha256, layout and weighted; `bias` the bias of each neuron's weighted sum.
    """

    run_id: str
    settings_hash: str
    about: Mapping[str, Any]
    bias: Mapping[str, Any]


def imports_of(store: Store, layer: LayerKey) -> dict[str, Import]:
    """Return the newest import of a layer by name."""
    return {name: one for (key, name), one in _all_imports(store).items() if key == str(layer)}


def imported_names(store: Store) -> set[str]:
    """Return the names of all labels made elsewhere that the index keeps."""
    return {name for _, name in _all_imports(store)}


def check_stored_method(store: Store, name: str) -> str:
    """Return the name of a method, or of labels that were imported; LabelError lists the methods."""
    return name if name in imported_names(store) else check_method(name)


def _all_imports(store: Store) -> dict[tuple[str, str], Import]:
    columns = ["run_id", "settings_hash", "settings"]
    rows = store.read(schema.RUNS, columns, f"command = '{COMMAND}' AND state = 'done'").to_pylist()
    imports = {}
    for row in sorted(rows, key=lambda row: str(row["run_id"])):
        settings = read_object(row["settings"], schema.RUNS, "settings")
        about, bias = settings.get("imported"), settings.get("bias")
        if isinstance(about, dict) and about.keys() >= _SAID:
            one = Import(row["run_id"], row["settings_hash"], about, bias if isinstance(bias, dict) else {})
            imports[str(settings.get("layer")), str(about["name"])] = one
    return imports
