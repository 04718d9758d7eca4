"""An index as a FiftyOne dataset: a sample an image, with the neurons that it activates most, by their labels.

The serialized JSON that `fiftyone.Dataset.from_dir(DIR, dataset_type=fiftyone.types.FiftyOneDataset)` reads. A sample's
file is the original where the user named a place of originals and it lies there, else the thumbnail, written below
`data/`: the address comes from the index, which may come from a stranger.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from csp_index.images.files.containers import container_of
from csp_index.query.exports.rows import Exported, Subject, literal
from csp_index.store import catalog
from csp_index.store.image_metadata import image_records, parse_metadata
from csp_index.store.originals import ImageRoots

_COLUMNS = ["image_id", "uri", "width", "height", "split", "thumbnail", "metadata"]
_OWN = {"filepath", "tags", "metadata", "id", "_id", "media_type", "created_at", "last_modified_at"}
_OWN |= {"pk", "media_reference"}  # reserved by its database's library, and for media that lie elsewhere
_OURS = {"image_id", "uri", "neurons"}
_LARGEST = 2**63  # whole numbers from there on do not fit into its database


def write_fiftyone(subject: Subject, folder: Path, place: str) -> Exported:
    """Write samples and their thumbnails, which will lie at `place`, and count them and the neurons that they name.

    Images without a file and a thumbnail are left out.
    """
    (folder / "data").mkdir()
    firing = _firing(subject)
    roots, images, named = ImageRoots(subject.store), 0, set[str]()
    columns = _columns(record for _, record in image_records(subject.store, catalog.image_count(subject.store)))
    about = {
        "name": subject.store.uri.rstrip("/").rpartition("/")[2],
        "media_type": "image",
        "info": {"by": "csp_index"},
    }
    (folder / "metadata.json").write_text(json.dumps(about), encoding="utf-8")
    with open(folder / "samples.json", "w", encoding="utf-8") as file:
        file.write('{"samples": [')
        for row in _rows(subject):
            path = _file(row, roots, folder)
            if path is not None:
                neurons = firing.get(row["image_id"], [])
                file.write((",\n" if images else "\n") + json.dumps(_sample(row, path, neurons, columns)))
                named.update(neuron["neuron"] for neuron in neurons)
                images += 1
        file.write("\n]}\n")
    opening = f"fiftyone.Dataset.from_dir({literal(place)}, dataset_type=fiftyone.types.FiftyOneDataset)"
    return Exported("fiftyone", images, len(named), opening)


def _rows(subject: Subject) -> Iterator[dict[str, Any]]:
    for batch in subject.images(_COLUMNS):
        yield from batch.to_pylist()


def _firing(subject: Subject) -> dict[int, list[dict[str, Any]]]:
    """Return of each image the neurons that fire on it most, by their top images; where it ranks highest first."""
    found: dict[int, list[dict[str, Any]]] = {}
    for layer in subject.layers:
        for row in subject.neurons(layer).to_pylist():
            pairs = zip(row["top_images"] or (), row["top_activations"] or (), strict=True)
            for rank, (image, activation) in enumerate(pair for pair in pairs if pair[1] > 0):
                said = {"label": row["label"] or row["state"], "neuron": row["address"]}
                one = {"_cls": "Classification", "tags": []} | said | {"rank": rank, "activation": float(activation)}
                found.setdefault(image, []).append(one)
    for neurons in found.values():
        neurons.sort(key=lambda one: (one["rank"], one["neuron"]))
    return found


def _file(row: Mapping[str, Any], roots: ImageRoots, folder: Path) -> str | None:
    uri = str(row["uri"])
    if "://" not in uri and container_of(uri) is None and roots.allow(uri) and os.path.isfile(uri):
        return os.path.abspath(uri)
    if not row["thumbnail"]:
        return None
    path = f"data/{row['image_id']}.jpg"
    (folder / path).write_bytes(row["thumbnail"])
    return path


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the metadata as FiftyOne has it, where all samples agree: its field, of what, and whether a list."""

    field: str
    kind: type[bool] | type[int] | type[float] | type[str]
    listed: bool

    def of(self, value: object) -> Any:
        """Return a value of the column as the field takes it."""
        if not self.listed:
            return self._one(value)
        return [self._one(part) for part in (value if isinstance(value, list) else [value]) if part is not None]

    def _one(self, value: object) -> Any:
        if self.kind is str:
            return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return cast(Any, self.kind)(value)


def _columns(records: Iterable[Mapping[str, object]]) -> dict[str, _Column]:
    """Return the columns of all images: each has one field, which takes every value, numbers as text beside texts."""
    kinds, listed = dict[str, set[type]](), set[str]()
    for record in records:
        for name, value in record.items():
            own = kinds.setdefault(name, set())
            if isinstance(value, list):
                listed.add(name)
            own.update(_kind(part) for part in (value if isinstance(value, list) else [value]) if part is not None)
    fields, taken = dict[str, str](), set[str]()
    for name in kinds:
        taken.add(field := _free(_field(name), taken))
        fields[name] = field
    return {name: _Column(fields[name], _shared(own), name in listed) for name, own in kinds.items()}


def _kind(value: object) -> type:
    """Return the kind of a value: bool, int, float or str, in which everything else is spelled."""
    whole = isinstance(value, int) and abs(value) < _LARGEST
    return type(value) if whole or isinstance(value, float) else str


def _shared(kinds: set[type]) -> type[bool] | type[int] | type[float] | type[str]:
    if len(kinds) == 1:
        (kind,) = kinds
        return kind
    return float if kinds == {int, float} else str


def _sample(
    row: Mapping[str, Any], path: str, neurons: list[dict[str, Any]], columns: Mapping[str, _Column]
) -> dict[str, Any]:
    """Return an image as a sample; what its metadata do not know has no field.

    Nor has an empty list: read first, it would make a field of items of no kind, which its app cannot filter.
    """
    record = parse_metadata(row["metadata"], row["image_id"])
    values = {columns[name].field: columns[name].of(value) for name, value in record.items() if value is not None}
    said = {field: value for field, value in values.items() if value != []}
    known = {"image_id": row["image_id"], "uri": row["uri"]}
    tags = [row["split"]] if row["split"] else []
    firing = {"_cls": "Classifications", "classifications": neurons}
    return said | known | {"filepath": path, "tags": tags, "neurons": firing}


def _field(name: str) -> str:
    """Return a name that FiftyOne takes for a field: of letters, digits and _, and none of its own.

    >>> _field("eye color"), _field("metadata"), _field("_x.y"), _field("pk")
    ('eye_color', 'metadata_', 'x_y', 'pk_')
    """
    plain = re.sub(r"\W", "_", name).lstrip("_") or "column"
    return f"{plain}_" if plain in _OWN | _OURS else plain


def _free(field: str, taken: Set[str]) -> str:
    while field in taken:
        field += "_"
    return field
